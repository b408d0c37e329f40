"""The virtual environment that the peers live in, apart from the project's; made on first use from requirements.txt."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
_STATE = "peers.json"


def peers_python(folder: Path) -> tuple[Path, dict[str, str]]:
    """The interpreter of the peers, and what could not be installed: the line of requirements.txt and why."""
    python, state = folder / "bin" / "python", folder / _STATE
    lines = [line.strip() for line in REQUIREMENTS.read_text().splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#")]
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    if state.is_file():
        known = json.loads(state.read_text())
        if known["requirements"] == digest:
            return python, dict(known["failed"])
    print(f"installing the peers into {folder.name} (several GB, once) …", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    failed = {} if _install(python, wanted) is None else _one_by_one(python, wanted)
    state.write_text(json.dumps({"requirements": digest, "failed": failed}))
    return python, failed


def _one_by_one(python: Path, wanted: list[str]) -> dict[str, str]:
    """Where not all can live together, those that can."""
    tried = {line: _install(python, [line]) for line in wanted}
    return {line: why for line, why in tried.items() if why is not None}


def _install(python: Path, packages: list[str]) -> str | None:
    """None, or the last line of what pip said."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
    return None if done.returncode == 0 else said[-1][:300]
