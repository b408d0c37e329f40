import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_pipeline.tasks import Cutter, Task


def cut_up(tiles, batch_size, most_tiles, workers):
    cutter, tasks = Cutter(range(tiles), batch_size, most_tiles), []
    while cutter:
        tasks.append(cutter.cut(next(workers)))
    return tasks


@given(st.integers(0, 3000), st.integers(1, 9), st.integers(1, 70), st.lists(st.integers(1, 40), min_size=1))
def test_every_tile_is_in_one_task_in_order_and_in_whole_batches(tiles, batch_size, most_tiles, crowds):
    tasks = cut_up(tiles, batch_size, most_tiles, itertools.cycle(crowds))
    assert [index for task in tasks for index in task.indices] == list(range(tiles))
    assert all(0 < len(task.indices) <= max(most_tiles, batch_size) for task in tasks)
    assert all(len(task.indices) % batch_size == 0 for task in tasks[:-1])
    assert all(len(batch) == batch_size for task in tasks[:-1] for batch in task.batches())


def test_a_small_job_has_one_batch_in_each_task():
    assert {len(task.indices) for task in cut_up(40, 4, 32, itertools.repeat(2))} == {4}


def test_a_large_job_has_long_tasks_that_shrink_to_single_batches_at_the_end():
    sizes = [len(task.indices) for task in cut_up(100_000, 4, 32, itertools.repeat(64))]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[:1000] == [32] * 1000
    assert sizes[-300:] == [4] * 300
    assert len(sizes) < 4000


def test_tasks_shrink_when_workers_join():
    cutter = Cutter(range(10_000), 4, 64)
    assert len(cutter.cut(4).indices) == 64
    assert len(cutter.cut(100).indices) == 32
    assert len(cutter.cut(300).indices) == 8


def largest_batch(tasks):
    return max(len(batch) for task in tasks for batch in task.batches())


@given(st.integers(0, 50), st.integers(1, 9))
def test_halves_hold_the_same_tiles_in_smaller_batches_and_end_at_single_tiles(tiles, batch_size):
    tasks, rounds = [Task(tuple(range(tiles)), batch_size)], 0
    while any(len(task.indices) > 1 for task in tasks):
        halves = [half for task in tasks for half in task.halves()]
        assert [i for half in halves for i in half.indices] == list(range(tiles))
        assert largest_batch(halves) <= (largest_batch(tasks) + 1) // 2
        tasks, rounds = halves, rounds + 1
    assert rounds <= 6
    assert [half.indices for task in tasks for half in task.halves()] == [(i,) for i in range(tiles)]


@pytest.mark.parametrize(("done", "left"), [((), (3, 5, 8)), ({5}, (3, 8)), ((3, 5, 8), ())])
def test_what_is_done_is_left_out(done, left):
    assert Task((3, 5, 8), 2).without(done) == Task(left, 2)
