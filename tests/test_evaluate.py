"""The demo scene, a run of it, and its score; and labelled data sets, evaluated as `run` would segment them."""

import importlib.util
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import random_pixels
from labelled_folders import COLOURS, PAIRS_PALETTE, random_labels, save, write_pairs
from test_cli import rs_seg

from rs_pipeline.config import load_settings
from rs_pipeline.datasets import Truth, find_pairs
from rs_pipeline.demo import truth_labels
from rs_pipeline.errors import OutputError
from rs_pipeline.evaluate import evaluate, score_run
from rs_pipeline.grid import Grid
from rs_pipeline.layouts import class_set, load_layout
from rs_pipeline.metrics import confusion
from rs_pipeline.mosaic import label_block
from rs_pipeline.reporting import Silent
from rs_pipeline.scorecard import describe
from rs_pipeline.tuning import THRESHOLDS, best_threshold, count_scores, tune


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


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary folders go; the test fails if one stays (dask leaves an empty one, as it does in every run)."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert {path.name for path in folder.rglob("*")} <= {"dask-scratch-space", "purge.lock", "global.lock"}


@pytest.fixture
def pairs(tmp_path, scratch):
    """(folder, predictions, truths) of five pairs that the pointwise segmenter gets wrong in places."""
    found = [random_labels(seed=seed) for seed in range(5)]
    real = [np.where(random_labels(seed=seed + 9) == 0, random_labels(seed=seed + 20), labels) for seed, labels in enumerate(found)]
    real = [np.where(random_labels(seed=seed + 30, values=9) == 0, 9, labels).astype(np.uint8) for seed, labels in enumerate(real)]
    return write_pairs(tmp_path / "data", found, real), found, real


def on(folder, *more, model="pointwise", layout="pairs"):
    return ["evaluate", "--data", folder, "--layout", layout, "--model", f"fake_segmenter:{model}", "--refine", "none", *more]


def counted(found, real, n=4):
    first, *others = (confusion(t, p, n, ignore=9) for p, t in zip(found, real, strict=True))
    return sum(others, start=first)


def test_figures_are_those_counted_by_hand(pairs, capsys):
    folder, found, real = pairs
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, out, err = rs_seg(capsys, *on(folder, "--json"))
    assert (code, err) == (0, "")
    report, expected = json.loads(out), counted(found, real)
    assert report["confusion"]["counts"] == expected.counts.tolist()
    assert report["confusion"]["labels"] == ["background", "road", "water", "building"]
    assert report["miou"] == pytest.approx(expected.iou[1:].mean())
    assert report["miou_with_background"] == pytest.approx(expected.iou.mean())
    assert report["iou"] == pytest.approx(dict(zip(("road", "water", "building"), expected.iou[1:], strict=True)))
    assert report["iou_background"] == pytest.approx(expected.iou[0])
    assert report["pixel_accuracy"] == pytest.approx(expected.pixel_accuracy)
    assert report["miou_interval"][0] <= report["miou"] <= report["miou_interval"][1]
    assert 0 < report["boundary_f1"]["mean"] < 1
    assert (report["images"], report["layout"], report["not_observed_px"], report["failed_tiles"]) == (5, "pairs", 0, [])
    assert report["thresholds"] == {"road": 0.5, "water": 0.75, "building": 0.5}
    assert report["settings"]["gsd_m"] == [0.5, 0.5]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "nothing is written beside the data"


def test_tiles_change_nothing(pairs, capsys):
    reports = []
    for flags in ([], ["--set", "tile_px=32", "--set", "overlap_px=8"], ["--set", "tile_px=256", "--set", "workers.batch_size=1"]):
        report = json.loads(rs_seg(capsys, *on(pairs[0], "--json", *flags))[1])
        reports.append({key: value for key, value in report.items() if key != "settings"})
    assert reports[0] == reports[1] == reports[2]


