"""`rs-seg evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rs_pipeline.errors import UsageError

if TYPE_CHECKING:
    from rs_pipeline.config import RunSettings
    from rs_pipeline.layouts import Layout

_PARTIAL = 3
INTERRUPTION = "interrupted; nothing is kept of an evaluation, the same command starts again"


def evaluate_command(
    data: Annotated[Path, typer.Option(help="Folder of the data set, or of a part of it.")],
    layout: Annotated[str, typer.Option(help="File of configs/datasets/: dubai, loveda, potsdam, pairs …")],
    palette: Annotated[Path | None, typer.Option(help="What the masks of `pairs` mean. Default: palette.yaml in each folder.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the layout. Default: every image of the folder.")] = None,
    classes: Annotated[str | None, typer.Option(help="Class names of the layout, separated by commas. Default: all.")] = None,
    model: Annotated[str | None, typer.Option(help="Installed model, folder of weights, or package.module:callable.")] = None,
    refine: Annotated[str | None, typer.Option(help="Refinement preset of configs/refine/, or a YAML file. Default: recommended.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="Presets, separated by commas: each is evaluated, and held against the first.")
    ] = None,
    tune_on: Annotated[Path | None, typer.Option(help="Folder of the same layout to choose the classes' thresholds on.")] = None,
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel to segment at. Default: each image's own.")] = None,
    cluster: Annotated[str | None, typer.Option(help="in-process, local, cuda, or tcp://HOST:PORT of a Dask scheduler.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many images only, spread evenly over each folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")] = False,
    config: Annotated[Path | None, typer.Option(help="YAML of settings; configs/run.yaml shows all of them.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for any setting; may be repeated.")] = None,
) -> None:
    """Segment the images of a labelled data set as `run` does, and score the result against the masks.

    Exit codes: 0 done, 1 error, 2 usage, 3 done but some tiles failed and are not observed.
    """
    from rs_pipeline.cli.progress import TerminalReporter
    from rs_pipeline.config import load_settings
    from rs_pipeline.dataset_checks import check_apart, check_pairs
    from rs_pipeline.datasets import find_pairs
    from rs_pipeline.evaluate import check_model, evaluate
    from rs_pipeline.layouts import class_set, load_layout
    from rs_pipeline.scorecard import describe
    from rs_pipeline.tuning import tune

    presets = _presets(refine, compare)
    flags = {
        "classes": tuple(classes.split(",")) if classes is not None else None,
        "model": model,
        "gsd_m": gsd,
        "workers.cluster": cluster,
    }
    settings = {name: load_settings(config, flags | {"refine.preset": preset}, sets or ()) for name, preset in presets.items()}
    _check_rows(settings, compare)
    known = load_layout(layout, data, palette)
    dataset = find_pairs(known, data, split, limit)
    first = next(iter(settings.values()))  # presets differ in refinements only
    wanted = class_set(known, first.classes, first.vocabulary if first.vocabulary != "default" else None)
    check_model(settings, wanted)
    tuning = None
    if tune_on is not None:
        _check_free_thresholds(settings)
        theirs = load_layout(layout, tune_on, palette)
        _check_same_classes(known, theirs)
        tuning = find_pairs(theirs, tune_on, limit=limit)
        check_pairs(tuning, first.bands)
    check_pairs(dataset, first.bands)
    if tuning is not None:
        check_apart(tuning, dataset)
    evaluations = {}
    with TerminalReporter() as reporter:
        for name, each in settings.items():
            tuned = wanted if tuning is None else tune(tuning, each, wanted, reporter)
            evaluations[name] = evaluate(dataset, each, tuned, reporter)
    facts = {"layout": layout, "split": split, "tuned_on": str(tune_on) if tune_on is not None else None}
    report = describe(dataset, facts, evaluations)
    typer.echo(json.dumps(report, ensure_ascii=False, allow_nan=False)) if as_json else _print(report)
    if any(image.failed for evaluation in evaluations.values() for image in evaluation.images):
        raise typer.Exit(_PARTIAL)


def _presets(refine: str | None, compare: str | None) -> dict[str, str | None]:
    """Name of a row to the preset; None is the configured one."""
    if compare is None:
        return {refine or "": refine}
    if refine is not None:
        raise UsageError("--refine or --compare", "both", "Name all presets in --compare.")
    names = [name.strip() for name in compare.split(",")]
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise UsageError("two or more presets, each once", f"--compare {compare!r}", "Give --compare none,smooth for example.")
    return {name: name for name in names}


def _check_rows(settings: dict[str, RunSettings], compare: str | None) -> None:
    """`--set refine.preset=…` comes last, and would make all rows one."""
    for name, each in settings.items():
        if compare is not None and each.refine.preset != name:
            came = f"refine.preset={each.refine.preset} for the row {name}"
            raise UsageError("presets in --compare only", came, "Leave out --set refine.preset.")


def _check_same_classes(data: Layout, tuning: Layout) -> None:
    if set(data.names) != set(tuning.names):
        fix = "Mend the palettes, or give one for both with --palette."
        raise UsageError(f"the classes of --data ({', '.join(data.names)}) in --tune-on", ", ".join(tuning.names), fix)


def _check_free_thresholds(settings: dict[str, RunSettings]) -> None:
    for each in settings.values():
        if each.scoring.threshold is not None:
            came = f"scoring.threshold={each.scoring.threshold:g}"
            raise UsageError("thresholds that --tune-on can choose", came, "Leave out one of the two.")


def _print(report: dict[str, Any]) -> None:
    presets = report.get("presets", {"": report})
    names = [c["name"] for c in report["classes"]]
    # Classes and folders may be called [so] or :so:, which is no markup.
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(console.width, 24 + 12 * (len(names) + 1))  # nothing is cut: it may be read by a program
    if len(presets) > 1:
        console.print(_comparison(presets))
    for name, figures in presets.items():
        if name:
            console.print(f"\npreset {name}")
        console.print(_classes(figures, names))
        console.print(_confusion(figures["confusion"]))
    unseen = ", ".join(str(figures["not_observed_px"]) for figures in presets.values())
    failed = ", ".join(str(len(figures["failed_tiles"])) for figures in presets.values())
    console.print(f"{report['images']} images of {report['data']}; {unseen} px not observed; {failed} tiles failed", soft_wrap=True)


def _comparison(presets: dict[str, dict[str, Any]]) -> Table:
    table = Table("preset", "mIoU", "95 %", "difference", "95 %", box=None, header_style="bold")
    for name, figures in presets.items():
        less = figures["difference"]
        table.add_row(
            name, _text(figures["miou"]), _range(figures["miou_interval"]), _text(less["miou"], "+.3f"), _range(less["interval"], "+.3f")
        )
    return table


def _classes(figures: dict[str, Any], names: list[str]) -> Table:
    table = Table("class", "IoU", "boundary F1", "threshold", box=None, header_style="bold")
    for name in names:
        scores = figures["iou"][name], figures["boundary_f1"]["classes"][name], figures["thresholds"][name]
        table.add_row(name, *(_text(score) for score in scores))
    table.add_row("mean", f"{_text(figures['miou'])}  {_range(figures['miou_interval'])}", _text(figures["boundary_f1"]["mean"]))
    table.add_row("background", _text(figures["iou_background"]))
    table.add_row("pixel accuracy", _text(figures["pixel_accuracy"]))
    return table


def _confusion(matrix: dict[str, Any]) -> Table:
    """In pixels: row truth, column prediction."""
    table = Table("truth \\ predicted", *matrix["labels"], box=None, header_style="bold")
    for label, row in zip(matrix["labels"], matrix["counts"], strict=True):
        table.add_row(label, *(f"{count:,}" for count in row))
    return table


def _text(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _range(bounds: list[float] | None, form: str = ".3f") -> str:
    return "" if bounds is None else f"{bounds[0]:{form}}…{bounds[1]:{form}}"
