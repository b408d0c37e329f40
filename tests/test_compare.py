"""Change between two runs: its laws, on small rasters, and what the command leaves."""

import json
import re
from pathlib import Path

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
from rs_pipeline.config import load_settings
from rs_pipeline.errors import OutputError, RasterError, UsageError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.labels import Labels, values_of, whole_pixel_offset
from rs_pipeline.shared_grid import grow_grid
from rs_pipeline.two_dates import settings_of_dates

UTM = CRS.from_epsg(32632)
EXACT = Rules("0")
FEW = settings(max_examples=8, deadline=None)
SOME = settings(max_examples=30, deadline=None)
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

    def compare(before, after, rules=EXACT, grid_a=None, **run_b):
        base = tmp_path_factory.mktemp("runs")
        a = write_run(base / "a", before, grid=grid_a)
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
    road, water = compare(before, after)["classes"]
    rim_m2 = (wide.size - after.size) * 0.25
    beyond = {"b_m2": road["b_m2"] + rim_m2, "not_comparable_b_m2": road["not_comparable_b_m2"] + rim_m2}
    assert found["classes"] == [road | beyond, water]
    assert found["notes"] == ["b reaches beyond a, whose grid was grown to hold both: 43 x 49 px"]
    with pytest.raises(UsageError, match="share no observed pixel"):
        compare(before, after, grid=grid_at(after.shape, x=600_000))


def shifted(labels, rows, cols):
    """Labels, and a grid for them so many pixels below and right of where others lie."""
    return labels, grid_at(labels.shape, x=500_000 + cols * 0.5, y=5_300_000 - rows * 0.5)


def places():
    """Labels somewhere on one lattice, now and then beside each other."""
    return st.builds(shifted, rasters(), st.integers(-14, 14), st.integers(-14, 14))


def on_canvas(labels, grid):
    """Where labels that lie somewhere were observed, (80, 80), 20 pixels of it above and left of `grid_at`."""
    canvas = np.zeros((80, 80), bool)
    row, col = round((5_300_010 - grid.transform.f) * 2), round((grid.transform.c - 499_990) * 2)
    canvas[row : row + grid.height, col : col + grid.width] = labels != UNSEEN
    return canvas


@SOME
@given(places(), places(), st.sampled_from([EXACT, Rules("1px"), Rules("1.5px", 0.6, 8, 7)]))
def test_areas_are_those_of_both_runs_whole_wherever_they_lie_and_swap_with_them(tmp_path_factory, one, two, rules):
    base = tmp_path_factory.mktemp("places")
    a, b = (write_run(base / name, labels, grid=grid) for name, (labels, grid) in zip("ab", (one, two), strict=True))
    if not (on_canvas(*one) & on_canvas(*two)).any():
        with pytest.raises(UsageError, match="share no observed pixel"):
            compare_runs(a, b, base / "ab", rules)
        return
    found = compare_runs(a, b, base / "ab", rules)
    other = compare_runs(b, a, base / "ba", rules)
    for value, (row, swapped) in enumerate(zip(found["classes"], other["classes"], strict=True), 1):
        assert row["a_m2"] == np.count_nonzero(one[0] == value) * 0.25
        assert row["b_m2"] == np.count_nonzero(two[0] == value) * 0.25
        assert [row[k] for k in ("gained_m2", "gained_polygons", "a_m2")] == [swapped[k] for k in ("lost_m2", "lost_polygons", "b_m2")]
        assert [row[k] for k in ("lost_m2", "lost_polygons", "b_m2")] == [swapped[k] for k in ("gained_m2", "gained_polygons", "a_m2")]
    for (labels, _), alone in ((one, "observed_in_a_only_m2"), (two, "observed_in_b_only_m2")):
        assert found["compared_m2"] + found[alone] == np.count_nonzero(labels != UNSEEN) * 0.25
    states = layer(found, "coverage").groupby("state")["area_m2"].sum()
    assert states.get("not compared", 0.0) == found["observed_in_a_only_m2"] + found["observed_in_b_only_m2"]
    boxes = [shapely.box(*grid.bounds) for _, grid in (one, two)]
    assert Grid.from_dict(found["grid"]).bounds == shapely.union_all(boxes).bounds