def test_an_evaluation_is_a_run_held_against_a_mask(make_scene, capsys, tmp_path, scratch):
    """What `rs-seg run` labels, taken as the truth, is met exactly, whatever the resolution and the CRS."""
    cases = [("EPSG:32632", None, []), ("EPSG:32632", None, ["--gsd", "1.5"]), ("EPSG:4326", 6e-6, [])]
    for case, (crs, degrees, flags) in enumerate(cases):
        folder = tmp_path / f"case{case}"
        place = {"crs": crs} if degrees is None else {"crs": crs, "origin": (9.0, 47.8), "gsd": degrees}
        scene = make_scene(f"case{case}/images/s.tif", random_pixels(), **place)
        own = [] if flags else ["--gsd", "0.5"] if degrees is None else []
        model = ["--model", "fake_segmenter:pointwise", "--classes", "road,water,building"]
        out = tmp_path / f"run{case}"
        assert rs_seg(capsys, "run", "--source", scene, "--out", out, *model, *flags, *own)[0] == 0
        with rasterio.open(out / "labels.tif") as labels, rasterio.open(scene) as image:
            rows, cols = np.mgrid[: image.height, : image.width] + 0.5
            x, y = image.transform.a * cols + image.transform.c, image.transform.e * rows + image.transform.f
            if degrees is not None:
                moved = rasterio.warp.transform(crs, labels.crs, x.ravel(), y.ravel())
                x, y = (np.reshape(v, rows.shape) for v in moved)
            inverse, values = ~labels.transform, labels.read(1)
            r = np.floor((inverse.d * x + inverse.e * y) + inverse.f).astype(int).clip(0, labels.height - 1)
            c = np.floor((inverse.a * x + inverse.b * y) + inverse.c).astype(int).clip(0, labels.width - 1)
            save(folder / "masks" / "s.png", values[r, c])
        (folder / "palette.yaml").write_text("palette: {0: background, 1: road, 2: water, 3: building, 255: ignore}\n")
        report = json.loads(rs_seg(capsys, *on(folder, "--json", "--set", "vocabulary=default", *flags))[1])
        assert report["miou"] == report["pixel_accuracy"] == report["boundary_f1"]["mean"] == 1.0, case
        assert report["miou_interval"] is None


def test_classes_not_asked_for_are_background(pairs, capsys):
    folder, found, real = pairs
    report = json.loads(rs_seg(capsys, *on(folder, "--json", "--classes", "road"))[1])
    only = counted([p == 1 for p in found], [np.where(t == 9, 9, t == 1) for t in real], 2)
    assert report["confusion"]["counts"] == only.counts.tolist()


def test_the_table_for_people_has_the_figures(pairs, capsys):
    folder, found, real = pairs
    code, out, _ = rs_seg(capsys, *on(folder))
    expected = counted(found, real)
    assert code == 0
    assert f"{expected.iou[1:].mean():.3f}" in out
    assert f"{expected.counts[2, 2]:,}" in out
    assert "5 images of" in out


