from collections.abc import Callable, Iterator

import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyproj import CRS
from scipy import ndimage

from rs_pipeline import vectorize
from rs_pipeline.blocks import Planes, Rules, framed_blocks, take_apart
from rs_pipeline.frontier import Frontier
from rs_pipeline.grid import Grid, Window
from rs_pipeline.vectorize import OBSERVED, UNOBSERVED, Features, Outlines, polygonize, polygonize_coverage

CLASSES = 3
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
LAWS = settings(max_examples=50, deadline=None)
BLOCKS = st.integers(1, 9)


def grid_of(labels: np.ndarray, transform: Affine = NORTH_UP) -> Grid:
    return Grid(CRS.from_epsg(32633), transform, *labels.shape)


def reader(labels: np.ndarray, scores: np.ndarray | None = None, sources: np.ndarray | None = None) -> Callable:
    scores = np.zeros(labels.shape, np.uint8) if scores is None else scores
    sources = np.zeros(labels.shape, np.uint8) if sources is None else sources

    def read_block(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, cols = window.slices()
        return labels[rows, cols], scores[rows, cols], sources[rows, cols]

    return read_block


def joined(batches: Iterator[Features]) -> Features:
    """All batches as one, by id."""
    parts = list(batches)
    if not parts:
        return Features(*(np.empty(0) for _ in Features._fields))
    for part in parts:
        assert (np.diff(part.id) > 0).all()
    parts = [part._replace(geometry=shapely.from_wkb(part.geometry.to_pylist())) for part in parts]
    whole = Features(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    order = np.argsort(whole.id)
    return Features(*(column[order] for column in whole))


def vectors(labels: np.ndarray, block_px: int, **options: object) -> Features:
    return joined(polygonize(grid_of(labels), CLASSES, reader(labels), block_px, Outlines(**options)))


def burn(features: Features, grid: Grid) -> np.ndarray:
    if not len(features.id):
        return np.zeros(grid.shape, np.uint8)
    shapes = zip(features.geometry, features.value.tolist(), strict=True)
    return rasterio.features.rasterize(shapes, grid.shape, transform=grid.transform, dtype="uint8")


def assert_same(one: Features, other: Features) -> None:
    """Equal to the last bit, the order of vertices included."""
    for name in set(Features._fields) - {"geometry"}:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert [g.wkb for g in one.geometry] == [g.wkb for g in other.geometry]


def picture(text: str) -> np.ndarray:
    """Labels from rows of digits; a dot is background."""
    return np.array([[int(c) if c != "." else 0 for c in line] for line in text.split()], np.uint8)


def patches(seed: int, shape: tuple[int, int], blur: float) -> np.ndarray:
    """Labels 0…CLASSES in blobs; speckle where nothing is blurred."""
    noise = np.random.default_rng(seed).normal(size=(CLASSES + 1, *shape))
    return np.argmax([ndimage.gaussian_filter(n, blur) for n in noise], axis=0).astype(np.uint8)


SHAPES = {
    "ring with an island": "111111 1....1 1.22.1 1.22.1 1....1 111111",
    "ring in ring": "1111111 1.....1 1.111.1 1.1.1.1 1.111.1 1.....1 1111111",
    "U that joins late": "1..1 1..1 1..1 1111",
    "upside-down U": "1111 1..1 1..1 1..1",
    "comb": "1.1.1.1 1.1.1.1 1.1.1.1 1111111",
    "spiral": "1111111 ......1 11111.1 1...1.1 1.111.1 1.....1 1111111",
    "plus on a block corner": "..1.. ..1.. 11111 ..1.. ..1..",
    "four squares that touch at corners": "11.. 11.. ..11 ..11",
    "object that touches itself around a hole": "111. 1.1. 11.1 .111",
    "hole that touches the outline": "1111 1.11 11.1 111.",
    "two holes that touch": "11111 1.111 11.11 11111 11111",
    "hole open at its corner, both ways": "1110 1011 1101 0111",
    "chessboard": "1.1.1 .1.1. 1.1.1 .1.1. 1.1.1",
    "chessboard of two": "12121 21212 12121 21212 12121",
    "one pixel": "1",
    "one row": "1122211",
    "one column": "1 1 2 2 1",
    "everything": "1111 1111 1111",
    "staircase": "1.... 11... .11.. ..11. ...11",
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_are_the_same_at_every_block_size_and_as_another_polygonizer_makes_them(text: str) -> None:
    labels = picture(text)
    whole = vectors(labels, 100)
    assert shapely.is_valid(whole.geometry).all()
    others = rasterio.features.shapes(labels, mask=labels > 0, connectivity=4, transform=NORTH_UP)
    expected = sorted((shapely.normalize(shapely.geometry.shape(shape)).wkt, int(value)) for shape, value in others)
    assert sorted((shapely.normalize(g).wkt, int(v)) for g, v in zip(whole.geometry, whole.value, strict=True)) == expected
    for block_px in range(1, max(labels.shape)):
        assert_same(vectors(labels, block_px), whole)


def label_rasters() -> st.SearchStrategy[np.ndarray]:
    """Rasters up to 24 pixels wide, fine or in blots, with 0 and 255 among their labels."""
    fine = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 1, 2, 3, 255]))
    return st.builds(lambda labels, size: np.kron(labels, np.ones((size, size), np.uint8)), fine, st.integers(1, 2))


