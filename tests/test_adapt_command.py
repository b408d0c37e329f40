"""`rs-seg adapt` and `run --adapter`, from files to files."""

import json

import numpy as np
import pytest
from adapting import settings as adapting
from conftest import random_pixels
from pyproj import Transformer
from typer.testing import CliRunner

from rs_pipeline.adapt import read_tiles
from rs_pipeline.adapt_settings import default_config, load_adapt_settings
from rs_pipeline.cli import app
from rs_pipeline.config import configs_folder, load_settings
from rs_pipeline.errors import BlankError, ConfigError, SegmenterError
from rs_pipeline.imagery import find_imagery, select_scenes
from rs_pipeline.locks import hold
from rs_pipeline.plan import plan_run
from rs_pipeline.reporting import Silent
from rs_pipeline.run import run
from rs_pipeline.segmenter import find_provider

FAKE = "fake_segmenter:adapting"
BOTH = ("road", "water")


@pytest.fixture
def good(monkeypatch):
    monkeypatch.setenv("RS_SEG_TEST_GOOD", "0.8")


def invoke(*arguments):
    return CliRunner().invoke(app, ["adapt", *map(str, arguments)])


def make_adapter(scene, out, classes="road,water"):
    result = invoke("--source", scene, "--classes", classes, "--out", out, "--base", FAKE)
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    return out


def test_an_adapter_is_made_and_a_run_wears_it(make_scene, settings_for, tmp_path, good):
    scene = make_scene()
    adapter = make_adapter(scene, tmp_path / "a.safetensors")
    plain = settings_for(scene, model=FAKE, classes=BOTH)
    worn = plain.model_copy(update={"adapter": str(adapter), "out": str(tmp_path / "outputs" / "worn")})
    manifest = run(worn)
    assert manifest["model"]["adapter"]["path"] == str(adapter)
    assert manifest["settings"]["adapter"] == str(adapter)
    assert len({plan_run(s).run_key for s in (plain, worn)}) == 2
    assert plan_run(plain).job.base.where != plan_run(worn).job.base.where


def test_what_an_adapter_holds_decides_the_tiles_and_not_where_it_lies(make_scene, settings_for, tmp_path, good, monkeypatch):
    scene = make_scene()
    first = make_adapter(scene, tmp_path / "a.safetensors")
    plan = plan_run(settings_for(scene, model=FAKE, classes=BOTH, adapter=str(first)))
    (tmp_path / "b.safetensors").write_bytes(first.read_bytes())
    assert plan_run(settings_for(scene, model=FAKE, classes=BOTH, adapter=str(tmp_path / "b.safetensors"))).run_key == plan.run_key
    monkeypatch.setenv("RS_SEG_TEST_GOOD", "0.9")
    make_adapter(scene, first)
    assert plan_run(settings_for(scene, model=FAKE, classes=BOTH, adapter=str(first))).run_key != plan.run_key


def test_runs_without_an_adapter_do_not_hang_on_its_settings(make_scene, settings_for, tmp_path):
    scene = make_scene()
    settings = settings_for(scene, model=FAKE)
    without = settings.model_copy(update={"scoring": settings.scoring.model_copy(update={"feedback": False})})
    assert plan_run(without).run_key == plan_run(settings).run_key


def test_feedback_left_out_gives_other_tiles(make_scene, settings_for, tmp_path, good):
    scene = make_scene()
    settings = settings_for(scene, model=FAKE, classes=BOTH, adapter=str(make_adapter(scene, tmp_path / "a.safetensors")))
    without = settings.model_copy(update={"scoring": settings.scoring.model_copy(update={"feedback": False})})
    assert plan_run(without).run_key != plan_run(settings).run_key


def test_an_adapter_for_another_model_or_other_classes_is_refused_before_anything_is_computed(make_scene, settings_for, tmp_path, good):
    scene = make_scene()
    adapter = make_adapter(scene, tmp_path / "a.safetensors")
    with pytest.raises(SegmenterError, match="made for fake"):
        plan_run(settings_for(scene, model="rs-tiny", adapter=str(adapter)))
    with pytest.raises(SegmenterError, match="building, which it was not made for"):
        plan_run(settings_for(scene, model=FAKE, adapter=str(adapter), classes=("building",)))
    with pytest.raises(SegmenterError, match="an adapter file"):
        plan_run(settings_for(scene, model=FAKE, classes=BOTH, adapter=str(tmp_path / "none.safetensors")))


