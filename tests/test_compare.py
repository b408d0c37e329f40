"""Change between two runs: its laws, on small rasters, and what the command leaves."""

import json

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from conftest import random_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyproj import CRS, Transformer
from run_folder import UNSEEN
from scipy import ndimage
from typer.testing import CliRunner

from rs_pipeline.changes import _within, find_gained, margin_px
from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.cli import app
from rs_pipeline.cog import BlockRaster, Look
from rs_pipeline.compare import Rules, compare_runs
from rs_pipeline.errors import OutputError, UsageError
from rs_pipeline.grid import Grid
from rs_pipeline.labels import Labels, values_of, whole_pixel_offset

UTM = CRS.from_epsg(32632)
EXACT = Rules("0")
FEW = settings(max_examples=8, deadline=None)
TOLERANCES = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])


def grid_at(shape, x=500_000.0, y=5_300_000.0, gsd=0.5, crs=UTM):
    return Grid(crs, Affine(gsd, 0, x, 0, -gsd, y), *shape)


def classes_named(*names):
    return ClassSet(tuple(Class(v, name, (name,), (v, 0, 0), 0.5) for v, name in enumerate(names, 1)))


def write_run(folder, labels, names=("road", "water"), grid=None, status="complete"):
    """A run folder as far as a comparison reads it."""
    grid = grid or grid_at(labels.shape)
    folder.mkdir(parents=True)
    raster = BlockRaster(folder / "part.tif", grid, 1, Look(UNSEEN, ("class",), {}))
    raster.write(grid.window, labels[None])
    raster.finish(folder / "labels.tif", "mode")
    for name in ("scores.tif", "layers.gpkg"):
        (folder / name).touch()
    manifest = {
        "classes": classes_named(*names).to_list(),
        "plan": {"grid": grid.to_dict()},
        "scenes": [{"id": folder.name, "datetime": "2024-05-01T10:30:00Z"}],
        "model": {"name": "fake"},
        "run_key": folder.name,
        "finished": "2026-01-01T00:00:00+00:00",
        "status": status,
    }
    (folder / "run.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """Compares two label rasters, or run folders, and gives the summary."""

    def compare(before, after, rules=EXACT, **run_b):
        base = tmp_path_factory.mktemp("runs")
        a = write_run(base / "a", before)
        return compare_runs(a, write_run(base / "b", after, **run_b), base / "changes", rules)

    return compare


def layer(found, name):
    return gpd.read_file(f"{found['out']}/changes.gpkg", layer=name)


def everything(found):
    """All polygons of a comparison, by layer, whatever their order, and the areas."""
    names = [name for name, _ in pyogrio.list_layers(f"{found['out']}/changes.gpkg") if name != "layer_styles"]
    layers = {name: sorted(layer(found, name).to_wkb().to_csv(index=False).splitlines()) for name in names}
    return layers, found["classes"], found["transitions"]


def rasters(values=(0, 1, 1, 2, 255)):
    """Rasters up to 20 pixels wide, fine or in blots."""
    fine = hnp.arrays(np.uint8, st.just((11, 13)), elements=st.sampled_from(values))
    blots = hnp.arrays(np.uint8, st.just((5, 6)), elements=st.sampled_from(values)).map(lambda a: np.kron(a, np.ones((4, 4), np.uint8)))
    return st.one_of(fine, blots)


def pairs():
    return st.tuples(rasters(), rasters()).map(lambda pair: (pair[0][:11, :13], pair[1][:11, :13]))


def seen(before, after):
    return (before != UNSEEN) & (after != UNSEEN)


@FEW
@given(rasters(), st.one_of(st.just(0.0), TOLERANCES))
def test_a_run_beside_itself_shows_no_change(labels, tolerance):
    gained = find_gained(labels, labels, tolerance)
    np.testing.assert_array_equal(gained, np.where(labels == UNSEEN, UNSEEN, 0))


@given(pairs())
def test_gained_and_unchanged_together_are_the_class_where_it_can_be_compared(pair):
    before, after = pair
    gained, lost, both = find_gained(before, after, 0), find_gained(after, before, 0), seen(before, after)
    for value in (1, 2):
        unchanged = (before == value) & (after == value)
        np.testing.assert_array_equal((gained == value) | unchanged, (after == value) & both)
        np.testing.assert_array_equal((lost == value) | unchanged, (before == value) & both)
    np.testing.assert_array_equal(gained == UNSEEN, ~both)


@given(pairs(), TOLERANCES)
def test_a_tolerance_only_ever_takes_away_and_never_what_is_far_from_where_the_class_was(pair, tolerance):
    before, after = pair
    every, kept = find_gained(before, after, 0), find_gained(before, after, tolerance)
    assert ((kept == every) | (kept == 0)).all()
    for value in (1, 2):
        was_there = (before == value) | (before == UNSEEN)
        far = ndimage.distance_transform_edt(~was_there) > tolerance if was_there.any() else np.ones(before.shape, bool)
        assert (kept[far & (every == value)] == value).all()


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=15)), st.sampled_from([0.5, 1, 1.5, 2, 5**0.5, 3, 50**0.5, 40])
)
def test_the_buffer_is_that_of_a_distance_transform(mask, distance):
    expected = ndimage.distance_transform_edt(~mask) <= distance if mask.any() else mask
    np.testing.assert_array_equal(_within(mask, distance), expected)


@given(rasters(), st.integers(-3, 3), st.integers(-3, 3))
def test_a_shift_within_the_tolerance_is_no_change(labels, rows, cols):
    bare = np.pad(labels, 8, constant_values=UNSEEN)
    shifted = np.roll(bare, (rows, cols), (0, 1))
    gained = find_gained(bare, shifted, float(np.hypot(rows, cols)) or 1.0)
    assert set(np.unique(gained)) <= {0, UNSEEN}


def test_a_real_change_keeps_its_shape_while_slivers_along_the_same_outline_go():
    before, after = np.zeros((60, 60), np.uint8), np.zeros((60, 60), np.uint8)
    before[20:40, 5:50] = 1
    after[21:41, 5:50] = 1  # one pixel lower: misplaced
    after[41:55, 20:34] = 1  # and an annexe
    gained = find_gained(before, after, 2.0)
    assert (gained[41:55, 20:34] == 1).all()
    margin = margin_px(2.0)
    assert not gained[:, : 20 - margin].any()
    assert not gained[:, 34 + margin :].any()
    assert not find_gained(after, before, 2.0).any()


def test_beside_what_was_not_observed_a_change_must_be_wider_than_the_tolerance():
    before, after = np.zeros((30, 30), np.uint8), np.zeros((30, 30), np.uint8)
    before[:, :5] = UNSEEN
    after[2:4, 5:30] = 1  # goes on where nothing was seen, and away from there
    after[10:30, 5:7] = 1  # a rim
    gained = find_gained(before, after, 3.0)
    assert (gained[2:4, 5:] == 1).all()
    assert not gained[10:, 5:].any()


@FEW
@given(pairs(), st.sampled_from(["0", "1px", "0.8m"]), st.sampled_from([4, 8]), st.integers(3, 12))
def test_blocks_do_not_matter(compare, pair, tolerance, connectivity, block_px):
    if not seen(*pair).any():
        return
    whole = compare(*pair, Rules(tolerance, 0.3, connectivity))
    assert everything(compare(*pair, Rules(tolerance, 0.3, connectivity, block_px))) == everything(whole)


@FEW
@given(pairs(), st.sampled_from(["0", "1px"]))
def test_gained_and_lost_swap_with_the_runs_and_areas_add_up(compare, pair, tolerance):
    if not seen(*pair).any():
        return
    one, other = compare(*pair, Rules(tolerance)), compare(*pair[::-1], Rules(tolerance))
    for a, b in zip(one["classes"], other["classes"], strict=True):
        assert (a["gained_m2"], a["lost_m2"], a["a_m2"]) == (b["lost_m2"], b["gained_m2"], b["b_m2"])
        assert a["a_m2"] == a["unchanged_m2"] + a["lost_m2"] + a["lost_ignored_m2"] + a["not_comparable_a_m2"]
        assert a["b_m2"] == a["unchanged_m2"] + a["gained_m2"] + a["gained_ignored_m2"] + a["not_comparable_b_m2"]
        for change in ("gained", "lost"):
            assert layer(one, f"{a['name']} {change}").area.sum() == pytest.approx(a[f"{change}_m2"])


def two():
    """A road that grows by 4 m², a lake that goes, and a corner that is seen once."""
    before, after = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    before[10:14, 0:20], after[10:14, 0:24] = 1, 1
    before[20:30, 20:30] = 2
    before[:5, :5], after[35:, 30:] = UNSEEN, UNSEEN
    before[36:38, 32:34], after[0:2, 0:2] = 1, 2
    return before, after


def test_the_layers_are_styled_and_say_what_happened(compare):
    found = compare(*two())
    road, water = found["classes"]
    assert (road["gained_m2"], road["gained_polygons"], road["lost_m2"]) == (4.0, 1, 0.0)
    assert (water["lost_m2"], water["b_m2"], water["not_comparable_b_m2"]) == (25.0, 1.0, 1.0)
    assert road["not_comparable_a_m2"] == 1.0
    assert (found["observed_in_a_only_m2"], found["observed_in_b_only_m2"]) == (12.5, 6.25)
    assert found["transitions"] == [{"from": None, "to": "road", "area_m2": 4.0}, {"from": "water", "to": None, "area_m2": 25.0}]
    (lost,) = layer(found, "water lost").itertuples()
    assert (lost._2, lost.change, lost.area_m2) == ("water", "lost", 25.0)
    assert layer(found, "road lost").empty
    coverage = layer(found, "coverage").groupby("state")["area_m2"].sum()
    assert coverage.to_dict() == {"compared": found["compared_m2"], "not compared": 18.75}
    styles = pyogrio.read_dataframe(f"{found['out']}/changes.gpkg", layer="layer_styles")
    assert set(styles["f_table_name"]) == {"road gained", "road lost", "water gained", "water lost", "coverage"}


def test_small_changes_are_left_out_and_counted(compare):
    found = compare(*two(), Rules("0", min_area_m2=5))
    assert [(c["gained_m2"], c["gained_ignored_m2"], c["lost_m2"]) for c in found["classes"]] == [(0.0, 4.0, 0.0), (0.0, 0.0, 25.0)]


def test_classes_are_matched_by_name_and_those_of_one_run_named(compare):
    before, after = two()
    found = compare(before, np.where(after == 1, np.uint8(2), np.uint8(0)), names=("building", "road"), status="partial")
    assert [c["name"] for c in found["classes"]] == ["road"]
    assert found["classes"][0]["gained_m2"] == 4.0
    text = "\n".join(found["notes"])
    assert "water is in a only" in text
    assert "building is in b only" in text
    assert "b has failed tiles" in text
    with pytest.raises(UsageError, match="road, water and building"):
        compare(before, after, names=("building", "tree"))


def test_a_grid_moved_by_whole_pixels_is_not_resampled(compare):
    before, after = two()
    wide = np.pad(after, ((3, 0), (7, 2)), constant_values=1)
    found = compare(before, wide, grid=grid_at(wide.shape, x=500_000 - 7 * 0.5, y=5_300_000 + 3 * 0.5))
    assert found["classes"] == compare(before, after)["classes"]
    assert found["notes"] == []
    with pytest.raises(UsageError, match="share no observed pixel"):
        compare(before, after, grid=grid_at(after.shape, x=600_000))


@pytest.mark.parametrize("epsg", [32632, 32633, 4326])
def test_labels_on_another_grid_are_those_of_the_pixel_below_each_centre(tmp_path, epsg):
    labels = np.random.default_rng(0).integers(0, 3, (50, 60)).astype(np.uint8)
    here = grid_at((50, 60), gsd=2.0)
    folder = write_run(tmp_path / "b", labels, grid=here)
    crs = CRS.from_epsg(epsg)
    x, y = Transformer.from_crs(UTM, crs, always_xy=True).transform(499_990.0, 5_300_010.0)
    there = grid_at((70, 80), x, y, gsd=1.7 if epsg != 4326 else 2e-5, crs=crs)
    source = Labels(str(folder / "labels.tif"), here, values_of(classes_named("road", "water"), {"road": 7}))
    found = source.read_on(there, there.window)
    rows, cols = np.mgrid[0:70, 0:80] + 0.5
    px, py = Transformer.from_crs(crs, UTM, always_xy=True).transform(*(there.transform @ (cols, rows)))
    r, c = np.floor((5_300_000 - py) / 2).astype(int), np.floor((px - 500_000) / 2).astype(int)
    inside = (r >= 0) & (r < 50) & (c >= 0) & (c < 60)
    assert 0 < inside.mean() < 1
    expected = np.where(inside, np.take([0, 7, 0], labels[r.clip(0, 49), c.clip(0, 59)]), UNSEEN)
    np.testing.assert_array_equal(found, expected)
    assert whole_pixel_offset(there, here) is None
    for window in (grid_at((1, 1)).window, type(there.window)(13, 5, 30, 41)):
        rows, cols = window.slices()
        np.testing.assert_array_equal(source.read_on(there, window), expected[rows, cols])


def test_runs_of_two_resolutions_are_compared_with_a_note(compare):
    before = np.zeros((40, 40), np.uint8)
    before[10:20, 10:20] = 1
    found = compare(before, before[::2, ::2].copy(), grid=grid_at((20, 20), gsd=1.0))
    assert (found["classes"][0]["gained_m2"], found["classes"][0]["unchanged_m2"]) == (0.0, 25.0)
    assert "nearest neighbour" in found["notes"][0]


def test_the_command_prints_a_table_and_a_second_time_finds_it_done(tmp_path):
    runs = [str(write_run(tmp_path / name, labels)) for name, labels in zip("ab", two(), strict=True)]
    result = CliRunner().invoke(app, ["compare", *runs])
    assert result.exit_code == 0, result.output
    assert "not comparable" in result.output
    assert "changes-a-b/changes.gpkg" in result.output.replace("\n", "")
    before = (tmp_path / "changes-a-b" / "changes.json").read_text()
    again = CliRunner().invoke(app, ["compare", *runs, "--json"])
    assert json.loads(again.stdout) == json.loads(before)
    assert sorted(p.name for p in (tmp_path / "changes-a-b").iterdir()) == ["changes.gpkg", "changes.json"]
    with pytest.raises(OutputError, match="another one"):
        compare_runs(*map(type(tmp_path), runs), rules=Rules("3px"))
    renewed = compare_runs(*map(type(tmp_path), runs), rules=Rules("3px"), overwrite=True)
    assert renewed["rules"]["tolerance_m"] == 1.5


def test_what_cannot_be_compared_is_refused_and_nothing_left(tmp_path):
    a, b = (write_run(tmp_path / name, labels) for name, labels in zip("ab", two(), strict=True))
    for folder, rules, message in (
        (tmp_path, Rules(), "without labels.tif"),
        (b, Rules("2 feet"), "2m or 1px"),
        (b, Rules("1000"), "at most 200 pixels"),
    ):
        with pytest.raises((OutputError, UsageError), match=message):
            compare_runs(a, folder, tmp_path / "out", rules)
        assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError, match="something else"):
        compare_runs(a, b, tmp_path)


def test_polygons_lie_where_the_pixels_are(compare):
    (gained,) = layer(compare(*two()), "road gained").geometry
    assert shapely.equals(gained, shapely.box(500_010, 5_299_993, 500_012, 5_299_995))


@pytest.fixture
def two_dates(make_scene, tmp_path):
    """Flags of a run over two scenes, of 2020 and of 2024."""
    for seed, year in ((1, 2020), (2, 2024)):
        make_scene(f"archive/s_{year}0101.tif", random_pixels(seed=seed))
    flags = ["--source", tmp_path / "archive", "--classes", "road,water", "--model", "fake_segmenter:pointwise", "--cluster", "in-process"]
    return [str(flag) for flag in ("run", *flags, "--out", tmp_path / "o" / "two", "--datetime", "2020-01-01")]


def test_two_dates_in_one_go_are_two_runs_and_their_comparison(two_dates, tmp_path):
    result = CliRunner().invoke(app, [*two_dates, "--compare-to", "2024-01-01", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [run["scenes"][0]["id"] for run in found["runs"]] == ["s_20200101", "s_20240101"]
    out = tmp_path / "o" / "two"
    assert [found["changes"][run]["dates"] for run in "ab"] == [["2020-01-01T00:00:00Z"], ["2024-01-01T00:00:00Z"]]
    alone = compare_runs(out / "a", out / "b", tmp_path / "alone")
    assert found["changes"]["classes"] == alone["classes"]
    assert alone["classes"][0]["gained_m2"] > 0
    again = CliRunner().invoke(app, [*two_dates, "--compare-to", "2024-01-01"])
    assert again.exit_code == 0, again.output
    assert "two/changes/changes.gpkg" in again.output.replace("\n", "")
    assert json.loads((out / "changes" / "changes.json").read_text()) == found["changes"]


def test_two_dates_can_be_rehearsed_and_want_both(two_dates, tmp_path):
    result = CliRunner().invoke(app, [*two_dates, "--compare-to", "2024-01-01", "--dry-run", "--json"])
    assert [[s["id"] for s in run["scenes"]] for run in json.loads(result.stdout)["runs"]] == [["s_20200101"], ["s_20240101"]]
    assert not (tmp_path / "o").exists()
    for wrong in (["--compare-to", "2024-01-01", "--per-scene"], ["--compare-to", "soon"]):
        assert isinstance(CliRunner().invoke(app, [*two_dates, *wrong]).exception, UsageError)
    assert isinstance(CliRunner().invoke(app, [*two_dates[:-2], "--compare-to", "2024-01-01"]).exception, UsageError)


def test_failed_tiles_of_either_date_are_exit_code_3(two_dates, make_scene):
    pixels = random_pixels()
    pixels[0, 70:75, 90:95] = 250
    make_scene("archive/s_20240101.tif", pixels)
    flags = ["--model", "fake_segmenter:failing", "--set", "radiometry.high_percent=100"]
    result = CliRunner().invoke(app, [*two_dates, *flags, "--compare-to", "2024-01-01", "--json"])
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert "failed tiles" in found["changes"]["notes"][0]
    assert found["changes"]["observed_in_a_only_m2"] > 0