@given(label_rasters(), BLOCKS)
@LAWS
def test_law_6_rasterizing_the_polygons_gives_the_labels_back(labels: np.ndarray, block_px: int) -> None:
    features = vectors(labels, block_px)
    assert shapely.is_valid(features.geometry).all()
    np.testing.assert_array_equal(burn(features, grid_of(labels)), np.where(labels == 255, 0, labels))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 0.6, 0.7]), st.integers(3, 17))
@LAWS
def test_law_6_holds_for_tangled_objects_and_blocks_change_nothing(seed: int, density: float, block_px: int) -> None:
    labels = (np.random.default_rng(seed).random((25, 23)) < density).astype(np.uint8)
    features = vectors(labels, block_px)
    assert_same(features, vectors(labels, 100))
    assert shapely.is_valid(features.geometry).all()
    np.testing.assert_array_equal(burn(features, grid_of(labels)), labels)


@given(label_rasters(), BLOCKS, st.integers(0, 2**32 - 1), st.sampled_from([4, 8]))
@LAWS
def test_attributes_are_those_of_the_objects_pixels(labels: np.ndarray, block_px: int, seed: int, connectivity: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 255, labels.shape).astype(np.uint8)
    sources = rng.choice(np.array([0, 1, 253, 255], np.uint8), labels.shape)
    features = joined(polygonize(grid_of(labels), CLASSES, reader(labels, scores, sources), block_px, Outlines(connectivity)))
    expected = []
    for value in range(1, CLASSES + 1):
        objects, count = ndimage.label(labels == value, structure=ndimage.generate_binary_structure(2, connectivity // 4))
        for number in range(1, count + 1):
            mask = objects == number
            source = np.bincount(sources[mask], minlength=256).argmax()
            expected.append((np.flatnonzero(mask)[0], value, mask.sum(), mask.sum() * 0.25, scores[mask].mean() / 254, source))
    rows = zip(features.id, features.value, features.pixels, features.area_m2, features.score_mean, features.source, strict=True)
    np.testing.assert_allclose(np.array(list(rows)).reshape(-1, 6), np.array(sorted(expected)).reshape(-1, 6), rtol=1e-12)
    np.testing.assert_allclose(shapely.area(features.geometry), features.area_m2)


@given(label_rasters(), BLOCKS, st.integers(1, 12))
@LAWS
def test_small_objects_are_left_out_whole_and_large_ones_kept_whole(labels: np.ndarray, block_px: int, pixels: int) -> None:
    everything = vectors(labels, 100)
    large = everything.pixels >= pixels
    assert_same(vectors(labels, block_px, min_area_m2=pixels * 0.25), Features(*(column[large] for column in everything)))


@given(label_rasters(), BLOCKS)
@LAWS
def test_the_outline_says_how_much_of_it_lies_beside_what_was_not_observed(labels: np.ndarray, block_px: int) -> None:
    labels = np.where(labels == 3, 255, labels).astype(np.uint8)
    features = vectors(labels, block_px)
    around = np.pad(labels, 1, constant_values=255)
    for first, share in zip(features.id, features.edge_not_observed, strict=True):
        row, col = divmod(int(first), labels.shape[1])
        objects, _ = ndimage.label(around == labels[row, col])
        mine = objects == objects[row + 1, col + 1]
        beside = np.concatenate([around[np.roll(mine, step, axis) & ~mine] for step in (1, -1) for axis in (0, 1)])
        assert share == (beside == 255).mean()


@given(label_rasters(), BLOCKS)
@LAWS
def test_law_6_corners_connect_on_request_into_one_multipolygon_whatever_the_blocks(labels: np.ndarray, block_px: int) -> None:
    features = vectors(labels, block_px, connectivity=8)
    expected = []
    for value in range(1, CLASSES + 1):
        objects, count = ndimage.label(labels == value, structure=np.ones((3, 3)))
        expected += [(np.flatnonzero(objects == n)[0], value, (objects == n).sum()) for n in range(1, count + 1)]
    assert list(zip(features.id, features.value, features.pixels, strict=True)) == sorted(expected)
    assert shapely.is_valid(features.geometry).all()
    assert set(shapely.get_type_id(features.geometry)) <= {shapely.GeometryType.MULTIPOLYGON}
    np.testing.assert_array_equal(burn(features, grid_of(labels)), np.where(labels <= CLASSES, labels, 0))
    assert_same(features, vectors(labels, 100, connectivity=8))


@pytest.mark.parametrize("options", [{}, {"connectivity": 8}, {"simplify_m": 1.0}], ids=["4", "8", "simplified"])
def test_threads_change_nothing(options: dict[str, float]) -> None:
    labels = patches(7, (90, 110), 3.0)
    several = joined(polygonize(grid_of(labels), CLASSES, reader(labels), 16, Outlines(**options), threads=3))
    assert_same(several, vectors(labels, 16, **options))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.7, 2.0]),
    st.integers(3, 60),
    st.sampled_from([0.3, 0.5, 1.0, 3.0]),
    st.sampled_from([4, 8]),
)
@LAWS
def test_simplified_neighbours_keep_their_edges_in_common_across_blocks(
    seed: int, blur: float, block_px: int, tolerance_m: float, connectivity: int
) -> None:
    labels = patches(seed, (50, 60), blur) + np.uint8(1)  # no background: any gap would show
    grid = grid_of(labels)
    features = joined(polygonize(grid, CLASSES + 1, reader(labels), block_px, Outlines(simplify_m=tolerance_m, connectivity=connectivity)))
    assert shapely.is_valid(features.geometry).all()
    assert shapely.coverage_is_valid(features.geometry)
    assert not shapely.is_empty(features.geometry).any()
    whole = shapely.union_all(features.geometry)
    assert whole.equals(shapely.box(*grid.bounds))
    assert shapely.area(features.geometry).sum() == pytest.approx(whole.area)


