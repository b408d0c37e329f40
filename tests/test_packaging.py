"""The wheel holds what an installed `rs-seg` needs outside a checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site", wheel.stat().st_size


def test_the_wheel_has_the_packages_the_configuration_and_the_weights_and_no_more(unpacked):
    site, size = unpacked
    assert {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")} == {"rs_pipeline", "rs_model", "rs_flows"}
    assert (site / "rs_pipeline" / "configs" / "run.yaml").is_file()
    assert (site / "rs_model" / "phrases.yaml").is_file()
    report = {p.name for p in (site / "rs_pipeline" / "report").iterdir()}
    assert {"report.html", "report.css", "report.js", "leaflet_licence.txt"} <= report
    for model in ("rs-tiny", "rs-clip"):
        assert (site / "rs_model" / "weights" / model / "model.safetensors").is_file()
    assert size < 14e6


def test_it_runs_outside_the_checkout(unpacked, make_scene, tmp_path):
    site, _ = unpacked
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "tests")])}
    command = [sys.executable, "-m", "rs_pipeline", "run", "--source", str(make_scene()), "--classes", "road"]
    flags = ["--model", "fake_segmenter:pointwise", "--out", str(tmp_path / "o" / "run"), "--json"]
    done = subprocess.run([*command, *flags], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == "complete"
    assert (tmp_path / "o" / "run" / "report.html").is_file()
    where = "import rs_pipeline.config as c; print(c.configs_folder())"
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(site / "rs_pipeline" / "configs")
