import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from rs_pipeline import wkb
from rs_pipeline.errors import OutputError
from rs_pipeline.wkb import Polygons, to_wkb

SQUARE = shapely.box(0, 0, 4, 4)
HOLED = SQUARE.difference(shapely.union_all([shapely.box(1, 1, 2, 2), shapely.box(3, 3, 3.5, 3.5)]))
FAR = shapely.Polygon([(1e7, -5.5), (1e7 + 1, -5.5), (1e7, 1 / 3)])


def ragged(polygons):
    _, points, (rings, starts) = shapely.to_ragged_array(polygons)
    return Polygons(points, rings.astype(np.int64), starts.astype(np.int64))


@given(st.lists(st.sampled_from([SQUARE, HOLED, FAR]), min_size=1, max_size=6))
def test_polygons_are_byte_for_byte_what_shapely_writes(polygons):
    assert to_wkb(ragged(polygons)).to_pylist() == [shapely.to_wkb(p, byte_order=1) for p in polygons]


@given(st.lists(st.lists(st.sampled_from([SQUARE, HOLED, FAR]), min_size=1, max_size=3), min_size=1, max_size=4))
def test_multipolygons_are_byte_for_byte_what_shapely_writes(groups):
    parts = np.cumsum([0, *map(len, groups)])
    written = to_wkb(ragged([p for group in groups for p in group]), parts).to_pylist()
    assert written == [shapely.to_wkb(shapely.MultiPolygon(group), byte_order=1) for group in groups]


@pytest.mark.parametrize("parts", [None, np.array([0])], ids=["polygons", "multipolygons"])
def test_nothing_is_nothing(parts):
    nothing = Polygons(np.empty((0, 2)), np.zeros(1, np.int64), np.zeros(1, np.int64))
    assert to_wkb(nothing, parts).to_pylist() == []


def test_what_no_geopackage_can_hold_is_refused(monkeypatch):
    monkeypatch.setattr(wkb, "MAX_BYTES", 100)
    assert len(to_wkb(ragged([SQUARE, SQUARE]))) == 2
    with pytest.raises(OutputError, match="GeoPackage can hold"):
        to_wkb(ragged([SQUARE, HOLED]))