@SOME
@given(rasters((0, 1, 2)), st.integers(-11, 11), st.integers(-11, 11))
def test_a_coarser_run_is_counted_whole_where_its_pixels_end_on_those_of_the_first(tmp_path_factory, labels, rows, cols):
    base = tmp_path_factory.mktemp("coarser")
    a = write_run(base / "a", np.zeros((24, 24), np.uint8))
    b = write_run(base / "b", labels, grid=grid_at(labels.shape, x=500_000 + cols * 0.5, y=5_300_000 - rows * 0.5, gsd=1.0))
    found = compare_runs(a, b, base / "changes", EXACT)
    assert [row["b_m2"] for row in found["classes"]] == [float(np.count_nonzero(labels == value)) for value in (1, 2)]
    assert found["compared_m2"] + found["observed_in_b_only_m2"] == np.count_nonzero(labels != UNSEEN)


def test_a_run_in_another_projection_is_counted_whole(compare):
    x, y = Transformer.from_crs(UTM, 32633, always_xy=True).transform(499_900.0, 5_300_080.0)
    grid = grid_at((100, 90), x, y, gsd=2.0, crs=CRS.from_epsg(32633))
    found = compare(np.zeros((40, 40), np.uint8), np.ones(grid.shape, np.uint8), grid=grid)
    area = gpd.GeoSeries([shapely.box(*grid.bounds)], crs=grid.crs).to_crs(UTM).area[0]
    assert found["classes"][0]["b_m2"] == pytest.approx(area, rel=2e-3)
    assert found["compared_m2"] == 400.0
    outline = layer(found, "coverage").union_all().envelope
    assert shapely.box(*Grid.from_dict(found["grid"]).bounds).contains(outline)
    assert ["nearest neighbour" in found["notes"][0], "grown" in found["notes"][1]] == [True, True]


GRIDS = st.builds(
    lambda shape, x, y, gsd: grid_at(shape, 500_000 + x, 5_300_000 + y, gsd),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(-60, 60),
    st.floats(-60, 60),
    st.sampled_from([0.5, 0.8, 2.0]),
)


@given(GRIDS, GRIDS)
def test_a_grown_grid_is_the_smallest_of_the_same_pixels_that_holds_both(grid, other):
    grown = grow_grid(grid, other)
    row, col = whole_pixel_offset(grid, grown)
    assert Window(0, 0, *grown.shape).contains(Window(row, col, *grid.shape))
    left, bottom, right, top = shapely.union_all([shapely.box(*g.bounds) for g in (grid, other)]).bounds
    more = [grown.bounds[k] - bound for k, bound in enumerate((left, bottom, right, top))]
    slack = 2e-3 * grid.gsd_m  # of a pixel, as outlines are rounded
    assert max(more[:2]) <= slack
    assert min(more[2:]) >= -slack
    assert max(map(abs, more)) < grid.gsd_m + slack


def test_runs_that_one_grid_would_hold_badly_are_compared_on_the_first_and_the_rest_is_measured(compare):
    across, down = np.ones((2, 9000), np.uint8), np.ones((9000, 2), np.uint8)
    down[5000:, 0] = UNSEEN
    found = compare(across, down)
    assert found["grid"] == grid_at(across.shape).to_dict()
    assert (found["compared_m2"], found["observed_in_a_only_m2"]) == (1.0, 4499.0)
    assert found["observed_in_b_uncounted_m2"] == np.count_nonzero(down[2:] != UNSEEN) * 0.25 == 3499.0
    assert found["notes"] == ["b reaches too far beyond a for one grid of both: 3,499 m² that were observed there are not counted"]


def test_a_run_over_the_pole_makes_no_huge_grid_of_another_s_projection(compare):
    svalbard, arctic = CRS.from_epsg(32633), CRS.from_epsg(3995)
    here = grid_at((50, 50), 500_000.0, 8_700_000.0, crs=svalbard)
    there = grid_at((600, 600), -3e6, 3e6, 10_000.0, crs=arctic)
    found = compare(np.zeros(here.shape, np.uint8), np.ones(there.shape, np.uint8), grid_a=here, grid=there)
    assert found["grid"] == here.to_dict()
    assert (found["compared_m2"], found["classes"][0]["gained_m2"]) == (625.0, 625.0)
    assert found["observed_in_b_uncounted_m2"] == 600 * 600 * 1e8
    with pytest.raises(UsageError, match="share no observed pixel"):
        compare(np.zeros((50, 50), np.uint8), np.ones((50, 50), np.uint8), grid=grid_at((50, 50), crs=CRS.from_epsg(32760)))


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


BAD_RULES = [
    *({"tolerance": value} for value in (-1, float("nan"), float("inf"), None, True, [2])),
    *({"min_area_m2": value} for value in (-5, float("nan"), float("inf"), "5", None)),
    *({"connectivity": value} for value in (5, 0, "4", None)),
    *({"block_px": value} for value in (0, -8, 7.5, "64", None)),
]


