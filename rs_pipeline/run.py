"""The whole pipeline in plain Python: plan, infer, stitch, vectorize, publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from rs_pipeline import manifest
from rs_pipeline.classes import NOT_OBSERVED
from rs_pipeline.cog import BlockRaster
from rs_pipeline.config import RunSettings
from rs_pipeline.errors import OutputError, StoreError
from rs_pipeline.groups import find_work, held
from rs_pipeline.inference import check_unchanged
from rs_pipeline.layers import LayerSummary
from rs_pipeline.line_layers import LINES
from rs_pipeline.plan import RunPlan, plan_run
from rs_pipeline.products import REPORT, amend, is_whole, sizes_of, staged, write_manifest
from rs_pipeline.raster_looks import write_looks
from rs_pipeline.records import RunRecord
from rs_pipeline.reporting import Reporter, Silent
from rs_pipeline.run_folder import read_run
from rs_pipeline.square_layers import SQUARES
from rs_pipeline.stages import Inference, Stitched, infer_tiles, square_objects, stitch, trace_lines, vectorize
from rs_pipeline.unfamiliar import describe_not_found
from rs_pipeline.vector_formats import file_names
from rs_pipeline.workers import open_client

if TYPE_CHECKING:
    from distributed import Client

PRODUCTS = ("layers.gpkg", "labels.tif", "labels.tif.aux.xml", "labels.qml", "scores.tif")
"""Files of every run, beside its manifest."""
_NO_REPORT = f"no {REPORT}: "


def run(settings: RunSettings, reporter: Reporter | None = None) -> dict[str, Any]:
    """Area of interest and class names in, georeferenced class layers out.

    Returns
    -------
    The content of the run folder's `run.json`.

    Raises
    ------
    RsSegError: nothing was published; tiles that were computed stay in the store, and running again goes on from there.
    """
    return execute(plan_run(settings), reporter or Silent())


def _directly(_: str, stage: Callable[[], Any]) -> Any:
    return stage()


def execute(plan: RunPlan, reporter: Reporter, do: Callable[[str, Callable[[], Any]], Any] = _directly) -> dict[str, Any]:
    """Do what was planned. A run that is complete already is not done again.

    Parameters
    ----------
    do: calls a stage, given its name; for those who try again, measure, or show what goes on.
    """
    for note in plan.notes:
        reporter.note(note)
    if is_complete(plan) and plan.existing is not None:
        reporter.note(f"{plan.out} holds this very run already")
        for note in plan.existing["notes"]:
            if note not in plan.notes and not note.startswith(_NO_REPORT):
                reporter.note(note)
        return _with_report(plan, {**plan.existing, "out": str(plan.out)}, reporter)  # it may have been moved
    with Execution(plan, reporter) as execution:
        do("infer", execution.infer)
        do("stitch", execution.stitch)
        do("vectorize", execution.vectorize)
        summary: dict[str, Any] = do("publish", execution.publish)
    return summary


def is_complete(plan: RunPlan) -> bool:
    """True where the run folder holds this very run with no failed tile."""
    done = plan.existing
    if done is None or done["tiles"]["failed"]:
        return False
    try:
        read_run(plan.out)
    except OutputError:  # who reads it back is told to run again
        return False
    return is_whole(plan.out, {**done, "files": [name for name in done["files"] if name != REPORT]})  # that is drawn again alone


def _with_report(plan: RunPlan, done: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """A run that is in its folder, with the report that it was not asked for then, could not draw, or lost."""
    if (plan.out / REPORT).is_file() or not (plan.settings.report or REPORT in done["files"]):
        return done
    files = [name for name in done["files"] if name != REPORT]
    summary = {**done, "files": files, "notes": [note for note in done["notes"] if not note.startswith(_NO_REPORT)]}
    page, note, clock = None, None, _Clock()
    if plan.settings.report:
        summary["settings"] = {**done["settings"], "report": True}
        with clock("report"):
            page, note = _draw_report(plan, plan.out, summary)
    if note is not None:
        reporter.note(note)
    if page is not None:
        summary |= {"files": sorted([*files, REPORT]), "seconds": {**done["seconds"], **clock.seconds}}
    elif REPORT not in done["files"]:
        return done
    try:
        return amend(plan.out, done, summary if page is not None else {**done, "files": files}, page)
    except OutputError as error:
        reporter.note(str(error))
        return {**done, "files": files}


def _draw_report(plan: RunPlan, folder: Path, summary: dict[str, Any]) -> tuple[str, None] | tuple[None, str]:
    """The page, or what was in the way of it: a run is not lost for want of one."""
    # It brings libraries that runs without a report do not need.
    from rs_pipeline.report import draw_report

    try:
        return draw_report(plan, folder, summary), None
    except Exception as error:  # noqa: BLE001 - the layers are done; whatever is wrong with a picture of them is only noted
        return None, f"{_NO_REPORT}{' '.join(str(error).split())}"


class Execution:
    """A planned run under way: a context, and in it the stages, in their order. A stage that raised may be called again.

    Raises
    ------
    RsSegError: whatever keeps a stage from its end; leaving after one publishes nothing.
    """

    def __init__(self, plan: RunPlan, reporter: Reporter) -> None:
        self.plan = replace(plan, work=find_work(plan.job))
        self._reporter, self._clock = reporter, _Clock()
        self._held, self._folder = ExitStack(), plan.out
        self._scratch: ExitStack
        self._record: RunRecord
        self._tiles: Inference
        self._stitched: Stitched
        self._layers: dict[str, LayerSummary]
        self._finished: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.__exit__(kind, error, trace)

    def infer(self) -> None:
        """Compute the tiles that are not in the store yet."""
        # Workers first: a scheduler that does not answer must leave nothing behind.
        # They go with their tiles: the memory of their models is for what follows.
        with _workers(self.plan) as client:
            if self._folder == self.plan.out:
                self._open()
            with self._clock("infer"):
                self._tiles = infer_tiles(self.plan, client, self._reporter)

    def _open(self) -> None:
        """Hold store and folder, until this context ends."""
        plan, work = self.plan, self.plan.work
        if work.todo is not None and (reused := [name for name, origin in work.origins.items() if origin == "reused"]):
            self._reporter.note(f"the store has {', '.join(reused)} already: only {', '.join(work.todo.classes.names)} to compute")
        with ExitStack() as opened:
            opened.enter_context(held(work))
            replaces = plan.existing is not None or plan.settings.overwrite
            folder = opened.enter_context(staged(plan.out, replace=replaces))
            self._scratch = opened.enter_context(ExitStack())
            self._record = RunRecord.of(work, plan.run_key, str(plan.out))
            self._record.write(plan.job.base)
            self._held, self._folder = opened.pop_all(), folder

    def stitch(self) -> None:
        """Blend and label the tiles."""
        self._scratch.close()
        with self._clock("stitch"):
            self._stitched = stitch(self.plan, self._folder, self._scratch, self._reporter)

    def vectorize(self) -> None:
        """Trace classes and coverage."""
        (self._folder / "layers.gpkg").unlink(missing_ok=True)  # of a try before
        with self._clock("vectorize"):
            self._layers = vectorize(self.plan, self._stitched, self._folder, self._reporter)
            trace_lines(self.plan, self._stitched, self._folder, self._reporter)
            square_objects(self.plan, self._stitched, self._folder, self._reporter)

    def publish(self) -> dict[str, Any]:
        """Finish the rasters and put the folder under its name.

        Returns
        -------
        The content of its `run.json`.
        """
        plan, stitched = self.plan, self._stitched
        if not self._folder.is_dir():
            raise OutputError("the folder this run was writing", f"nothing at {self._folder}", "Run again: finished tiles are kept.")
        check_unchanged(plan.job)
        with self._clock("write"):
            self._finish(stitched.labels, "labels.tif", "mode")
            self._finish(stitched.scores, "scores.tif", "average")
            write_looks(self._folder / "labels.tif", plan.job.classes)
        self._scratch.close()
        check_unchanged(plan.job)
        notes = describe_not_found(plan.info, plan.job.classes, stitched.highest) if stitched.pixels[:NOT_OBSERVED].any() else []
        for note in notes:
            self._reporter.note(note)
        outcome = manifest.Outcome(asdict(self._tiles), stitched.pixels, self._layers, self._clock.seconds, self._files(), notes)
        summary = manifest.describe_run(plan, outcome)
        if plan.settings.report:
            self._add_report(summary)
        summary["bytes"] = sizes_of(self._folder, summary["files"])
        write_manifest(self._folder, summary)
        for raster in (stitched.labels, stitched.scores, stitched.details):
            raster.path.unlink(missing_ok=True)
        self._held.close()
        with suppress(StoreError):  # the run is there, whatever its store thinks of it
            self._record.ended().write(plan.job.base)
        return summary

    def _files(self) -> list[str]:
        """Names of what was made."""
        beside = [LINES, SQUARES, *file_names(self.plan.settings.vectors.formats, self.plan.job.classes.names)]
        return [*PRODUCTS, *(name for name in beside if (self._folder / name).is_file())]

    def _finish(self, raster: BlockRaster, name: str, overviews: Literal["mode", "average"]) -> None:
        """Each once: who tries again goes on with the next."""
        if name not in self._finished:
            (self._folder / name).unlink(missing_ok=True)
            raster.finish(self._folder / name, overviews)
            self._finished.add(name)

    def _add_report(self, summary: dict[str, Any]) -> None:
        """Write `report.html` and list it, or say why there is none; a disk that is full is as for all products."""
        from rs_pipeline.report import write_report

        with self._clock("report"):
            page, note = _draw_report(self.plan, self._folder, summary)
        if page is not None:
            write_report(self._folder, page)
            summary["files"] = sorted([*summary["files"], REPORT])
        if note is not None:
            summary["notes"].append(note)
            self._reporter.note(note)


@contextmanager
def _workers(plan: RunPlan) -> Iterator[Client | None]:
    """A client of the run's workers; None where this process is the worker, or the store has every tile already."""
    if not plan.work.left:
        yield None
        return
    with open_client(plan.crew, plan.settings.workers) as client:
        yield client


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)