def test_simplification_takes_stairs_away_and_little_else() -> None:
    row, col = np.indices((300, 300))
    labels = (np.hypot(row - 150.2, col - 149.6) < 100).astype(np.uint8)
    exact, simple = (vectors(labels, 64, simplify_m=tolerance).geometry[0] for tolerance in (0.0, 1.0))
    assert shapely.get_num_coordinates(simple) < shapely.get_num_coordinates(exact) / 3
    assert simple.symmetric_difference(exact).area < 0.02 * exact.area
    assert shapely.hausdorff_distance(simple, exact) < 3 * 0.5
    assert simple.length < 0.85 * exact.length


def test_a_hair_s_tolerance_changes_no_shape() -> None:
    labels = patches(3, (70, 70), 1.5)
    exact, simple = (vectors(labels, 20, simplify_m=tolerance) for tolerance in (0.0, 1e-6))
    assert shapely.equals(exact.geometry, simple.geometry).all()
    np.testing.assert_array_equal(exact.pixels, simple.pixels)


@given(label_rasters(), BLOCKS)
@LAWS
def test_coverage_parts_what_was_asked_for_into_observed_and_not(labels: np.ndarray, block_px: int) -> None:
    grid = grid_of(labels)
    inside = np.indices(labels.shape).sum(axis=0) % 7 != 0
    coverage = joined(polygonize_coverage(grid, lambda w: labels[w.slices()], lambda w: inside[w.slices()], block_px))
    states = np.where(labels == 255, UNOBSERVED, OBSERVED)
    np.testing.assert_array_equal(burn(coverage, grid), np.where(inside, states, 0))
    assert coverage.pixels.sum() == inside.sum()