@pytest.mark.parametrize("wrong", BAD_RULES, ids=str)
def test_rules_that_make_no_sense_are_refused_in_words(wrong):
    with pytest.raises(UsageError, match=f"expected {next(iter(wrong))}: "):
        Rules(**wrong)


@given(st.floats(0, 90))
def test_a_tolerance_that_is_a_number_is_metres(metres):
    for same in (metres, np.float64(metres)):
        assert Rules(same).tolerance_px(grid_at((2, 2), gsd=0.5)) == pytest.approx(metres * 2, rel=1e-15)
    assert Rules(int(metres)) == Rules(f"{int(metres)}m") == Rules(float(int(metres)))


def test_numbers_of_any_kind_are_the_same_rules_and_paths_may_be_text(tmp_path):
    runs = [write_run(tmp_path / name, labels) for name, labels in zip("ab", two(), strict=True)]
    found = compare_runs(*map(str, runs), str(tmp_path / "out"), Rules(np.float32(1), np.int64(2), np.int64(8), np.int32(64)))
    assert json.loads((tmp_path / "out" / "changes.json").read_text()) == found == compare_runs(*runs, tmp_path / "out", Rules("1m", 2, 8))
    for wrong in ((None, runs[1]), (runs[0], 3), (*runs, 5)):
        with pytest.raises(UsageError, match="a path, as str or Path"):
            compare_runs(*wrong)


def damage(path, how):
    """Something that may befall a file."""
    content = path.read_bytes()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes(
            {"empty": b"", "cut short": content[: len(content) // 2], "cut at its end": content[:-100], "noise": b"\x07" * 5000}[how]
        )


@pytest.mark.parametrize("how", ["gone", "empty", "cut short", "cut at its end", "noise", "a folder"])
def test_a_comparison_whose_layers_are_damaged_is_done_again(tmp_path, how):
    runs = [write_run(tmp_path / name, labels) for name, labels in zip("ab", two(), strict=True)]
    before = compare_runs(*runs, rules=EXACT)
    layers = everything(before)
    damage(tmp_path / "changes-a-b" / "changes.gpkg", how)
    assert everything(compare_runs(*runs, rules=EXACT)) == layers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "changes-a-b"]


@pytest.mark.parametrize("content", ["[]", "{}", "7", "null", '{"product": "rs-seg changes"', '{"product": "rs-seg changes", "key": "k"}'])
def test_a_folder_whose_changes_json_says_something_else_is_left_alone(tmp_path, content):
    runs = [write_run(tmp_path / name, labels) for name, labels in zip("ab", two(), strict=True)]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "changes.json").write_text(content)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="something else"):
            compare_runs(*runs, tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "changes.json").read_text() == content


def test_a_comparison_without_one_of_its_facts_is_no_comparison(tmp_path):
    runs = [write_run(tmp_path / name, labels) for name, labels in zip("ab", two(), strict=True)]
    found = compare_runs(*runs, tmp_path / "out")
    for key in ("product", "key", "classes", "notes", "compared_m2"):
        (tmp_path / "out" / "changes.json").write_text(json.dumps({k: v for k, v in found.items() if k != key}))
        with pytest.raises(OutputError, match="something else"):
            compare_runs(*runs, tmp_path / "out")


DAMAGES = [
    [],
    {},
    "text",
    *({key: None} for key in ("classes", "plan", "scenes")),
    *({"classes": value} for value in ([], [{}], ["road"], {}, [{**classes_named("road").to_list()[0], "colour": []}])),
    *({"plan": value} for value in ({}, [], {"grid": {}}, {"grid": grid_at((2, 2)).to_dict() | {"crs": "nowhere"}})),
    *({"plan": {"grid": grid_at((2, 2)).to_dict() | wrong}} for wrong in ({"transform": [1, 2]}, {"height": 0}, {"width": "x"})),
    *({"scenes": value} for value in (3, [{}], ["s"])),
]


@pytest.mark.parametrize("change", DAMAGES, ids=str)
def test_a_run_whose_run_json_is_damaged_is_refused_in_words(tmp_path, change):
    a, b = (write_run(tmp_path / name, labels) for name, labels in zip("ab", two(), strict=True))
    facts = json.loads((b / "run.json").read_text())
    (b / "run.json").write_text(json.dumps(facts | change if isinstance(change, dict) and change else change))
    for runs in ((a, b), (b, a)):
        with pytest.raises(OutputError, match=r"expected a run\.json as a run leaves it; got .*b/run\.json"):
            compare_runs(*runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["empty", "cut short", "noise", "smaller"])
