"""Ablations: the grid that was asked for, each row once, and a table whose figures can be worked out by hand."""

import csv
import io
import json
import math

import numpy as np
import pytest
import yaml
from adapting import NoiseTiles, Notes
from PIL import Image
from rs_model.adapt.ground import ground
from rs_model.labels import CLASSES, IGNORE
from rs_model.places import PLACES
from rs_model.scenes import DUBAI_COLOURS
from typer.testing import CliRunner

from rs_pipeline import ablation as module
from rs_pipeline.ablation import Ablation, Judged, Result, load_ablation
from rs_pipeline.ablation_table import as_csv, as_json, as_markdown, table_of
from rs_pipeline.adapt_settings import load_adapt_settings
from rs_pipeline.cli import app
from rs_pipeline.config import configs_folder
from rs_pipeline.errors import ConfigError, SegmenterError, TrainingError
from rs_pipeline.metrics import Confusion, bootstrap_miou

GRID = {
    "title": "A grid",
    "model": "fake_segmenter:adapting",
    "classes": ["road", "water"],
    "adapt_on": ["here"],
    "score_on": ["there"],
    "seeds": [1, 2],
    "base": {"steps": 3},
    "rows": [
        {"name": "as it is"},
        {"name": "adapted", "adapt": {"learning_rate": 0.01}},
        {"name": "smooth", "run": {"refine.preset": "smooth"}},
    ],
}


def counts(hits, misses):
    return Confusion(np.array([[0, 0, 0], [0, hits, misses], [0, misses, hits]], np.int64), 0)


class Ground:
    """Six images; the model that wears an adapter is right more often."""

    classes = ("road", "water")

    def __init__(self):
        self.judged = 0

    def tiles(self, places, tile_px):
        return NoiseTiles(side=tile_px)

    def digest(self, place):
        return place

    def judge(self, segmenter, place, tile_px):
        self.judged += 1
        return Judged(("road", "water"), tuple(counts(50 + 5 * self.judged + i, 20) for i in range(6)))


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.setenv("RS_SEG_TEST_GOOD", "0.8")

    def write(**changes):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(GRID | changes))
        return load_ablation(path)

    return write


def test_each_row_is_computed_once_with_each_seed(grid, tmp_path):
    first = Ground()
    (tmp_path / "out" / "adapters").mkdir(parents=True)
    results = Ablation(grid(), first, tmp_path / "out").run(Notes())
    assert [(r.name, r.seed) for r in results] == [("as it is", 0), ("adapted", 1), ("adapted", 2), ("smooth", 0)]
    assert first.judged == 4
    again = Ground()
    kept = Ablation(grid(), again, tmp_path / "out").run(Notes())
    assert again.judged == 0
    assert as_json(table_of(kept)) == as_json(table_of(results))
    more = Ground()
    Ablation(grid(seeds=[1, 2, 3]), more, tmp_path / "out").run(Notes())
    assert more.judged == 1
    changed = Ground()
    Ablation(grid(base={"steps": 4}), changed, tmp_path / "out").run(Notes())
    assert changed.judged == 2


def test_a_row_renamed_is_not_computed_again(grid, tmp_path):
    (tmp_path / "out" / "adapters").mkdir(parents=True)
    Ablation(grid(), Ground(), tmp_path / "out").run(Notes())
    other = Ground()
    rows = [{**row, "name": f"{row['name']}!"} for row in GRID["rows"]]
    results = Ablation(grid(rows=rows), other, tmp_path / "out").run(Notes())
    assert other.judged == 0
    assert results[0].name == "as it is!"


def test_rows_are_adapted_without_the_guard(grid, tmp_path, monkeypatch):
    seen = []
    import fake_segmenter

    adapt = fake_segmenter.Adapting.adapt
    monkeypatch.setattr(
        fake_segmenter.Adapting, "adapt", lambda self, request, *rest: (seen.append(request), adapt(self, request, *rest))[1]
    )
    (tmp_path / "out" / "adapters").mkdir(parents=True)
    Ablation(grid(), Ground(), tmp_path / "out").run(Notes())
    assert [request.guarded for request in seen] == [False, False]
    assert [request.settings.seed for request in seen] == [1, 2]
    assert {request.settings.steps for request in seen} == {3}