def test_tiles_are_what_a_run_reads(make_scene, settings_for):
    scene = make_scene()
    settings, info = settings_for(scene), find_provider("fake_segmenter:pointwise").info()
    tiles = read_tiles(settings, adapting({"tiles": 100, "seen_share": 0.0}), info, Silent())
    plan = plan_run(settings)
    assert len(tiles) == plan.tiles
    from rs_pipeline.inference import OpenJob

    seen, image = OpenJob(plan.job).read_tile(next(iter(plan.job.plan.tiles())))
    found, valid = tiles.read(0)
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(valid, seen.valid)


def test_tiles_of_a_small_scene_are_of_one_size_and_blank_beside_it(make_scene, settings_for, tmp_path):
    make_scene("two/wide.tif", random_pixels(40, 170))
    make_scene("two/whole.tif", random_pixels(150, 170, seed=1), origin=(510_000.0, 5_300_000.0))
    info = find_provider("fake_segmenter:pointwise").info()
    tiles = read_tiles(settings_for(tmp_path / "two"), adapting({"tiles": 100, "seen_share": 0.1}), info, Silent())
    assert {tiles.read(i)[0].shape for i in range(len(tiles))} == {(3, 64, 64)}
    assert {int(tiles.read(i)[1].any(1).sum()) for i in range(len(tiles))} >= {40, 64}
    assert all(not image[:, ~valid].any() for image, valid in map(tiles.read, range(len(tiles))))


def test_every_scene_teaches_what_lies_below_another_too(make_scene, settings_for, tmp_path):
    for k, date in enumerate(("20240101", "20240201")):
        make_scene(f"both/s_{date}.tif", random_pixels(seed=k), nodata=0)
    info = find_provider("fake_segmenter:pointwise").info()
    settings = settings_for(tmp_path / "both")
    both = read_tiles(settings, adapting({"tiles": 100}), info, Silent())
    scenes, _ = select_scenes(settings, None)
    one = read_tiles(settings, adapting({"tiles": 100}), info, Silent(), scenes[:1])
    assert (both.scenes, one.scenes) == (2, 1)
    assert len(both) == 2 * len(one)
    assert both.digest != one.digest


def test_so_many_tiles_are_spread_and_blank_ones_left_out(make_scene, settings_for):
    pixels = random_pixels(150, 170)
    pixels[:, :, 60:] = 0
    scene = make_scene("half.tif", pixels, nodata=0)
    info = find_provider("fake_segmenter:pointwise").info()
    tiles = read_tiles(settings_for(scene), adapting({"tiles": 100, "seen_share": 0.5}), info, Silent())
    everything = find_imagery(settings_for(scene), info).plan.count()
    assert 0 < len(tiles) < everything
    assert all(tiles.read(i)[1].mean() >= 0.5 for i in range(len(tiles)))
    few = read_tiles(settings_for(scene), adapting({"tiles": 2, "seen_share": 0.5}), info, Silent())
    assert len(few) == 2
    assert few.digest != tiles.digest


def test_no_tile_after_masking_is_one_clear_line(make_scene, settings_for):
    pixels = random_pixels(150, 170)
    pixels[:, 1:] = 0
    scene = make_scene("line.tif", pixels, nodata=0)
    info = find_provider("fake_segmenter:pointwise").info()
    with pytest.raises(BlankError, match="tiles of which 50% hold data"):
        read_tiles(settings_for(scene), adapting({"seen_share": 0.5}), info, Silent())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--base", "fake_segmenter:pointwise"], 1, "can be adapted"),
        (["--base", FAKE, "--set", "stepz=3"], 2, "stepz"),
        (["--base", FAKE, "--set", "losses.consistency.weight=-1"], 2, "losses.consistency.weight"),
        (["--base", FAKE, "--set", "seed=-1"], 2, "seed"),
        (["--base", FAKE, "--config", "nowhere"], 2, "adaptation settings"),
        (["--base", FAKE, "--classes", "road"], 2, "two classes"),
    ],
)
def test_what_cannot_be_adapted_is_one_clear_line(make_scene, tmp_path, good, arguments, code, message):
    classes = [] if "--classes" in arguments else ["--classes", "road,water"]
    result = invoke("--source", make_scene(), "--out", tmp_path / "a.safetensors", *classes, *arguments)
    assert result.exit_code != 0
    assert result.exception.exit_code == code
    assert message in str(result.exception)
    assert not (tmp_path / "a.safetensors").exists()


