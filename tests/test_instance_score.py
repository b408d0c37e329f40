"""Objects counted against buildings: each building once, overlapping answers once, small ones nowhere."""

import numpy as np
import pytest
from rs_model import instance_score
from rs_model.instance_score import Counts, apart, main, match, measure, parts_of
from rs_model.weights import SHIPPED, WEIGHTS


def box(top, left, side=10):
    mask = np.zeros((40, 40), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_each_building_is_found_once_and_by_half_at_least():
    buildings = [box(0, 0), box(0, 20)]
    assert match([box(0, 0), box(0, 1)], buildings) == Counts(1, 2, 2)
    assert match([box(0, 20), box(0, 0)], buildings) == Counts(2, 2, 2)
    assert match([box(3, 3)], buildings) == Counts(0, 1, 2)
    assert match([box(0, 0) | box(0, 10) | box(0, 20)], buildings) == Counts(0, 1, 2)  # a block of houses is none of them
    assert match([], buildings) == Counts(0, 0, 2)


def test_figures_are_pooled():
    total = Counts(1, 2, 4) + Counts(2, 2, 2)
    assert total.figures == {"precision": 0.75, "recall": 0.5, "f1": pytest.approx(0.6)}
    assert np.isnan(Counts(0, 0, 0).figures["f1"])


def test_of_answers_that_overlap_the_best_stays():
    assert len(apart([box(0, 0), box(0, 1), box(0, 20), box(0, 0, 5)])) == 2  # the last is too small
    assert len(parts_of(box(0, 0) | box(20, 20) | box(30, 0, 5))) == 2


@pytest.mark.skipif(not (SHIPPED / WEIGHTS).is_file(), reason="the shipped weights are not installed")
def test_the_model_that_ships_finds_buildings_by_its_queries():
    from rs_model.tiny import load_tiny

    def some():
        for number, window in enumerate(instance_score.windows_of("calibration", 320)):
            if number < 4:
                yield window

    found = measure(load_tiny(SHIPPED).eval(), some())
    assert found["queries above 0.3"].figures["recall"] > 0.4
    assert found["queries above 0.5"].figures["precision"] > 0.4


def test_a_folder_that_is_no_model_is_one_line(tmp_path, capsys):
    assert main(["--model", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: expected a config.json")