def test_a_failed_tile_is_not_observed_and_exit_code_3(tmp_path, scratch, capsys):
    labels = [random_labels(130, 140, seed=seed) for seed in range(2)]
    folder = write_pairs(tmp_path / "data", labels, labels)
    pixels = COLOURS[labels[1]] // 2
    pixels[70:75, 70:75] = 255
    save(folder / "images" / "01.png", pixels)
    save(folder / "images" / "00.png", COLOURS[labels[0]] // 2)
    stretch = ["--set", "radiometry.high_percent=100", "--set", "radiometry.low_percent=0"]
    code, out, err = rs_seg(capsys, *on(folder, "--json", "--set", "tile_px=32", *stretch, model="failing"))
    report = json.loads(out)
    # The brightest red is 1 after the stretch: image 00 fails whole, image 01 in one place.
    whole = {f["image"] for f in report["failed_tiles"] if f["index"] == 0}
    assert (code, whole) == (3, {"images/00.png"})
    assert 130 * 140 < report["not_observed_px"] < 130 * 140 + 64 * 64
    assert report["not_observed_px"] + np.sum(report["confusion"]["counts"]) == 2 * 130 * 140
    assert "images/01.png: " in err


def test_unknown_colours_are_said_and_count_nowhere(pairs, capsys):
    folder, found, real = pairs
    mask = real[0].copy()
    mask[:2, :10] = 77
    save(folder / "masks" / "00.png", mask)
    code, out, err = rs_seg(capsys, *on(folder, "--json"))
    report = json.loads(out)
    assert (code, report["unknown_px"]) == (0, 20)
    assert "images/00.png: 20 px of 00.png" in err
    mask[:2, :10] = 9
    assert report["confusion"]["counts"] == counted(found, [mask, *real[1:]]).counts.tolist()


def test_bad_input_of_an_evaluation_is_one_line(pairs, tmp_path, capsys):
    folder, *_ = pairs
    corrupt = write_pairs(tmp_path / "corrupt", pairs[1], pairs[2])
    content = (corrupt / "images" / "01.png").read_bytes()
    (corrupt / "images" / "01.png").write_bytes(content[: len(content) // 2])
    wrong = write_pairs(tmp_path / "wrong", pairs[1], [labels[:-1] for labels in pairs[2]])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "palette.yaml").write_text(PAIRS_PALETTE)
    cases = [
        (on(corrupt), 1, "01.png"),
        (on(wrong), 1, "a mask of 60 x 70 px"),
        (on(tmp_path / "empty"), 1, "none in"),
        (on(tmp_path / "nowhere"), 2, "palette.yaml"),
        (on(tmp_path / "nowhere", layout="dubai"), 1, "images/*.jpg"),
        (on(folder, layout="cityscapes"), 2, "a layout of"),
        (on(folder, "--classes", "castle"), 2, "road, water, building"),
        (on(folder, "--classes", "road,road"), 2, "each class once"),
        (on(folder, "--split", "val"), 2, "a split of this layout"),
        (on(folder, "--limit", "0"), 2, "--limit"),
        (on(folder, "--compare", "none,smooth"), 2, "--refine or --compare"),
        ([*on(folder)[:-2], "--compare", "none"], 2, "two or more presets"),
        ([*on(folder)[:-2], "--compare", "none,nothing"], 2, "'nothing'"),
        (on(folder, "--tune-on", folder), 2, "apart from --data"),
        ([*on(folder)[:-2], "--compare", "none,clip", "--set", "refine.preset=none"], 2, "refine.preset=none for the row clip"),
        ([*on(folder)[:-2], "--compare", "none,smooth"], 1, "got smooth in smooth. Leave it out of --compare."),
        (on(folder, model="narrow"), 1, "Of these classes it knows --classes road,water."),
        (on(folder, "--gsd", "-1"), 2, "greater than 0"),
        (on(folder, "--set", "nodata=300"), 1, f"got 300 for {folder}/images/00.png"),
        (on(folder, model="broken"), 1, "no tile at all"),
    ]
    for arguments, expected, message in cases:
        code, out, err = rs_seg(capsys, *arguments)
        last = err.strip().splitlines()[-1]
        assert (code, out) == (expected, ""), f"{arguments}: {code} {err}"
        assert message in last, f"{arguments}: {err}"
        assert all(line.startswith("note: ") for line in err.strip().splitlines()[:-1])


def test_presets_are_compared_on_the_same_images(pairs, tmp_path, capsys):
    idle = tmp_path / "idle.yaml"
    idle.write_text("steps: []\n")
    flags = [*on(pairs[0])[:-2], "--compare", f"none,{idle}"]
    report = json.loads(rs_seg(capsys, *flags, "--json")[1])
    assert list(report["presets"]) == ["none", str(idle)]
    assert all(preset["difference"] == {"miou": 0.0, "interval": [0.0, 0.0]} for preset in report["presets"].values())
    assert report["presets"]["none"]["confusion"] == report["presets"][str(idle)]["confusion"]
    code, out, _ = rs_seg(capsys, *flags)
    assert (code, "+0.000…+0.000" in out) == (0, True)


def evaluated(folder, thresholds):
    layout = load_layout("pairs", folder)
    settings = load_settings(None, {"model": "fake_segmenter:pointwise", "workers.cluster": "in-process", "refine.preset": "none"})
    dataset, classes = find_pairs(layout, folder), class_set(layout, ())
    classes = replace(classes, classes=tuple(replace(c, threshold=t) for c, t in zip(classes, thresholds, strict=True)))
    return dataset, evaluate(dataset, settings, classes, Silent())


def test_the_difference_of_two_settings_is_of_their_pooled_figures(pairs):
    dataset, first = evaluated(pairs[0], (0.3, 0.5, 0.5))
    # At 0 a black pixel, on which all classes score 0, is of the first class.
    _, other = evaluated(pairs[0], (0.0, 0.5, 0.5))
    report = describe(dataset, {"layout": "pairs"}, {"first": first, "other": other})["presets"]["other"]
    expected = other.confusion.mean_iou(1) - first.confusion.mean_iou(1)
    assert expected < 0
    assert report["difference"]["miou"] == pytest.approx(expected)
    assert report["difference"]["interval"][0] <= expected <= report["difference"]["interval"][1]


def test_thresholds_are_tuned_on_the_other_folder_and_never_look_at_the_data(pairs, tmp_path, monkeypatch, capsys):
    opened = []
    real_open = rasterio.open
    monkeypatch.setattr(rasterio, "open", lambda path, *more, **options: opened.append(str(path)) or real_open(path, *more, **options))
    labels = random_labels(seed=50)
    other = write_pairs(tmp_path / "tuning", [labels], [np.where(labels == 2, 0, labels)])
    # Water is never there where it scores 0.57 or less, and always where it scores 1; the stretch leaves 0…255 as they are.
    pixels = COLOURS[labels].astype(int)
    truth = labels.copy()
    faint = (labels == 2) & (np.arange(labels.shape[1]) < 35)
    pixels[faint] = (0, 145, 0)
    truth[faint] = 0
    save(other / "images" / "00.png", pixels.astype(np.uint8))
    save(other / "masks" / "00.png", truth)
    layout = load_layout("pairs", other)
    settings = load_settings(None, {"model": "fake_segmenter:pointwise", "workers.cluster": "in-process", "refine.preset": "none"})
    tuned = tune(find_pairs(layout, other), settings, class_set(layout, ()), Silent())
    assert {c.name: c.threshold for c in tuned} == {"road": 0.2, "water": 0.6, "building": 0.2}
    assert any(str(other) in path for path in opened)
    assert not any(str(pairs[0]) in path for path in opened)
    code, out, _ = rs_seg(capsys, *on(pairs[0], "--json", "--tune-on", other))
    report = json.loads(out)
    assert (code, report["thresholds"]) == (0, {"road": 0.2, "water": 0.6, "building": 0.2})
    assert report["tuned_on"] == str(other)
    assert report["confusion"]["counts"] == counted(*pairs[1:]).counts.tolist()
    fixed = rs_seg(capsys, *on(pairs[0], "--tune-on", other, "--set", "scoring.threshold=0.5"))
    assert (fixed[0], "scoring.threshold=0.5" in fixed[2]) == (2, True)


def test_the_best_threshold_is_found_as_by_trying_all(scratch):
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 255, (3, 40, 50)).astype(np.uint8)
    scores[:, :3] = 255
    truth = np.where(rng.random((40, 50)) < 0.5, scores.argmax(axis=0) + 1, rng.integers(0, 4, (40, 50))).astype(np.uint8)
    truth[:, :4] = 255
    counts = count_scores(Truth(truth, 0), scores)
    for k in range(3):
        iou = []
        for threshold in THRESHOLDS:
            labels = label_block(scores, [threshold if i == k else 0.7 for i in range(3)])
            iou.append(confusion(truth, labels, 4).iou[k + 1])
        assert best_threshold(counts[k], list(THRESHOLDS)) == THRESHOLDS[int(np.argmax(iou))]


def test_a_class_that_no_mask_shows_keeps_its_threshold(tmp_path, scratch):
    labels = random_labels(values=3)
    folder = write_pairs(tmp_path / "data", [labels], [labels])
    layout = load_layout("pairs", folder)
    settings = load_settings(None, {"model": "fake_segmenter:pointwise", "refine.preset": "none"})
    notes = []

    class Listening(Silent):
        def note(self, text):
            notes.append(text)

    tuned = tune(find_pairs(layout, folder), settings, class_set(layout, ()), Listening())
    assert [c.threshold for c in tuned] == [0.2, 0.2, 0.5]
    assert notes == [f"building is in no mask of {folder}: its threshold stays 0.5"]


def test_refusals_come_before_the_first_image(pairs, tmp_path, monkeypatch, capsys):
    def refuse(*arguments):
        raise AssertionError("an image was run")

    monkeypatch.setattr("rs_pipeline.image_runs.infer_tiles", refuse)
    folder, found, real = pairs
    bad = write_pairs(tmp_path / "bad", found[:2], real[:2])
    save(bad / "images" / "01.png", real[1])
    cases = [
        ([*on(folder)[:-2], "--compare", "none,smooth"], "refinements"),
        (on(bad), "red, green and blue"),
        (on(folder, "--tune-on", bad), "red, green and blue"),
        (on(bad, "--tune-on", folder), "red, green and blue"),
    ]
    for arguments, message in cases:
        code, _, err = rs_seg(capsys, *arguments)
        assert (code, message in err) == (1, True), err


def test_masks_are_read_with_the_palette_of_their_own_folder(pairs, tmp_path, capsys):
    labels = random_labels(seed=50)
    other = write_pairs(tmp_path / "tuning", [labels], [labels + 4])
    own = "palette: {4: background, 5: road, 6: water, 7: building}\n"
    (other / "palette.yaml").write_text(own)
    code, out, err = rs_seg(capsys, *on(pairs[0], "--json", "--tune-on", other))
    assert (code, err) == (0, "")
    assert json.loads(out)["thresholds"] == {"road": 0.2, "water": 0.2, "building": 0.2}
    # One palette for both, told: the masks of the tuning hold nothing of it.
    given = rs_seg(capsys, *on(pairs[0], "--tune-on", other, "--palette", pairs[0] / "palette.yaml"))
    assert (given[0], f"none in the 1 images of {other}" in given[2]) == (1, True)
    (other / "palette.yaml").write_text(own.replace("building", "car"))
    code, _, err = rs_seg(capsys, *on(pairs[0], "--tune-on", other))
    assert (code, "the classes of --data (road, water, building) in --tune-on; got road, water, car" in err) == (2, True)


def test_masks_of_which_the_palette_knows_nothing_are_an_error(tmp_path, scratch, capsys):
    labels = random_labels()
    folder = write_pairs(tmp_path / "data", [labels] * 2, [labels + 100] * 2)
    code, out, err = rs_seg(capsys, *on(folder, "--json"))
    assert (code, out) == (1, "")
    assert f"none in the 2 images of {folder}" in err.splitlines()[-1]
    other = write_pairs(tmp_path / "other", [random_labels(seed=1)], [random_labels(seed=1)])
    code, out, err = rs_seg(capsys, *on(other, "--tune-on", folder))
    assert (code, f"none in the 2 images of {folder}" in err) == (1, True)


def test_an_image_without_a_valid_pixel_is_not_observed(tmp_path, scratch, capsys):
    labels = [random_labels(seed=seed) for seed in range(3)]
    folder = write_pairs(tmp_path / "data", labels, labels)
    save(folder / "images" / "00.png", np.zeros((60, 70, 4), np.uint8))
    code, out, err = rs_seg(capsys, *on(folder, "--json"))
    report = json.loads(out)
    assert (code, err) == (0, "note: images/00.png has no valid pixel and is not observed\n")
    assert (report["not_observed_px"], report["failed_tiles"]) == (60 * 70, [])
    assert report["confusion"]["counts"] == counted(labels[1:], labels[1:]).counts.tolist()
    assert rs_seg(capsys, *on(folder, "--tune-on", write_pairs(tmp_path / "other", labels[:1], labels[:1])))[0] == 0
    assert rs_seg(capsys, *on(tmp_path / "other", "--tune-on", folder))[0] == 0
    for index in (1, 2):
        save(folder / "images" / f"{index:02d}.png", np.zeros((60, 70, 4), np.uint8))
    code, _, err = rs_seg(capsys, *on(folder))
    assert (code, "none in the 3 images of" in err.splitlines()[-1]) == (1, True)


def test_names_in_brackets_are_printed_as_they_are(tmp_path, scratch, capsys):
    labels = random_labels()
    folder = write_pairs(tmp_path / "[bold] data", [labels], [labels])
    (folder / "palette.yaml").write_text("palette: {0: background, 1: 'road [paved]', 2: 'car [/car]', 3: 'lot :car:'}\n")
    code, out, err = rs_seg(capsys, *on(folder))
    assert (code, err) == (0, "")
    for name in ("road [paved]", "car [/car]", "lot :car:"):
        assert out.count(name) == 3, "in the table of classes, and twice in the confusion"
    assert f"1 images of {folder}" in out


def test_an_interrupted_evaluation_says_that_nothing_is_kept(pairs, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("rs_pipeline.image_runs.infer_tiles", interrupt)
    code, _, err = rs_seg(capsys, *on(pairs[0]))
    assert (code, err) == (130, "rs-seg: interrupted; nothing is kept of an evaluation, the same command starts again\n")


def test_the_table_of_effects_has_a_cell_where_there_is_no_interval():
    spec = importlib.util.spec_from_file_location("effects", Path(__file__).parent.parent / "bench" / "effects.py")
    effects = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(effects)
    figures = {"miou": 0.5, "miou_interval": None, "difference": {"miou": -0.01, "interval": None}}
    assert (effects._cell(figures, first=True), effects._cell(figures, first=False)) == ("0.500", "-0.0100")
    known = {"difference": {"miou": 0.01, "interval": [0.0, 0.02]}}
    assert effects._cell(known, first=False) == "+0.0100 (+0.0000…+0.0200)"
    assert effects._cell({"difference": {"miou": None, "interval": None}}, first=False) == "-"
