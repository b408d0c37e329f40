"""The demo scene, a run of it, and its score, through the command line."""

import json

import numpy as np
import pytest
import rasterio
from test_cli import rs_seg

from rs_pipeline.demo import truth_labels
from rs_pipeline.errors import OutputError
from rs_pipeline.evaluate import score_run
from rs_pipeline.grid import Grid


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """(catalog, run folder) of a small demo scene with the fake segmenter."""
    from typer.testing import CliRunner

    from rs_pipeline.cli import app

    folder = tmp_path_factory.mktemp("demo")
    catalog = folder / "data_catalog" / "catalog.json"
    assert CliRunner().invoke(app, ["demo", "--catalog", str(catalog), "--size-px", "256"]).exit_code == 0
    where = ["--aoi", str(catalog.parent / "demo" / "region.geojson"), "--set", f"catalog={catalog}"]
    what = ["--classes", "road,water", "--model", "fake_segmenter:pointwise", "--out", str(folder / "run")]
    assert CliRunner().invoke(app, ["run", *where, *what]).exit_code == 0
    return catalog, folder / "run"


def test_the_demo_scene_is_found_through_the_catalog(demo_run):
    _, run = demo_run
    manifest = json.loads((run / "run.json").read_text())
    assert [s["id"] for s in manifest["scenes"]] == ["scene"]
    assert manifest["scenes"][0]["datetime"].startswith("2026-06-01")
    assert 0.4 < manifest["pixels"]["aoi"] / 256**2 < 0.8


def test_scores_are_those_counted_pixel_by_pixel(demo_run):
    catalog, run = demo_run
    scores = score_run(run, catalog.parent / "demo" / "truth.gpkg")
    grid = Grid.from_dict(json.loads((run / "run.json").read_text())["plan"]["grid"])
    with rasterio.open(run / "labels.tif") as file:
        labels = file.read(1)
    assert set(scores) == {"road", "water"}
    for value, name in ((1, "road"), (2, "water")):
        real = truth_labels(catalog.parent / "demo" / "truth.gpkg", [name], grid) == 1
        found, seen = labels == value, labels != 255
        both, either = (real & found & seen).sum(), ((real | found) & seen).sum()
        assert scores[name]["iou"] == pytest.approx(both / either, nan_ok=True)
        assert scores[name]["recall"] == pytest.approx(both / (real & seen).sum(), nan_ok=True)
        assert scores[name]["precision"] == pytest.approx(np.divide(both, (found & seen).sum()), nan_ok=True)


def test_the_command_prints_the_scores(demo_run, capsys):
    catalog, run = demo_run
    code, out, _ = rs_seg(capsys, "demo", "--catalog", catalog, "--score", run)
    assert code == 0
    assert "IoU" in out
    assert f"{score_run(run, catalog.parent / 'demo' / 'truth.gpkg')['road']['iou']:.3f}" in out


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(OutputError, match=r"run\.json"):
        score_run(tmp_path, tmp_path / "truth.gpkg")
    assert rs_seg(capsys, "demo", "--score", tmp_path)[0] == 1


def test_a_missing_truth_is_told_in_one_line(demo_run, capsys, tmp_path):
    code, _, err = rs_seg(capsys, "demo", "--score", demo_run[1], "--catalog", tmp_path / "catalog.json")
    assert (code, "Make it with `rs-seg demo`" in err, len(err.strip().splitlines())) == (1, True, 1)
