"""`rs-seg view`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

_PORT = 8787


def view_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes any that is free.")] = _PORT,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, open nothing.")] = False,
) -> None:
    """Show a run in the browser: its report, with tiles of scenes and labels down to every pixel. For this machine only; Ctrl-C ends it."""
    from rs_pipeline.view import RunServer

    # Being interrupted is how it ends well.
    with RunServer(folder, port) as server, contextlib.suppress(KeyboardInterrupt):
        typer.echo(server.url)
        if not no_browser:
            import webbrowser

            webbrowser.open(server.url)
        server.serve_forever()
