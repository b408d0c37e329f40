"""What a run's report says in words, tables and bars: pieces of HTML, every text in them escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rs_pipeline.classes import NOT_OBSERVED, SCORE_MAX

_BARS = 20
_SHOWN_FAILURES = 10
_BAR_PX, _CHART_PX = 12, 80


def text(value: Any) -> str:
    """A value as HTML that shows it."""
    return escape(str(value))


def sections(summary: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], scores: NDArray[np.int64]) -> dict[str, str]:
    """The pieces that `report.html` names.

    Parameters
    ----------
    layers: as `shapes.pack_layers` gives them.
    scores: (classes, 256) pixels by score, as `histogram.count_scores` gives them.
    """
    classes = summary["classes"]
    return {
        "heading": text(", ".join(c["name"] for c in classes)),
        "lead": _lead(summary),
        "left_out": _left_out(layers),
        "classes": _class_table(summary),
        "histograms": "".join(_histogram(c, counts) for c, counts in zip(classes, scores, strict=True)),
        "scenes": _table(("scene", "date", "pixels", "CRS"), (_scene(s) for s in summary["scenes"])),
        "refinement": _refinement(summary),
        "notes": _notes(summary),
        "timings": _table(("stage", "seconds"), ((name, f"{seconds:.1f}") for name, seconds in summary["seconds"].items())),
        "run": _table(("", ""), _run(summary)),
        "settings": text(json.dumps(summary["settings"], indent=2, ensure_ascii=False)),
        "finished": text(summary["finished"]),
    }


def _lead(summary: Mapping[str, Any]) -> str:
    pixels, failed = summary["pixels"], len(summary["tiles"]["failed"])
    unseen = pixels["not_observed"] / max(1, pixels["aoi"])
    area = pixels["aoi"] * summary["plan"]["gsd_m"] ** 2 / 1e4
    said = f"{area:,.1f} ha at {summary['plan']['gsd_m']:g} m per pixel; {unseen:.1%} of it not observed."
    return text(said + (f" {failed} of {summary['tiles']['planned']} tiles failed: they are not observed." if failed else ""))


def _left_out(layers: Sequence[Mapping[str, Any]]) -> str:
    said = [
        f"{layer['total'] - len(layer['shapes']):,} of {layer['total']:,} polygons of {layer['name']}, the smallest, are not on this map."
        for layer in layers
        if layer["total"] > len(layer["shapes"])
    ]
    tolerance = max((layer["tolerance_m"] for layer in layers), default=0.0)
    said.append(f"Outlines are simplified by up to {tolerance:.2g} m. All polygons, exact, are in layers.gpkg.")
    return text(" ".join(said))


def _class_table(summary: Mapping[str, Any]) -> str:
    observed = max(1, summary["pixels"]["observed"])
    rows = [
        (
            c["name"],
            f"{c['polygons']:,}",
            f"{c['area_m2'] / 1e4:,.2f}",
            f"{c['pixels'] / observed:.2%}",
            f"{c['score_mean']:.2f}" if c["score_mean"] is not None else "-",
            f"{c['threshold']:g}",
            ", ".join(c["prompts"]),
        )
        for c in summary["classes"]
    ]
    return _table(("class", "polygons", "area, ha", "of what was observed", "mean score", "threshold", "prompts"), rows)


def _histogram(each: Mapping[str, Any], counts: NDArray[np.int64]) -> str:
    """Bars over the scores 0…1, the logarithm of their pixels high, and the threshold as a line."""
    seen = counts[:NOT_OBSERVED]
    edges = np.minimum(np.arange(SCORE_MAX + 1) * _BARS // SCORE_MAX, _BARS - 1)
    sums = np.bincount(edges, seen, minlength=_BARS)
    heights = np.log1p(sums) / max(np.log1p(sums.max()), 1e-9) * _CHART_PX
    colour = "#{:02x}{:02x}{:02x}".format(*each["colour"])
    bars = "".join(
        f'<rect x="{i * _BAR_PX}" y="{_CHART_PX - height:.1f}" width="{_BAR_PX - 1}" height="{height:.1f}" fill="{colour}"/>'
        for i, height in enumerate(heights)
    )
    at, width = each["threshold"] * _BARS * _BAR_PX, _BARS * _BAR_PX
    above = seen[int(np.ceil(each["threshold"] * SCORE_MAX)) :].sum() / max(1, seen.sum())
    said = text(f"{each['name']}: {above:.1%} of the pixels score {each['threshold']:g}, the threshold, or more")
    return (
        f'<figure><svg viewBox="0 -2 {width} {_CHART_PX + 16}" width="{width}" role="img" aria-label="{said}">{bars}'
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="-2" y2="{_CHART_PX}" stroke="currentColor" stroke-dasharray="3 2"/>'
        f'<text x="0" y="{_CHART_PX + 12}">0</text><text x="{width}" y="{_CHART_PX + 12}" text-anchor="end">1</text></svg>'
        f"<figcaption>{said}</figcaption></figure>"
    )


def _scene(scene: Mapping[str, Any]) -> tuple[str, ...]:
    size = f"{scene['size_px'][0]} × {scene['size_px'][1]} of {scene['gsd_m']:g} m"
    return scene["id"], scene["datetime"] or "-", size, scene["crs"]


def _refinement(summary: Mapping[str, Any]) -> str:
    refine = summary["settings"]["refine"]
    if not refine["steps"]:
        return f"<p>Preset {text(refine['preset'])}: none.</p>"
    rows = ((step, ", ".join(f"{key} {value}" for key, value in refine[step].items())) for step in refine["steps"])
    return f"<p>Preset {text(refine['preset'])}, in this order:</p>{_table(('step', 'settings'), rows)}"


def _notes(summary: Mapping[str, Any]) -> str:
    failed = summary["tiles"]["failed"]
    notes = [*summary["notes"], *(f"tile {tile['index']} failed and is not observed: {tile['error']}" for tile in failed[:_SHOWN_FAILURES])]
    if len(failed) > _SHOWN_FAILURES:
        notes.append(f"{len(failed) - _SHOWN_FAILURES:,} more tiles failed: run.json lists them")
    return "<ul>" + "".join(f"<li>{text(note)}</li>" for note in notes) + "</ul>" if notes else "<p>None.</p>"


def _run(summary: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    tiles, model, grid = summary["tiles"], summary["model"], summary["plan"]["grid"]
    yield "state", summary["status"]
    yield "model", f"{model['name']}, weights {model['weights_sha256'][:12]}, on {model['device']}"
    yield "grid", f"{grid['height']} × {grid['width']} pixels of {summary['plan']['gsd_m']:g} m in {grid['crs']}"
    counts = f"{tiles['computed']} computed, {tiles['reused']} reused, {tiles['empty']} without data, {len(tiles['failed'])} failed"
    yield "tiles", f"{tiles['planned']}: {counts}"
    yield "workers", f"{summary['workers']['kind']}, {summary['workers']['count']}"
    yield "run key", summary["run_key"]
    yield "versions", ", ".join(f"{name} {version}" for name, version in {"rs-seg": summary["version"], **summary["versions"]}.items())


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first cell of a row is its heading; a table without column headings has rows of two."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads) if any(heads) else ""
    body = "".join(f'<tr><th scope="row">{text(row[0])}</th>{"".join(f"<td>{text(cell)}</td>" for cell in row[1:])}</tr>' for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