def test_damaged_labels_are_refused_and_nothing_left(tmp_path, how):
    pixels = np.random.default_rng(0).integers(0, 3, (600, 600)).astype(np.uint8)
    a, b, small = (write_run(tmp_path / name, pixels[:size, :size].copy()) for name, size in (("a", 600), ("b", 600), ("small", 50)))
    if how == "smaller":
        (small / "labels.tif").replace(b / "labels.tif")
    else:
        damage(b / "labels.tif", how)
    with pytest.raises(RasterError, match=r"b/labels\.tif"):
        compare_runs(a, b)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "small"]


@pytest.mark.parametrize("key", ["run_key", "finished", "status", "model", "scenes", "classes", "plan"])
def test_a_fact_that_a_run_lacks_is_named(tmp_path, key):
    a, b = (write_run(tmp_path / name, labels) for name, labels in zip("ab", two(), strict=True))
    facts = json.loads((b / "run.json").read_text())
    del facts[key]
    (b / "run.json").write_text(json.dumps(facts))
    with pytest.raises(OutputError, match=rf"b/run\.json without {key}\."):
        compare_runs(a, b)
    (b / "run.json").unlink()
    with pytest.raises(OutputError, match=r"finished run; got .* without run\.json"):
        compare_runs(a, b)


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


def test_what_somebody_compared_by_rules_of_his_own_is_not_replaced(two_dates, tmp_path):
    flags = [*two_dates, "--json", "--compare-to", "2024-01-01"]
    first = json.loads(CliRunner().invoke(app, flags).stdout)["changes"]
    a, b = tmp_path / "o" / "two" / "a", tmp_path / "o" / "two" / "b"
    changes = a.parent / "changes"
    own = compare_runs(a, b, changes, Rules("3px"), overwrite=True)
    error = CliRunner().invoke(app, flags).exception
    assert isinstance(error, OutputError)
    assert "with another one" in str(error)
    assert json.loads((changes / "changes.json").read_text()) == own
    # A run that was replaced since leaves nothing that the comparison speaks of.
    facts = json.loads((b / "run.json").read_text())
    (b / "run.json").write_text(json.dumps(facts | {"finished": "2199-01-01T00:00:00+00:00"}))
    again = CliRunner().invoke(app, flags)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["changes"]["classes"] == first["classes"]
    assert json.loads(again.stdout)["changes"]["rules"] == first["rules"]


def test_a_comparison_of_other_runs_in_the_place_of_that_of_two_dates_is_kept(two_dates, tmp_path):
    flags = [*two_dates, "--json", "--compare-to", "2024-01-01"]
    out = tmp_path / "o" / "two"
    assert CliRunner().invoke(app, flags).exit_code == 0
    for name, labels in zip("ab", two(), strict=True):
        write_run(tmp_path / "others" / name, labels)
    other = compare_runs(tmp_path / "others" / "a", tmp_path / "others" / "b", out / "changes", overwrite=True)
    assert isinstance(CliRunner().invoke(app, flags).exception, OutputError)
    assert json.loads((out / "changes" / "changes.json").read_text()) == other
    assert CliRunner().invoke(app, [*flags, "--set", "overwrite=true"]).exit_code == 0
    assert json.loads((out / "changes" / "changes.json").read_text())["a"]["out"] == str(out / "a")


def test_two_dates_that_were_moved_are_compared_again(two_dates, tmp_path):
    flags = [*two_dates, "--json", "--compare-to", "2024-01-01"]
    first = json.loads(CliRunner().invoke(app, flags).stdout)["changes"]
    moved = (tmp_path / "o" / "two").rename(tmp_path / "o" / "moved")
    again = CliRunner().invoke(app, [*flags, "--out", str(moved)])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["changes"]["classes"] == first["classes"]
    assert json.loads(again.stdout)["changes"]["a"]["out"] == str(moved / "a")


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


def dated(*sets, **flags):
    """Settings of a run of 2020, with others laid over them."""
    base = {"aoi": "11,47,12,48", "classes": ("road",), "datetime": "2020-01-01", "outputs": "here"}
    return load_settings(None, base | flags, sets)


DATES = ("2020-01-01", "2021-01-01", "2023-01-01", "2024-01-01")
DELIVERY = ("report=false", "overwrite=true", "store=/fast", "vectors.formats=[geojson]", "vectors.crs=EPSG:4326", "vectors.lines=[road]")
DECISIVE = ("aoi=11,47,12,49", "classes=[water]", "source=[x]", "model=sam3", "gsd_m=2", "tile_px=64", "nodata=0", "bands=[3,2,1]")


