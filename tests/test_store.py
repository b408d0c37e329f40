import os

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from rs_pipeline.errors import StoreError
from rs_pipeline.grid import Grid, Window
from rs_pipeline.store import TileStore
from rs_pipeline.tiles import TilePlan

PLAN = TilePlan(Grid(CRS(32632), Affine(1, 0, 0, 0, -1, 0), 50, 70), 32, 8)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(folder):
    return TileStore(folder)


def scores_of(tile, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (4, *tile.halo.shape), np.uint8)


def test_a_tile_comes_back_as_written_by_window(store):
    tile = PLAN.tile(1)
    scores = scores_of(tile)
    store.write(tile, scores)
    part = Window(tile.halo.row_off + 3, tile.halo.col_off + 5, 7, 9)
    assert np.array_equal(store.read(tile, tile.halo), scores)
    assert np.array_equal(store.read(tile, part), scores[:, 3:10, 5:14])


def test_a_tile_is_a_file_that_numpy_reads(store, folder):
    tile = PLAN.tile(1)
    turned = scores_of(tile).transpose(0, 2, 1).copy().transpose(0, 2, 1)
    store.write(tile, turned)
    [path] = folder.rglob("*.npy")
    np.save(folder / "saved.npy", np.ascontiguousarray(turned))
    assert path.read_bytes() == (folder / "saved.npy").read_bytes()


def test_done_tells_data_from_empty_and_ignores_what_is_half_written(store, folder):
    store.write(PLAN.tile(0), scores_of(PLAN.tile(0)))
    store.write_empty(PLAN.tile(4))
    (folder / "r00000" / ".t00000002.npy.123").write_bytes(b"half")
    assert store.done() == {0: True, 4: False}
    assert store.read(PLAN.tile(4), PLAN.tile(4).halo) is None
    assert store.read(PLAN.tile(2), PLAN.tile(2).halo) is None


def test_writing_twice_keeps_one(store, folder):
    tile = PLAN.tile(0)
    store.write(tile, scores_of(tile, 0))
    store.write(tile, scores_of(tile, 1))
    assert np.array_equal(store.read(tile, tile.halo), scores_of(tile, 1))
    assert len(list(folder.rglob("*.*"))) == 1


def test_a_failed_write_leaves_nothing(store, folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        store.write(PLAN.tile(0), scores_of(PLAN.tile(0)))
    assert "what is done stays" in str(caught.value)
    assert [p for p in folder.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("left_bytes", [50, 0])
def test_a_damaged_tile_is_an_error_not_a_picture(store, folder, left_bytes):
    tile = PLAN.tile(0)
    store.write(tile, scores_of(tile))
    path = next(folder.rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:left_bytes])
    with pytest.raises(StoreError, match="Delete it"):
        store.read(tile, tile.halo)


def test_two_runs_do_not_hold_one_store(store, folder):
    with store.lock(), pytest.raises(StoreError, match="one run at a time"), TileStore(folder).lock():
        pass
    with TileStore(folder).lock():
        pass


def test_wrong_shape_or_dtype_is_a_bug(store):
    with pytest.raises(ValueError, match="holds"):
        store.write(PLAN.tile(0), np.zeros((4, 5, 5), np.uint8))