def test_a_model_is_adapted_with_the_settings_that_fit_it(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "default_config", lambda model: "sam3")
    ablation = Ablation(grid(), Ground(), tmp_path / "out")
    found = ablation._settings_of(ablation._adapting["adapted"])
    assert (found.crop_px, found.checkpointing, found.steps) == (None, True, 3)


def test_a_model_that_was_not_trained_yet_is_told(grid, tmp_path):
    with pytest.raises(ConfigError, match=r"none at runs/nowhere/weights.*ablation-base"):
        Ablation(grid(model="runs/nowhere/weights"), Ground(), tmp_path / "out")


def test_classes_that_nothing_is_judged_by_are_refused(grid, tmp_path):
    with pytest.raises(ConfigError, match=r"judged by \(road, water\); got road, building"):
        Ablation(grid(classes=["road", "building"]), Ground(), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "a twice"),
        ({"rows": [{"name": "a", "adapt": {"learning_rat": 1}}]}, "learning_rat"),
        ({"rows": [{"name": "a", "run": {"refine.presett": "x"}}]}, "presett"),
        ({"rows": [{"name": "a", "run": {"tile_px": 64}}]}, "tile_px in row a"),
        ({"rows": [{"name": "a", "run": {"scoring.threshold": 0.1}}]}, "scoring.threshold in row a"),
        ({"rows": []}, "rows"),
        ({"colour": 1}, "colour"),
        ({"classes": ["road"]}, "classes"),
    ],
)
def test_a_bad_grid_is_refused_before_anything_is_computed(grid, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        Ablation(grid(**change), Ground(), tmp_path / "out")


def test_a_model_that_cannot_be_adapted_is_refused(grid, tmp_path):
    with pytest.raises(SegmenterError, match="can be adapted"):
        Ablation(grid(model="fake_segmenter:pointwise"), Ground(), tmp_path / "out")


def test_a_damaged_result_is_one_clear_line(grid, tmp_path):
    (tmp_path / "out" / "adapters").mkdir(parents=True)
    Ablation(grid(), Ground(), tmp_path / "out").run(Notes())
    for path in (tmp_path / "out" / "rows").glob("*.json"):
        path.write_text("{")
    with pytest.raises(TrainingError, match="whole result"):
        Ablation(grid(), Ground(), tmp_path / "out").run(Notes())


def result(name, hits, seed=0, images=6, adaptation=None):
    judged = Judged(("road", "water"), tuple(counts(hits + i, 20) for i in range(images)))
    return Result(name, seed, {"there": judged}, adaptation)


def test_the_table_has_means_differences_and_paired_intervals():
    made = {"consistency_before": 0.8, "consistency": 0.9}
    results = [result("plain", 50), result("adapted", 60, 1, adaptation=made), result("adapted", 70, 2, adaptation=made)]
    plain, adapted = table_of(results)
    iou = [sum(h + i for i in range(6)) / sum(h + i + 40 for i in range(6)) for h in (50, 60, 70)]
    assert plain.places["there"].miou == pytest.approx(iou[0])
    figures = adapted.places["there"]
    assert figures.miou == pytest.approx((iou[1] + iou[2]) / 2)
    assert figures.difference == pytest.approx((iou[1] + iou[2]) / 2 - iou[0])
    assert figures.spread == pytest.approx(iou[2] - iou[1])
    samples = [bootstrap_miou(r.places["there"].images, 1) for r in results]
    assert (figures.low, figures.high) == pytest.approx(tuple(np.percentile((samples[1] + samples[2]) / 2 - samples[0], (2.5, 97.5))))
    assert (adapted.before, adapted.after, adapted.seeds) == (0.8, 0.9, 2)
    assert math.isnan(plain.after)


def test_few_images_have_no_interval():
    assert math.isnan(table_of([result("a", 50, images=4), result("b", 60, images=4)])[1].places["there"].low)


def test_markdown_csv_and_json_say_the_same():
    lines = table_of([result("plain", 50), result("adapted", 60, adaptation={"consistency_before": 0.8, "consistency": 0.9})])
    rows = list(csv.DictReader(io.StringIO(as_csv(lines))))
    data = as_json(lines)
    assert [row["row"] for row in rows] == [line["row"] for line in data] == ["plain", "adapted"]
    for row, line in zip(rows, data, strict=True):
        assert float(row["miou"]) == pytest.approx(line["places"]["there"]["miou"], abs=1e-6)
        assert float(row["road"]) == pytest.approx(line["places"]["there"]["iou"]["road"], abs=1e-6)
    text = as_markdown(lines)
    assert f"{data[1]['places']['there']['miou']:.3f}, {data[1]['places']['there']['difference']:+.4f} (" in text
    assert "0.800 → 0.900" in text
    assert data[0]["consistency"] is None
    assert rows[0]["consistency"] == ""


@pytest.mark.parametrize("path", sorted((configs_folder() / "ablate").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_grids_that_ship_are_sound(path):
    if path.stem == "base":  # a training recipe
        from rs_model.recipe import read_recipe

        assert read_recipe(path, None).mix["dubai"].tiles == (1, 2, 5)
        return
    settings = load_ablation(path)
    assert settings.rows[0].adapt is None
    for row in settings.rows:
        if row.adapt is not None:
            load_adapt_settings(rows=[settings.base, row.adapt])


def test_the_command_line_writes_the_table_and_prints_it(grid, tmp_path, monkeypatch):
    grid()
    monkeypatch.setattr(module, "find_ground", lambda data: Ground())
    (tmp_path / "out" / "adapters").mkdir(parents=True)
    arguments = ["ablate", "--config", str(tmp_path / "grid.yaml"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    table = (tmp_path / "out" / "grid.md").read_text()
    assert table in result.stdout
    assert "| smooth |" in table
    assert (tmp_path / "out" / "grid.csv").read_text().startswith("row,seeds,")
    as_data = CliRunner().invoke(app, [*arguments, "--json"])
    assert [row["row"] for row in json.loads(as_data.stdout)["rows"]] == ["as it is", "adapted", "smooth"]


@pytest.fixture
def dubai(tmp_path):
    """Two small tiles in Dubai's folders, one class to each quarter."""
    colours = np.array([*DUBAI_COLOURS, (155, 155, 155)], np.uint8)
    codes = np.kron(np.arange(6).reshape(2, 3), np.ones((60, 60), int))
    for tile in (7, 8):
        folder = tmp_path / "dubai_mbrsc" / f"Tile {tile}"
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        Image.fromarray(colours[codes]).save(folder / "masks" / "image_part_001.png")
        Image.fromarray(colours[codes]).save(folder / "images" / "image_part_001.jpg")
    return tmp_path


class Right:
    """Says what is there, by where it is: one class to each square."""

    def segment(self, images, valid, classes):
        scores = np.zeros((len(images), len(classes), *images.shape[2:]), np.float32)
        for k in range(len(classes)):
            row, col = divmod(k, 3)
            scores[:, k, row * 60 : row * 60 + 60, col * 60 : col * 60 + 60] = 0.9
        return scores


def test_the_proving_ground_gives_images_to_adapt_to_and_scores_what_is_labelled(dubai):
    place = ground(dubai)
    tiles = place.tiles(["dubai/8"], 64)
    assert len(tiles) == 2
    image, valid = tiles.read(0)
    assert image.shape == (3, 64, 64)
    assert valid.all()
    assert place.tiles(["dubai/8"], 64).digest == tiles.digest != place.tiles(["dubai/8"], 32).digest
    small, seen = place.tiles(["dubai/8"], 256).read(0)
    assert seen.sum() == 120 * 180
    assert not small[:, ~seen].any()
    judged = place.judge(Right(), "dubai/7", 512)
    assert judged.classes == ("building", "land", "road", "vegetation", "water")
    [counts] = judged.images
    assert counts.mean_iou(1) == 1.0
    assert counts.counts.sum() == 5 * 3600


def test_generated_scenes_are_places_too_and_their_quarters_count_as_images(tmp_path):
    place, generated = ground(tmp_path), next(each for each in PLACES if each.name == "generated, test")
    assert len(place.tiles(["generated/test"], 512)) == 12
    judged = place.judge(Right(), "generated/test", 512)
    assert (judged.classes, len(judged.images)) == (CLASSES, 12)
    assert sum(counts.counts.sum() for counts in judged.images) == sum((scene.codes != IGNORE).sum() for scene in generated.read(tmp_path))
    assert place.digest("generated/test") != place.digest("generated/calibration")


def test_an_unknown_place_is_named(dubai):
    with pytest.raises(ConfigError, match=r"a place \(dubai/1, .*banepa/south-east.*generated/test.*'dubai/3'"):
        ground(dubai).tiles(["dubai/3"], 64)
    with pytest.raises(ConfigError, match="a folder of data sets"):
        module.find_ground(dubai / "nowhere")