def test_a_river_over_ten_blocks_is_one_polygon() -> None:
    labels = np.zeros((40, 100), np.uint8)
    cols = np.arange(100)
    rows = (20 + 15 * np.sin(cols / 9)).astype(int)
    for row, col in zip(rows, cols, strict=True):
        labels[row - 2 : row + 3, col] = 2
    features = vectors(labels, 10)
    assert len(features.id) == 1
    assert features.pixels[0] == (labels == 2).sum()
    assert_same(features, vectors(labels, 200))


def test_polygons_follow_a_rotated_grid() -> None:
    labels = picture("11. 1.1 .11")
    grid = grid_of(labels, Affine(1.5, -0.75, 1000, 1.0, 1.5, 2000))
    features = joined(polygonize(grid, CLASSES, reader(labels), 2))
    np.testing.assert_allclose(features.area_m2, [9.0, 9.0])
    np.testing.assert_allclose(shapely.area(features.geometry), features.area_m2)
    np.testing.assert_array_equal(burn(features, grid), labels)


def test_outer_rings_run_counter_clockwise_and_holes_clockwise() -> None:
    geometry = vectors(picture("111 1.1 111"), 2).geometry[0]
    assert geometry.exterior.is_ccw
    assert not geometry.interiors[0].is_ccw


def test_the_lowest_of_equal_sources_is_named() -> None:
    labels = np.ones((1, 4), np.uint8)
    sources = np.array([[7, 7, 3, 3]], np.uint8)
    features = joined(polygonize(grid_of(labels), 1, reader(labels, labels, sources), 3))
    assert features.source.tolist() == [3]


def test_labels_beyond_the_classes_make_no_objects() -> None:
    assert len(vectors(np.full((3, 3), CLASSES + 1, np.uint8), 2).id) == 0


def test_without_objects_there_are_no_batches() -> None:
    labels = np.zeros((5, 5), np.uint8)
    assert list(polygonize(grid_of(labels), CLASSES, reader(labels), 2)) == []


def test_finished_objects_leave_before_the_next_block_is_read() -> None:
    labels = np.zeros((40, 10), np.uint8)
    labels[2::10, 2] = 1
    read = []

    def read_block(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        read.append(window)
        return reader(labels)(window)

    for number, batch in enumerate(polygonize(grid_of(labels), CLASSES, read_block, 10), start=1):
        assert len(batch.id) == 1
        assert len(read) <= number + 2  # two blocks are in hand


def test_objects_that_ended_are_forgotten() -> None:
    labels = np.zeros((400, 10), np.uint8)
    labels[:, ::2] = 1
    labels[::8] = 0
    grid, front = grid_of(labels), Frontier(grid_of(labels))
    blocks = framed_blocks(grid, lambda w: Planes(labels[w.slices()], *np.zeros((2, 10, 10), np.uint8)), 10)
    for window, framed in blocks:
        front.begin_band(10)
        front.add(take_apart(grid, window, framed, Rules(8, 0.0)))
        front.end_band()
        assert sum(len(corners.piece) for corners in front._corners) <= 20


@pytest.mark.parametrize("limit", [1, 10, 100])
def test_large_batches_are_cut_between_objects(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (30, 30)).astype(np.uint8)
    whole = vectors(labels, 30)
    monkeypatch.setattr(vectorize, "_BATCH_CORNERS", limit)
    batches = list(polygonize(grid_of(labels), CLASSES, reader(labels), 30))
    assert len(batches) > 1
    assert_same(joined(iter(batches)), whole)


def test_a_block_of_no_size_is_refused() -> None:
    labels = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="got block_px 0"):
        list(polygonize(grid_of(labels), CLASSES, reader(labels), 0))
