"""Instance targets: buildings of a crop one by one, as rasterio and shapely see them, and what is doubtful is unknown."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize, shapes
from rs_model.instances import COMPACT_FROM_PX, LARGEST_PX, SMALLEST_CUT_PX, SMALLEST_PX, STRIDE, instance_targets
from rs_model.labels import CLASSES, IGNORE, NOT_BUILDING, SEALED
from shapely.geometry import box, shape

BUILDING, LAND, ROAD = (CLASSES.index(name) for name in ("building", "land", "road"))


def crop(*footprints, side=96, ground=LAND):
    """Codes of a crop with buildings (x0, y0, x1, y1) in pixels."""
    codes = np.full((side, side), ground, np.uint8)
    for x0, y0, x1, y1 in footprints:
        codes[y0:y1, x0:x1] = BUILDING
    return codes


def targets_of(codes, *, exact=False):
    (targets,) = instance_targets(codes[None], [exact])
    return targets


@st.composite
def towns(draw, side=64):
    """Crops of rectangles that may touch and overlap, on land, with patches of which nothing is known."""
    codes = np.full((side, side), LAND, np.uint8)
    for code in draw(st.lists(st.sampled_from([BUILDING] * 4 + [IGNORE, SEALED, ROAD]), max_size=14)):
        x, y = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
        codes[y : y + draw(st.integers(1, 20)), x : x + draw(st.integers(1, 20))] = code
    return codes


def share_of_cells(pixels):
    height, width = pixels.shape
    return pixels.reshape(height // STRIDE, STRIDE, width // STRIDE, STRIDE).mean((1, 3))


@given(towns())
@settings(max_examples=60, deadline=None)
def test_instances_are_the_polygons_that_rasterio_traces(codes):
    found = targets_of(codes, exact=True)
    frame = box(0, 0, *codes.shape[::-1]).exterior
    expected = {}
    for geometry, _ in shapes((codes == BUILDING).astype(np.uint8), codes == BUILDING, connectivity=4):
        polygon = shape(geometry)
        cut = polygon.exterior.intersection(frame).length > 0
        mask = share_of_cells(rasterize([polygon], codes.shape)) >= 0.5
        if polygon.area >= (SMALLEST_CUT_PX if cut else SMALLEST_PX) and mask.any():
            expected[polygon.bounds] = mask
    assert len(found.masks) == len(found.boxes)
    centre, size = found.boxes[:, :2] * 64, found.boxes[:, 2:] * 64
    bounds = [tuple(row) for row in np.concatenate([centre - size / 2, centre + size / 2], 1).tolist()]
    got = dict(zip(bounds, found.masks, strict=True))
    assert got.keys() == expected.keys()
    assert all((got[key] == expected[key]).all() for key in got)


@given(towns(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_building_pixel_that_is_not_taught_lies_on_an_unknown_cell_or_one_of_an_instance(codes, exact):
    found = targets_of(codes, exact=exact)
    any_instance = found.masks.any(0)
    assert not (found.unknown & any_instance).any()
    unsure = share_of_cells((codes == IGNORE) | (codes == SEALED)) > 0
    assert (found.unknown | any_instance)[unsure].all()
    full = share_of_cells(codes == BUILDING) == 1
    assert (found.unknown | any_instance)[full].all()
    certain = share_of_cells((codes == LAND) | (codes == ROAD)) == 1
    assert not (found.unknown | any_instance)[certain].any()


@given(towns(), st.integers(0, 3), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_turning_the_crop_turns_the_targets(codes, quarters, mirrored, exact):
    def turned(a):
        a = np.rot90(a, quarters)
        return a[:, ::-1] if mirrored else a

    plain, other = targets_of(codes, exact=exact), targets_of(np.ascontiguousarray(turned(codes)), exact=exact)
    assert (turned(plain.unknown) == other.unknown).all()
    assert sorted(turned(m).tobytes() for m in plain.masks) == sorted(m.tobytes() for m in other.masks)


def test_shapes_and_types_are_as_said_with_and_without_instances():
    for codes, count in ((crop(), 0), (crop((8, 8, 24, 20), (40, 40, 60, 52)), 2)):
        found = targets_of(codes)
        assert (found.masks.shape, found.masks.dtype) == ((count, 24, 24), np.bool_)
        assert (found.boxes.shape, found.boxes.dtype) == ((count, 4), np.float32)
        assert (found.unknown.shape, found.unknown.dtype) == ((24, 24), np.bool_)


def test_a_box_is_that_of_the_pixels_in_shares_of_the_side():
    found = targets_of(crop((10, 20, 30, 26)))
    np.testing.assert_allclose(found.boxes, [[20 / 96, 23 / 96, 20 / 96, 6 / 96]], rtol=1e-6)


def test_neighbours_a_pixel_apart_are_two_with_masks_of_their_own():
    found = targets_of(crop((16, 16, 31, 32), (32, 16, 48, 32)))
    assert len(found.masks) == 2
    assert found.masks.sum((1, 2)).tolist() == [16, 16]
    assert not (found.masks[0] & found.masks[1]).any()


def test_specks_and_slivers_at_the_border_are_unknown_and_not_background():
    speck, sliver, wide = (40, 40, 45, 45), (0, 8, 3, 30), (0, 60, 12, 76)
    assert SMALLEST_PX > 25
    assert 66 < SMALLEST_CUT_PX <= 192
    found = targets_of(crop(speck, sliver, wide))
    assert len(found.masks) == 1
    assert found.masks[0, 15:19, 0:3].all()
    assert found.unknown[10:12, 10:12].all()
    assert found.unknown[2:8, 0].all()
    assert found.unknown.sum() == 4 + 6


def test_a_line_too_thin_for_any_cell_is_unknown():
    found = targets_of(crop((8, 13, 56, 14)))
    assert len(found.masks) == 0
    assert found.unknown[3, 2:14].all()


@pytest.mark.parametrize("code", [SEALED, IGNORE])
def test_where_labels_do_not_tell_nothing_is_taught(code):
    found = targets_of(crop(ground=code))
    assert len(found.masks) == 0
    assert found.unknown.all()


def test_not_a_building_is_background():
    assert not targets_of(crop((8, 8, 24, 20), ground=NOT_BUILDING)).unknown.any()


def block(kind):
    """A crop of 192 px with one component and its area."""
    codes = crop(side=192)
    if kind == "ragged":  # a row of villas: a comb
        codes[40:60, 10:180] = BUILDING
        for x in range(10, 180, 34):
            codes[60:110, x : x + 10] = BUILDING
    elif kind == "huge":
        codes[10:130, 10:130] = BUILDING
    elif kind == "hall":
        codes[10:90, 10:70] = BUILDING
    else:  # small and ragged: a house with a wing
        codes[40:80, 40:60] = BUILDING
        codes[40:50, 60:90] = BUILDING
    return codes


@pytest.mark.parametrize(("kind", "kept"), [("ragged", 0), ("huge", 0), ("hall", 1), ("wing", 1)])
def test_what_may_be_many_buildings_in_one_label_is_unknown_unless_the_source_is_exact(kind, kept):
    codes = block(kind)
    area = (codes == BUILDING).sum()
    hull = shapely.unary_union([shape(g) for g, _ in shapes((codes == BUILDING).astype(np.uint8), codes == BUILDING)]).convex_hull.area
    assert {"ragged": area / hull < 0.85, "huge": area > LARGEST_PX, "hall": area > COMPACT_FROM_PX, "wing": area / hull < 0.85}[kind]
    found = targets_of(codes)
    assert len(found.masks) == kept
    assert found.unknown.any() == (not kept)
    exact = targets_of(codes, exact=True)
    assert len(exact.masks) == 1
    assert not exact.unknown.any()


def test_crops_of_a_batch_are_told_apart():
    codes = np.stack([block("huge"), block("huge"), crop(side=192)])
    found = instance_targets(codes, [True, False, True])
    assert [len(t.masks) for t in found] == [1, 0, 0]
    with pytest.raises(ValueError, match="zip"):
        instance_targets(codes, [True])