@pytest.mark.parametrize("text", [*DELIVERY, "vectors.licence=CC-BY-4.0", "workers.count=3", "workers.cluster=local", "prompt_batch=2"])
def test_how_a_comparison_is_delivered_and_computed_does_not_name_its_folder(text):
    before, after = settings_of_dates(dated(text), DATES[3])
    assert [before.out, after.out] == [run.out for run in settings_of_dates(dated(), DATES[3])]


@pytest.mark.parametrize("text", [*DECISIVE, "composite=oldest", "vectors.min_area_m2=9", "scoring.threshold=0.7", "refine.preset=none"])
def test_what_is_compared_names_its_folder(text):
    assert settings_of_dates(dated(text), DATES[3])[0].out != settings_of_dates(dated(), DATES[3])[0].out


def test_both_dates_name_the_folder_and_the_tiles_go_where_those_of_single_runs_go(tmp_path):
    names = {settings_of_dates(dated(f"datetime={one}"), other)[0].out for one in DATES[:2] for other in DATES[2:]}
    assert len(names) == 4
    assert {Path(name).parent.parent for name in names} == {Path("here")}
    here = str(Path("here").absolute() / ".tiles")
    assert [run.store for run in settings_of_dates(dated(), DATES[3])] == [here, here]
    assert settings_of_dates(dated(out=str(tmp_path / "o" / "two")), DATES[3])[1].store == str(tmp_path / "o" / ".tiles")
    assert settings_of_dates(dated("store=s3://bucket/b"), DATES[3])[1].store == "s3://bucket/b"


def test_tiles_are_shared_with_single_runs_and_between_comparisons(two_dates, tmp_path):
    def run(*flags):
        result = CliRunner().invoke(app, [*two_dates, "--json", *flags])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    [planned] = {summary["tiles"]["computed"] for summary in run("--compare-to", "2024-01-01")["runs"]}
    assert planned > 0
    assert not (tmp_path / "o" / "two" / ".tiles").exists()
    alone = run("--out", str(tmp_path / "o" / "alone"))
    assert (alone["tiles"]["computed"], alone["tiles"]["reused"]) == (0, planned)
    other = run("--out", str(tmp_path / "o" / "back"), "--datetime", "2024-01-01", "--compare-to", "2020-01-01")
    assert [summary["tiles"]["computed"] for summary in other["runs"]] == [0, 0]


def test_another_delivery_in_the_same_folder_says_what_to_do_and_computes_no_tile(two_dates, tmp_path):
    flags = [*two_dates, "--json", "--compare-to", "2024-01-01"]
    first = json.loads(CliRunner().invoke(app, flags).stdout)
    again = json.loads(CliRunner().invoke(app, [*flags, "--set", "report=false", "--workers", "1"]).stdout)
    assert [summary["finished"] for summary in again["runs"]] == [summary["finished"] for summary in first["runs"]]
    error = CliRunner().invoke(app, [*flags, "--format", "geojson"]).exception
    assert isinstance(error, OutputError)
    assert "--set overwrite=true" in str(error)
    renewed = CliRunner().invoke(app, [*flags, "--format", "geojson", "--set", "overwrite=true"])
    assert renewed.exit_code == 0, renewed.output
    assert [summary["tiles"]["computed"] for summary in json.loads(renewed.stdout)["runs"]] == [0, 0]
    assert (tmp_path / "o" / "two" / "b" / "road.geojson").is_file()
    assert json.loads(renewed.stdout)["changes"]["classes"] == first["changes"]["classes"]


def test_docs_outputs_md_says_what_a_comparison_leaves(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "outputs.md").read_text().split("\n## Comparisons\n")[1]
    sections = {part.split("\n")[0]: re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for part in page.split("\n### ")}
    named = {heading: re.findall("`([^`]+)`", " ".join(cells)) for heading, cells in sections.items()}
    runs = [write_run(tmp_path / name, labels) for name, labels in zip("ab", two(), strict=True)]
    found = compare_runs(*runs, tmp_path / "out")
    assert set(named[""]) == {path.name for path in (tmp_path / "out").iterdir()}
    for heading, name in (("Layers of `changes.gpkg`", "road gained"), ("Layer `coverage` of `changes.gpkg`", "coverage")):
        assert named[heading] == pyogrio.read_info(tmp_path / "out" / "changes.gpkg", layer=name)["fields"].tolist()
    keys = {f"{key}.{below}" for key in ("a", "rules") for below in found[key]}
    keys |= {f"{key}[].{below}" for key in ("classes", "transitions") for below in found[key][0]}
    assert set(named["changes.json"]) == keys | set(found)