def test_tiles_on_either_side_of_the_antimeridian_are_neighbours(make_scene, settings_for, good):
    east = Transformer.from_crs("EPSG:4326", "EPSG:32660", always_xy=True).transform(180, 10)
    pixels = random_pixels(128, 512)
    scene = make_scene(pixels=pixels, crs="EPSG:32660", origin=(east[0] - 128, east[1]))
    settings = settings_for(scene, model=FAKE, classes=BOTH, tile_px=128, overlap_px=32)
    tiles = read_tiles(settings, load_adapt_settings(), find_provider(FAKE).info(), Silent())
    boxes = np.array([tiles.footprint(i) for i in range(len(tiles))])
    widths = boxes[:, 2] - boxes[:, 0]
    assert len(boxes) >= 5
    assert (widths > 0).all()
    assert widths.max() < 0.001
    assert np.ptp(boxes[:, 0]) < 0.01
    shared = np.minimum(boxes[1:, 2], boxes[:-1, 2]) - boxes[1:, 0]
    assert (shared > 0).all()  # each lies over its neighbour


@pytest.mark.parametrize("name", ["a", "a.bin", "a.v1"])
def test_an_adapter_is_called_what_it_is(make_scene, tmp_path, good, name):
    result = invoke("--source", make_scene(), "--classes", "road,water", "--base", FAKE, "--out", tmp_path / name)
    assert result.exception.exit_code == 2
    assert "NAME.safetensors" in str(result.exception)


def test_two_adaptations_do_not_write_one_file(make_scene, tmp_path, good):
    with hold(tmp_path / ".a.safetensors.lock"):
        result = invoke("--source", make_scene(), "--classes", "road,water", "--base", FAKE, "--out", tmp_path / "a.safetensors")
    assert "one adaptation at a time" in str(result.exception)


def test_settings_that_train_or_minimise_nothing_are_refused():
    off = {name: {"weight": 0} for name in ("consistency", "importance", "contrast", "boundary")}
    with pytest.raises(ConfigError, match="weight above 0"):
        load_adapt_settings(rows=[{"losses": off}])
    nothing = {"train": {"low_rank": 0, "neck": False}, "align": {"encoder": {"use": False}, "decoder": {"use": False}}}
    with pytest.raises(ConfigError, match="something to train"):
        load_adapt_settings(rows=[nothing])
    alone = {**nothing, "align": {"encoder": {"use": False}, "decoder": {"use": True}}}
    with pytest.raises(ConfigError, match=r"align\.decoder can lower"):
        load_adapt_settings(rows=[alone])


def test_each_model_has_settings_that_fit_it():
    assert [default_config(model) for model in ("sam3", "rs-tiny", FAKE)] == ["sam3", "default", "default"]
    assert load_adapt_settings("sam3").crop_px is None


@pytest.mark.parametrize("path", sorted((configs_folder() / "adapt").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_settings_that_ship_are_sound(path):
    settings = load_adapt_settings(path.stem)
    losses = settings.losses
    published = path.stem != "default"  # the tables speak against it
    assert (losses.consistency.weight, settings.align.decoder.use) == (published, published)
    assert (losses.importance.weight, losses.contrast.weight, losses.boundary.weight) == (0.1, 0.05, 0.02)
    assert (settings.align.cross_modal.learning_rate, settings.train.low_rank) == (4e-5, 8)


def test_rs_tiny_adapts_to_a_scene_and_a_run_wears_what_came_of_it(make_scene, settings_for, tmp_path):
    coarse = np.random.default_rng(3).integers(30, 220, (3, 20, 20))
    scene = make_scene("town.tif", np.kron(coarse, np.ones((1, 16, 16), int)).astype(np.uint8))
    out = tmp_path / "tiny.safetensors"
    common = ["--source", scene, "--out", out, "--base", "rs-tiny", "--classes", "building,road,water,land", "--json"]
    sets = ["steps=4", "check_every=2", "crop_px=64", "seen_share=0.1", "held_out=0.5", "learning_rate=1e-6"]
    (tmp_path / "run.yaml").write_text("tile_px: 128\n")
    result = invoke(*common, "--run-config", tmp_path / "run.yaml", *(part for text in sets for part in ("--set", text)))
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    made = json.loads(result.stdout)
    assert made["consistency"] >= made["consistency_before"] > 0
    settings = settings_for(scene, model="rs-tiny", classes=("building", "water"), tile_px=128, device="cpu", adapter=str(out))
    assert run(settings)["tiles"]["failed"] == []
    changed = out.read_bytes()
    plan = plan_run(settings.model_copy(update={"out": str(tmp_path / "other"), "store": str(tmp_path / "store")}))
    out.write_bytes(changed[:-4] + b"\0\0\0\1")
    with pytest.raises(SegmenterError, match="adapter that the run was planned with"):
        find_provider("rs-tiny").load(plan.job.options, None)
    assert load_settings(flags={"adapter": str(out)}).options.adapter.sha256 != plan.job.options.adapter.sha256
