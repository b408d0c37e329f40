"""The command line. Heavy imports stay inside the commands, so that `rs-seg --help` answers at once."""

from __future__ import annotations

import sys
import warnings

import typer

from rs_pipeline.cli import catalog, demo, models, run, train
from rs_pipeline.errors import RsSegError

app = typer.Typer(
    name="rs-seg",
    help="Area of interest and class names in, georeferenced class layers out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run_command)
app.add_typer(catalog.app, name="catalog", help="The archive: add, list and validate scenes.")
app.add_typer(models.app, name="models", help="The segmenters that are installed.")
app.command("train")(train.train_command)
app.command("demo")(demo.demo_command)


def main() -> None:
    """Entry point: an `RsSegError` is one line on stderr and its exit code."""
    # GDAL, torch and distributed warn about their own internals; what the user must know is said by the run's notes.
    warnings.simplefilter("ignore")
    try:
        app()
    except RsSegError as error:
        print(f"rs-seg: {error}", file=sys.stderr)  # noqa: T201 - the one line that is promised
        sys.exit(error.exit_code)
