"""The command line. Heavy imports stay inside the commands, so that `rs-seg --help` answers at once."""

from __future__ import annotations

import gc
import signal
import sys
import warnings
from typing import NoReturn

import typer

from rs_pipeline.cli import ablate, adapt, archive, catalog, clean, compare, demo, deploy, evaluate, models, run, status, train, view
from rs_pipeline.errors import RsSegError

_INTERRUPTED = 130
_INTERRUPTION = "interrupted; what is finished is kept, the same command goes on from there"

app = typer.Typer(
    name="rs-seg",
    help="Area of interest and class names in, georeferenced class layers out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run_command)
app.command("compare")(compare.compare_command)
app.command("view")(view.view_command)
app.command("status")(status.status_command)
app.command("clean")(clean.clean_command)
app.add_typer(catalog.app, name="catalog", help="The archive: add, list and validate scenes.")
app.add_typer(archive.app, name="archive", help="Archives: each new or changed item segmented, once.")
app.command("deploy")(deploy.deploy_command)
app.add_typer(models.app, name="models", help="The segmenters that are installed.")
app.command("evaluate")(evaluate.evaluate_command)
app.command("train")(train.train_command)
app.command("adapt")(adapt.adapt_command)
app.command("ablate")(ablate.ablate_command)
app.command("demo")(demo.demo_command)


def main() -> None:
    """Entry point: what the user can mend is one line on stderr and an exit code."""
    # GDAL, torch and distributed warn about their own internals; what the user must know is said by the run's notes.
    warnings.simplefilter("ignore")
    # Libraries bring a million objects that stay: looking through them for garbage at every step took a quarter of the start.
    gc.set_threshold(100_000)
    # `kill` and container stops tidy up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = typer.main.get_command(app)(standalone_mode=False)
    except RsSegError as error:
        _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        _fail(error.format_message(), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _fail(_interruption(), _INTERRUPTED)
    else:
        if code == _INTERRUPTED:  # typer's own way to say it
            _fail(_interruption(), _INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _interruption() -> str:
    return evaluate.INTERRUPTION if sys.argv[1:2] == ["evaluate"] else _INTERRUPTION


def _fail(message: str, code: int) -> NoReturn:
    if message:  # none where the help was asked for, or is the answer
        print(f"rs-seg: {message}", file=sys.stderr)  # noqa: T201 - the one line that is promised
    sys.exit(code)
