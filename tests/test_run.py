"""The whole pipeline with a fake segmenter, held against computations of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import random_pixels

from rs_pipeline.errors import CatalogError, OutputError, RasterError, SegmenterError, StoreError
from rs_pipeline.reporting import Silent
from rs_pipeline.run import PRODUCTS, run

UNSEEN = 255


def labels_of(folder):
    with rasterio.open(Path(folder) / "labels.tif") as file:
        return file.read(1)


def scores_of(folder):
    with rasterio.open(Path(folder) / "scores.tif") as file:
        return file.read()


def stretched(pixels, valid=None):
    """What the fake segmenter sees of the whole scene, computed without the pipeline."""
    valid = np.ones(pixels.shape[1:], bool) if valid is None else valid
    low, high = np.percentile(pixels[:, valid], (2, 98), axis=1)
    return np.clip((pixels - low[:, None, None]) / (high - low)[:, None, None], 0, 1)


def finished_tiles(out):
    """Files of the store beside a run folder; nothing else there is looked at, since it comes and goes."""
    return list((Path(out).parent / ".tiles").glob("*/r*/t*.npy"))


def everything(folder):
    """All that a run made, without what may differ between two runs of the same: times and paths."""
    folder = Path(folder)
    manifest = json.loads((folder / "run.json").read_text())
    for key in ("finished", "seconds", "out", "tiles", "settings"):
        manifest.pop(key)
    layers = {}
    for name in [*(c["name"] for c in manifest["classes"]), "coverage"]:
        frame = gpd.read_file(folder / "layers.gpkg", layer=name)
        layers[name] = (frame.to_wkb().to_csv(index=False), str(frame.crs))
    return manifest, layers, (folder / "labels.tif").read_bytes(), (folder / "scores.tif").read_bytes()


def test_scores_and_labels_are_those_of_the_untiled_image(make_scene, settings_for):
    pixels = random_pixels()
    summary = run(settings_for(make_scene(pixels=pixels)))
    expected = np.rint(stretched(pixels) * 254)
    assert np.abs(scores_of(summary["out"]) - expected).max() <= 1
    scores = scores_of(summary["out"]).astype(int)
    least = np.ceil([c["threshold"] * 254 for c in summary["classes"]])[scores.argmax(axis=0)]
    assert len(np.unique(least)) == 2
    labels = np.where(scores.max(axis=0) >= least, scores.argmax(axis=0) + 1, 0)
    assert np.array_equal(labels_of(summary["out"]), labels)
    assert summary["status"] == "complete"
    assert summary["pixels"]["not_observed"] == 0


@pytest.fixture(scope="module")
def untiled(tmp_path_factory):
    """A scene, and the run of it in one tile."""
    from rs_pipeline.config import load_settings

    folder = tmp_path_factory.mktemp("untiled")
    with rasterio.open(
        folder / "scene.tif", "w", driver="GTiff", count=3, height=150, width=170, dtype="uint8", nodata=0, crs="EPSG:4326",
        transform=Affine(7e-6, 1e-6, 10.0, 1e-6, -5e-6, 47.9),
    ) as file:  # fmt: skip
        file.write(random_pixels())

    def settings(out, **flags):
        base = {"source": (str(folder / "scene.tif"),), "classes": ("road", "water"), "model": "fake_segmenter:pointwise"}
        return load_settings(None, base | {"out": str(out), "workers.cluster": "in-process"} | flags)

    run(settings(folder / "one", tile_px=4096))
    return settings, everything(folder / "one")


@pytest.mark.parametrize(
    ("tile_px", "overlap_px", "batch_size", "cluster", "workers"),
    [
        (64, 8, 4, "in-process", None),
        (64, 0, 1, "in-process", None),
        (33, 16, 7, "in-process", None),
        (50, 25, 3, "in-process", None),
        (64, 9, 2, "local", 2),
        (128, 1, 64, "local", 1),
    ],
)
def test_law_3_tiled_is_untiled_byte_for_byte(untiled, tmp_path, tile_px, overlap_px, batch_size, cluster, workers):
    settings, expected = untiled
    flags = {"tile_px": tile_px, "overlap_px": overlap_px, "workers.batch_size": batch_size, "workers.cluster": cluster}
    run(settings(tmp_path / "run", **flags, **({"workers.count": workers} if workers else {})))
    manifest, layers, labels, scores = everything(tmp_path / "run")
    assert labels == expected[2]
    assert scores == expected[3]
    assert layers == expected[1]
    assert manifest["pixels"] == expected[0]["pixels"]


def test_nodata_and_the_rest_of_the_aoi_s_box_are_not_observed(make_scene, settings_for, tmp_path):
    pixels = random_pixels()
    pixels[:, 40:90, 30:100] = 0
    scene = make_scene(pixels=pixels, nodata=0)
    triangle = shapely.Polygon([(500_005, 5_299_930), (500_080, 5_299_930), (500_080, 5_299_995)])
    gpd.GeoDataFrame(geometry=[triangle], crs=32632).to_file(tmp_path / "aoi.gpkg")
    summary = run(settings_for(scene, aoi=str(tmp_path / "aoi.gpkg")))
    with rasterio.open(Path(summary["out"]) / "labels.tif") as file:
        labels, transform = file.read(1), file.transform
    rows, cols = np.indices(labels.shape) + 0.5
    x, y = transform @ (cols, rows)
    inside = shapely.contains_xy(triangle, x, y)
    row, col = np.rint(~Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000) @ (transform.c, transform.f))[::-1].astype(int)
    seen = (pixels != 0).any(axis=0)[row : row + labels.shape[0], col : col + labels.shape[1]]
    assert np.array_equal(labels != UNSEEN, inside & seen)
    areas = gpd.read_file(Path(summary["out"]) / "layers.gpkg", layer="coverage").groupby("state")["area_m2"].sum()
    assert areas["not observed"] == pytest.approx((inside & ~seen).sum() / 4)
    assert summary["pixels"]["aoi"] == inside.sum()
    assert summary["pixels"]["observed"] == (inside & seen).sum()


def test_a_blank_collar_that_the_file_does_not_declare_can_be_told(make_scene, settings_for):
    pixels = random_pixels()
    pixels[:, 100:] = 255
    scene = make_scene(pixels=pixels)
    assert run(settings_for(scene))["pixels"]["not_observed"] == 0
    told = run(settings_for(scene, sets=["nodata=255", "overwrite=true"]))
    assert told["pixels"]["not_observed"] == 50 * 170
    assert told["scenes"][0]["stretch"]["high"][0] < 200
    assert (labels_of(told["out"])[100:] == UNSEEN).all()


def test_the_stretch_is_the_scene_s_whatever_the_aoi(make_scene, settings_for, tmp_path):
    scene = make_scene()
    whole = scores_of(run(settings_for(scene))["out"])
    gpd.GeoDataFrame(geometry=[shapely.box(500_010, 5_299_950, 500_040, 5_299_990)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    part = scores_of(run(settings_for(scene, aoi=str(tmp_path / "aoi.gpkg"), out=str(tmp_path / "outputs" / "part")))["out"])
    assert np.array_equal(part, whole[:, 20:100, 20:80])


def test_tiles_without_data_are_normal(make_scene, settings_for):
    pixels = random_pixels()
    pixels[:, :, 64:] = 0
    summary = run(settings_for(make_scene(pixels=pixels, nodata=0)))
    assert summary["tiles"]["empty"] > 0
    assert summary["tiles"]["computed"] + summary["tiles"]["empty"] == summary["tiles"]["planned"]
    assert summary["status"] == "complete"


def test_law_5_a_failed_tile_is_not_observed_and_is_listed(make_scene, settings_for):
    pixels = random_pixels()
    pixels[0, 70:75, 90:95] = 250
    summary = run(settings_for(make_scene(pixels=pixels), model="fake_segmenter:failing", sets=["radiometry.high_percent=100"]))
    failed = {f["index"] for f in summary["tiles"]["failed"]}
    # 150 x 170 px in cores of 56: the bright spot is in the core of tile (1, 1) and in the context of those below and right of it.
    assert 1 * 4 + 1 in failed
    assert all(f["error"] == "RuntimeError: red is too much" for f in summary["tiles"]["failed"])
    labels = labels_of(summary["out"])
    for index in range(12):
        row, col = divmod(index, 4)
        core = labels[row * 56 : row * 56 + 56, col * 56 : col * 56 + 56]
        assert (core == UNSEEN).all() if index in failed else (core != UNSEEN).all()
    assert summary["status"] == "partial"
    assert summary["tiles"]["computed"] == 12 - len(failed)


def test_a_partial_run_done_again_tries_only_what_failed(make_scene, settings_for, monkeypatch):
    import fake_segmenter

    pixels = random_pixels()
    pixels[0, 70:75, 90:95] = 250
    settings = settings_for(make_scene(pixels=pixels), model="fake_segmenter:failing", sets=["radiometry.high_percent=100"])
    first = run(settings)
    monkeypatch.setattr(fake_segmenter.Failing, "segment", fake_segmenter.Pointwise.segment)
    second = run(settings)
    assert second["status"] == "complete"
    assert second["tiles"]["computed"] == len(first["tiles"]["failed"])
    assert second["tiles"]["reused"] == first["tiles"]["computed"]
    assert (labels_of(second["out"]) != UNSEEN).all()


@pytest.mark.parametrize(
    ("model", "message"), [("unloadable", "weights"), ("nonsense", "finite scores in"), ("absent", "package.module:callable")]
)
def test_a_model_that_never_works_is_an_error_and_leaves_no_run_folder(make_scene, settings_for, model, message):
    settings = settings_for(make_scene(), model=f"fake_segmenter:{model}")
    with pytest.raises(SegmenterError, match=message):
        run(settings)
    assert not Path(settings.out).exists()
    assert not list(Path(settings.out).parent.glob(".run.part-*"))


def test_the_same_run_again_computes_nothing(make_scene, settings_for, monkeypatch, tmp_path):
    monkeypatch.setenv("RS_SEG_TEST_LOG", str(tmp_path / "log"))
    scene = make_scene()
    first = run(settings_for(scene, model="fake_segmenter:counting"))
    made = everything(first["out"])
    shutil.rmtree(first["out"])
    second = run(settings_for(scene, model="fake_segmenter:counting"))
    assert len((tmp_path / "log").read_text().split()) == first["tiles"]["planned"] == second["tiles"]["reused"]
    assert everything(second["out"]) == made
    third = run(settings_for(scene, model="fake_segmenter:counting"))
    assert third["finished"] == second["finished"]


def test_a_new_colour_computes_nothing_a_new_prompt_everything(make_scene, settings_for, monkeypatch, tmp_path):
    monkeypatch.setenv("RS_SEG_TEST_LOG", str(tmp_path / "log"))
    scene = make_scene()
    vocabulary = tmp_path / "mine.yaml"
    planned = 0
    for number, (colour, prompt, tiles) in enumerate([("#ff0000", "road", 1), ("#00ff00", "road", 1), ("#00ff00", "street", 2)]):
        vocabulary.write_text(f'road: {{prompts: [{prompt}], colour: "{colour}"}}\n')
        flags = {"model": "fake_segmenter:counting", "vocabulary": str(vocabulary), "classes": ("road",)}
        summary = run(settings_for(scene, out=str(tmp_path / "outputs" / str(number)), **flags))
        planned = summary["tiles"]["planned"]
        assert len((tmp_path / "log").read_text().split()) == tiles * planned
    assert planned > 1


def test_law_4_after_a_kill_the_same_command_makes_the_same_bytes(make_scene, settings_for, tmp_path):
    scene = make_scene()
    fresh = everything(run(settings_for(scene, out=str(tmp_path / "fresh" / "run")))["out"])
    out = tmp_path / "killed" / "run"
    command = [
        sys.executable, "-m", "rs_pipeline", "run", "--source", str(scene), "--classes", "road,water,building", "--model",
        "fake_segmenter:pointwise", "--out", str(out), "--cluster", "in-process", "--batch-size", "1",
    ]  # fmt: skip
    seen = set()
    for wanted in (1, 5, 11):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(finished_tiles(out)) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.wait()
        seen.add(len(finished_tiles(out)))
        assert not out.exists() or (out / "run.json").is_file()
    assert max(seen) >= 5
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert everything(out) == fresh
    assert [p.name for p in out.parent.glob(".run.*")] == []


@pytest.mark.parametrize("stage", ["rs_pipeline.run.stitch", "rs_pipeline.run.vectorize", "rs_pipeline.run.write_manifest"])
def test_law_8_a_run_that_breaks_at_any_stage_leaves_no_folder(make_scene, settings_for, monkeypatch, stage):
    def broken(*args, **kwargs):
        raise OutputError("room", "No space left on device", "Free some.")

    monkeypatch.setattr(stage, broken)
    settings = settings_for(make_scene())
    with pytest.raises(OutputError, match="No space left"):
        run(settings)
    assert sorted(p.name for p in Path(settings.out).parent.iterdir()) == [".tiles"]
    monkeypatch.undo()
    assert run(settings)["tiles"]["reused"] > 0


@pytest.mark.parametrize("cluster", ["in-process", "local"])
def test_a_store_that_cannot_be_written_stops_the_run_and_keeps_what_is_done(make_scene, settings_for, monkeypatch, cluster):
    settings = settings_for(make_scene(), **{"workers.batch_size": 1, "workers.cluster": cluster, "workers.count": 1})
    from rs_pipeline.plan import plan_run

    store = plan_run(settings).job.store
    store.mkdir(parents=True)
    (store / "r00001").write_text("a file where the second row of tiles should go, whoever writes it")
    with pytest.raises(StoreError, match="what is done stays"):
        run(settings)
    assert not Path(settings.out).exists()
    done = len(list(store.rglob("*.npy")))
    (store / "r00001").unlink()
    summary = run(settings)
    assert summary["tiles"]["reused"] >= done > 0
    assert summary["status"] == "complete"


def test_what_was_under_the_name_stays_until_the_new_is_whole(make_scene, settings_for, monkeypatch):
    settings = settings_for(make_scene())
    before = everything(run(settings)["out"])
    other = settings_for(make_scene("other.tif", random_pixels(seed=1)))
    with pytest.raises(OutputError, match="overwrite=true"):
        run(other)
    replacing = other.model_copy(update={"overwrite": True})
    with monkeypatch.context() as broken:
        broken.setattr("rs_pipeline.run.vectorize", lambda *a: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(OSError, match="gone"):
            run(replacing)
    assert everything(settings.out) == before
    run(replacing)
    assert everything(settings.out) != before


def test_a_folder_of_something_else_is_never_touched(make_scene, settings_for):
    settings = settings_for(make_scene())
    Path(settings.out).mkdir(parents=True)
    (Path(settings.out) / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="something else"):
            run(settings.model_copy(update={"overwrite": overwrite}))
    assert (Path(settings.out) / "thesis.txt").read_text() == "years of work"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place_is_refused_before_the_first_tile(make_scene, settings_for, tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs").chmod(0o500)
    with pytest.raises(OutputError, match="a place that can be written"):
        run(settings_for(make_scene()))


def test_an_output_below_a_file_is_refused_before_the_first_tile(make_scene, settings_for, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a place that can be written"):
        run(settings_for(make_scene(), out=str(tmp_path / "file" / "run")))


def test_too_little_disk_is_refused_before_the_first_tile(make_scene, settings_for, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(OutputError, match="GB of free disk"):
        run(settings_for(make_scene()))


def test_a_source_that_changes_during_the_run_publishes_nothing(make_scene, settings_for, monkeypatch):
    scene = make_scene()
    settings = settings_for(scene)
    from rs_pipeline import run as pipeline

    original = pipeline.vectorize

    def touching(*args):
        result = original(*args)
        os.utime(scene, ns=(1, 1))
        return result

    monkeypatch.setattr(pipeline, "vectorize", touching)
    with pytest.raises(RasterError, match="which changed"):
        run(settings)
    assert not Path(settings.out).exists()


def test_two_runs_of_the_same_at_once_are_refused(make_scene, settings_for):
    from rs_pipeline.plan import plan_run
    from rs_pipeline.store import TileStore

    settings = settings_for(make_scene())
    with TileStore(plan_run(settings).job.store).lock(), pytest.raises(StoreError, match="one run at a time"):
        run(settings)


def test_an_all_nodata_source_is_refused(make_scene, settings_for):
    with pytest.raises(RasterError, match="a scene with valid pixels"):
        run(settings_for(make_scene(pixels=np.zeros((3, 80, 80), np.uint8), nodata=0)))


def test_a_scene_smaller_than_a_tile_is_done_whole(make_scene, settings_for):
    summary = run(settings_for(make_scene(pixels=random_pixels(5, 9))))
    assert labels_of(summary["out"]).shape == (5, 9)
    assert summary["pixels"]["observed"] == 45


def test_the_newest_scene_is_on_top_and_each_feature_knows_its_scene(make_scene, settings_for, tmp_path):
    old = random_pixels(seed=1)
    new = random_pixels(seed=2)
    new[:, :, :85] = 0
    make_scene("archive/old_20200101.tif", old, nodata=0)
    make_scene("archive/new_20240101.tif", new, nodata=0)
    for composite, top, below in (("newest", "new_20240101", "old_20200101"), ("oldest", "old_20200101", "new_20240101")):
        out = tmp_path / "outputs" / composite
        summary = run(settings_for(tmp_path / "archive", out=str(out), sets=[f"composite={composite}"]))
        assert [s["id"] for s in summary["scenes"]] == [top, below]
        frame = gpd.read_file(out / "layers.gpkg", layer="road")
        assert set(frame["scene"]) == ({"new_20240101", "old_20200101"} if composite == "newest" else {"old_20200101"})
        centres = frame.geometry.representative_point().x
        if composite == "newest":
            assert (frame["scene"][centres > 500_000 + 50] == "new_20240101").all()
            assert (frame["scene"][centres < 500_000 + 35] == "old_20200101").all()


def test_scenes_of_different_crs_meet_on_one_grid(make_scene, settings_for, tmp_path):
    make_scene("archive/a.tif")
    make_scene("archive/b.tif", crs="EPSG:4326", transform=Affine(6e-6, 0, 9.0005, 0, -4.5e-6, 47.8535))
    summary = run(settings_for(tmp_path / "archive"))
    assert {s["crs"] for s in summary["scenes"]} == {"EPSG:32632", "EPSG:4326"}
    assert summary["plan"]["grid"]["crs"] == "EPSG:32632"
    frame = gpd.read_file(Path(summary["out"]) / "layers.gpkg", layer="road")
    assert set(frame["scene"]) == {"a", "b"}


def test_a_new_sidecar_is_another_run(make_scene, settings_for, tmp_path):
    scene = make_scene()
    gpd.GeoDataFrame(geometry=[shapely.box(500_020, 5_299_950, 500_050, 5_299_980)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    aoi = {"aoi": str(tmp_path / "aoi.gpkg"), "gsd_m": 0.5}
    first = run(settings_for(scene, **aoi))
    shifted = "<PAMDataset><GeoTransform>500010, 0.5, 0, 5300000, 0, -0.5</GeoTransform></PAMDataset>"
    scene.with_name(scene.name + ".aux.xml").write_text(shifted)
    second = run(settings_for(scene, out=str(tmp_path / "outputs" / "shifted"), **aoi))
    assert second["tiles"]["reused"] == 0
    assert first["run_key"] != second["run_key"]


def test_an_aoi_in_two_far_corners_costs_only_its_tiles(make_scene, settings_for, tmp_path):
    make_scene("archive/a.tif")
    make_scene("archive/b.tif", origin=(505_000.0, 5_295_000.0))
    parts = [shapely.box(500_010, 5_299_960, 500_030, 5_299_980), shapely.box(505_010, 5_294_960, 505_030, 5_294_980)]
    gpd.GeoDataFrame(geometry=parts, crs=32632).to_file(tmp_path / "aoi.gpkg")
    started = time.monotonic()
    summary = run(settings_for(tmp_path / "archive", aoi=str(tmp_path / "aoi.gpkg")))
    assert summary["tiles"]["planned"] < 12
    assert summary["plan"]["grid"]["height"] > 10_000
    assert summary["pixels"]["observed"] == 2 * 40 * 40
    assert time.monotonic() - started < 60
    coverage = gpd.read_file(Path(summary["out"]) / "layers.gpkg", layer="coverage")
    assert coverage["area_m2"].sum() == pytest.approx(800)


def test_a_run_killed_while_it_replaced_another_loses_neither(make_scene, settings_for):
    settings = settings_for(make_scene())
    before = everything(run(settings)["out"])
    out = Path(settings.out)
    out.rename(out.parent / ".run.old")
    (out.parent / ".run.part-dead").mkdir()
    again = run(settings)
    assert everything(again["out"]) == before
    assert sorted(p.name for p in out.parent.iterdir()) == [".tiles", "run"]


def test_two_runs_into_one_folder_at_once_are_refused_at_the_start(make_scene, settings_for):
    from rs_pipeline.products import staged

    settings = settings_for(make_scene())
    with staged(Path(settings.out), replace=False) as live:
        with pytest.raises(OutputError, match="no other run writes"):
            run(settings)
        assert live.is_dir()


@pytest.mark.parametrize(("crs", "degree"), [("EPSG:4326", 1.0), ("EPSG:3857", 20_037_508.342789 / 180)])
def test_a_world_wide_image_is_read_where_the_aoi_is(make_scene, settings_for, tmp_path, crs, degree):
    transform = Affine(0.5 * degree, 0, -180 * degree, 0, -0.5 * degree, 90 * degree)
    world = make_scene(pixels=random_pixels(360, 720), crs=crs, transform=transform)
    gpd.GeoDataFrame(geometry=[shapely.box(500_000, 5_300_000, 800_000, 5_500_000)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    for number, aoi in enumerate(["8,47,12,50", str(tmp_path / "aoi.gpkg")]):
        summary = run(settings_for(world, aoi=aoi, gsd_m=10_000.0, out=str(tmp_path / "outputs" / str(number))))
        assert summary["pixels"]["observed"] == summary["pixels"]["aoi"] > 0


def test_a_run_without_any_data_says_so(make_scene, settings_for, tmp_path):
    notes = []

    class Listener(Silent):
        def note(self, text):
            notes.append(text)

    pixels = random_pixels()
    pixels[:, :, :100] = 0
    gpd.GeoDataFrame(geometry=[shapely.box(500_005, 5_299_950, 500_010, 5_299_990)], crs=32632).to_file(tmp_path / "aoi.gpkg")
    scene = make_scene(pixels=pixels, nodata=0)
    summary = run(settings_for(scene, aoi=str(tmp_path / "aoi.gpkg"), tile_px=32, overlap_px=0), Listener())
    assert summary["pixels"]["observed"] == 0
    assert any("nothing was observed" in note for note in notes)


def test_an_interrupt_is_told_in_one_line_and_kept_work_goes_on(make_scene, settings_for, tmp_path):
    command = [
        sys.executable, "-m", "rs_pipeline", "run", "--source", str(make_scene(pixels=random_pixels(700, 700))), "--classes", "road",
        "--model", "fake_segmenter:slow", "--out", str(tmp_path / "o" / "run"), "--cluster", "in-process", "--batch-size", "1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not finished_tiles(tmp_path / "o" / "run") and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].startswith("rs-seg: interrupted; what is finished is kept")
    assert [p.name for p in (tmp_path / "o").iterdir()] == [".tiles"]


def test_too_many_scenes_for_one_run_are_refused(make_scene, settings_for, monkeypatch, tmp_path):
    monkeypatch.setattr("rs_pipeline.plan.MAX_SCENES", 1)
    make_scene("archive/a.tif")
    make_scene("archive/b.tif")
    with pytest.raises(CatalogError, match="at most 1 scenes"):
        run(settings_for(tmp_path / "archive"))


def test_the_run_folder_holds_what_the_readme_says(make_scene, settings_for):
    summary = run(settings_for(make_scene()))
    assert sorted(p.name for p in Path(summary["out"]).iterdir()) == sorted([*PRODUCTS, "run.json"])
    assert json.loads((Path(summary["out"]) / "run.json").read_text()) == json.loads(json.dumps(summary))
    with rasterio.open(Path(summary["out"]) / "labels.tif") as file:
        assert (file.dtypes, file.nodata, file.crs.to_epsg()) == (("uint8",), 255, 32632)
        assert file.colormap(1)[1] == (228, 87, 46, 255)
        assert file.tags()["RS_SEG_CLASSES"] == '{"1": "road", "2": "water", "3": "building"}'
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(Path(summary["out"]) / "scores.tif") as file:
        assert file.descriptions == ("road", "water", "building")
        assert file.nodata == 255
