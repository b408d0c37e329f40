import threading
import time

import pytest

from rs_pipeline.parallel import map_in_order


def test_results_come_in_the_order_of_their_items_whichever_is_done_first():
    def work(item):
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * item

    assert list(map_in_order(work, range(20), threads=4)) == [(i, i * i) for i in range(20)]


def test_nothing_comes_of_nothing():
    assert list(map_in_order(str, [])) == []


def test_few_results_wait_however_slowly_they_are_taken():
    begun, most_ahead = [], 0
    for taken, (item, _) in enumerate(map_in_order(begun.append, range(50), threads=3)):
        time.sleep(0.005)
        assert item == taken
        most_ahead = max(most_ahead, len(begun) - taken)
    assert most_ahead <= 4


def test_pieces_are_worked_on_at_once():
    both = threading.Barrier(2, timeout=20)
    list(map_in_order(lambda _: both.wait(), range(6), threads=2))


def test_an_error_is_raised_where_the_results_are_taken_and_nothing_new_begins():
    begun = []

    def work(item):
        begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    taken = []
    with pytest.raises(ValueError, match="three"):
        taken.extend(item for item, _ in map_in_order(work, range(100), threads=2))
    assert len(begun) <= 7


def test_who_stops_taking_stops_the_work():
    begun = []
    results = map_in_order(begun.append, range(100), threads=2)
    next(results)
    results.close()
    assert len(begun) <= 4
