"""Held-out phrases on maps: what is resolved, what is turned down, and that nothing else counts."""

import json

import numpy as np
import pytest
from rs_model import phrase_score
from rs_model.labels import CLASSES, IGNORE
from rs_model.phrase_score import is_resolved, land, read_windows, resolved_shares
from rs_model.phrases import OTHER, language
from rs_model.places import Place
from rs_model.scenes import Scene

SIDE = 40
KINDS = {phrase: name for name, kind in language().kinds.items() for group in kind.held_out.values() for phrase in group}


class Reader:
    """Maps what the red band says to whoever asks for it: a phrase of a class, or the class's own name. `wrong` ones get water."""

    def __init__(self, wrong=()):
        self.wrong = set(wrong)
        self.asked = []

    def segment(self, images, valid, classes):
        self.asked.append(len(classes))
        told = np.rint(images[0, 0] * 255 / 30).astype(int)
        maps = []
        for c in classes:
            phrase = c.prompts[0]
            name = "water" if phrase in self.wrong else KINDS.get(phrase, phrase)
            maps.append(np.where(told == CLASSES.index(name), 0.9, 0.1) if name in CLASSES else np.zeros(told.shape))
        return np.stack(maps)[None].astype(np.float32)


def window(seed=0):
    labels = np.kron(np.random.default_rng(seed).integers(0, len(CLASSES), (5, 5)), np.ones((8, 8), int)).astype(np.uint8)
    codes = labels.copy()
    codes[0] = IGNORE
    return np.repeat(labels[..., None] * 30, 3, 2).astype(np.uint8), codes


def landed(*wrong):
    reader = Reader(wrong)
    return land(reader, [window(0), window(1)], [*CLASSES, *language().withheld()]), reader


def test_a_model_that_reads_everything_resolves_everything_and_turns_all_else_down():
    found, reader = landed()
    assert all(share == 1 for kinds in resolved_shares(found).values() for share in kinds.values())
    assert max(reader.asked) <= phrase_score.AT_ONCE
    assert found["road"].iou[CLASSES.index("road")] == 1
    assert found["road"].counts[:, 2].sum() == 2 * (SIDE - 1) * SIDE  # what is not labelled counts nowhere


def test_phrases_that_land_elsewhere_are_not_resolved_and_foreign_ones_that_map_anything_are_not_turned_down():
    road = language().kinds["road"].held_out["relative"][0]
    other, *_ = next(iter(language().kinds[OTHER].held_out.values()))
    found, _ = landed(road, other)
    shares = resolved_shares(found)
    assert shares["road"]["relative"] == pytest.approx(1 - 1 / len(language().kinds["road"].held_out["relative"]))
    assert sum(share < 1 for share in shares[OTHER].values()) == 1
    assert any(repr(road) in line and "nearest to water" in line for line in phrase_score._lines(shares, found))
    assert any(repr(other) in line and "of the ground" in line for line in phrase_score._lines(shares, found))


def test_a_phrase_that_maps_its_class_much_worse_than_the_class_s_name_is_not_resolved():
    k = CLASSES.index("road")
    own, weak = np.zeros((len(CLASSES), 3), np.int64), np.zeros((len(CLASSES), 3), np.int64)
    own[:, 1:], weak[:, 1:] = (80, 100), (30, 100)
    own[k, 0], weak[k, 0] = 80, 30
    assert is_resolved(phrase_score.Landed(own), "road", phrase_score.Landed(own))
    assert not is_resolved(phrase_score.Landed(weak), "road", phrase_score.Landed(own))


def test_windows_are_cut_from_the_middle_of_calibration_places_that_know_all_classes(monkeypatch, tmp_path):
    def scenes(_):
        for seed in range(3):
            image, codes = window(seed)
            yield Scene(str(seed), image, codes)

    places = (
        Place("here", "calibration", CLASSES, scenes),
        Place("test", "test", CLASSES, scenes),
        Place("one class", "calibration", ("building",), scenes),
    )
    monkeypatch.setattr(phrase_score, "PLACES", places)
    found = read_windows(tmp_path, 16)
    assert [image.shape for image, _ in found] == [(16, 16, 3)] * 2
    assert (found[0][1] == window(0)[1][12:28, 12:28]).all()


def test_the_command_prints_shares_as_json(monkeypatch, capsys, tmp_path):
    class Provider:
        def info(self):
            return type("Info", (), {"tile_px": 16})()

        def load(self, options, threads):
            return Reader()

    monkeypatch.setattr(phrase_score, "tiny_provider", lambda folder: Provider())
    monkeypatch.setattr(phrase_score, "PLACES", (Place("here", "calibration", CLASSES, lambda _: iter([Scene("0", *window())])),))
    monkeypatch.setattr("sys.argv", ["phrase_score", "--data", str(tmp_path), "--json"])
    assert phrase_score.main() == 0
    shares = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(shares) == {*CLASSES, OTHER}
