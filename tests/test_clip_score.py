"""Scores of CLIP alone, of one that names colours."""

import numpy as np
import torch
from rs_model import clip_score
from rs_model.clip_score import CROP_PX, dense_confusion, pure_crops, zero_shot
from rs_model.labels import CLASSES, IGNORE, NOT_BUILDING
from rs_model.scenes import Scene
from torch.nn import functional as F

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]], np.uint8)


class Colours:
    """Each class has its colour; a crop is what its mean colour is nearest to."""

    def __init__(self):
        self.model = self

    def directions(self):
        return F.normalize(torch.from_numpy(PALETTE).float() - 127.5, dim=-1)

    def encode_texts(self, names):
        return self.directions()[[CLASSES.index(name) for name in names]]

    def prepare(self, images):
        return images

    def encode_image(self, images, normalize):
        return F.normalize(images.mean((2, 3)) * 255 - 127.5, dim=-1)

    def features(self, images):
        return F.normalize(F.adaptive_avg_pool2d(images, 8).permute(0, 2, 3, 1) * 255 - 127.5, dim=-1)


def scene(codes):
    return Scene("test", np.where((codes < len(CLASSES))[..., None], PALETTE[np.minimum(codes, 4)], 0).astype(np.uint8), codes)


def patchwork(rows, side):
    return np.array(rows, np.uint8).repeat(side, 0).repeat(side, 1)


def test_crops_are_nearly_of_one_known_class():
    codes = patchwork([[0, 1, IGNORE], [NOT_BUILDING, 4, 2]], CROP_PX)
    codes[CROP_PX:, CROP_PX : CROP_PX + CROP_PX // 2] = 3  # half vegetation, half water
    codes[: CROP_PX // 20, :CROP_PX] = IGNORE  # a twentieth of the building
    crops, truth = pure_crops([scene(codes)])
    assert truth.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(crops[1], scene(codes).image[:CROP_PX, CROP_PX : 2 * CROP_PX])


def test_no_class_has_more_than_its_number_of_crops(monkeypatch):
    monkeypatch.setattr(clip_score, "MOST_CROPS", 3)
    crops, truth = pure_crops([scene(patchwork([[0, 0, 0, 0, 0], [0, 0, 1, 1, 4]], CROP_PX))])
    assert truth.tolist() == [0, 0, 0, 1, 1, 4]
    assert len(crops) == 6
    crops, truth = pure_crops([scene(np.full((CROP_PX, CROP_PX), IGNORE, np.uint8))])
    assert (crops.shape, truth.shape) == ((0, CROP_PX, CROP_PX, 3), (0,))
    assert zero_shot(Colours(), crops).shape == (0,)


def test_a_clip_that_knows_the_colours_is_always_right_and_one_that_confuses_them_is_not():
    crops, truth = pure_crops([scene(patchwork([[0, 1, 2], [3, 4, 0]], CROP_PX))])
    assert zero_shot(Colours(), crops).tolist() == truth.tolist()
    swapped = Colours()
    swapped.encode_texts = lambda names: Colours().encode_texts(names)[[1, 0, 2, 3, 4]]
    assert (zero_shot(swapped, crops) == truth).tolist() == [False, False, False, True, True, True]


def test_dense_answers_are_counted_where_the_truth_is_known():
    codes = patchwork([[0, 1], [2, IGNORE]], 256)
    counts = dense_confusion(Colours(), [scene(codes), scene(np.full((600, 600), 4, np.uint8))]).counts
    assert counts.sum() == 3 * 256**2 + 600**2
    assert counts[4, 4] == 600**2, "windows at the edges are smaller, and are counted once"
    assert np.diag(counts)[:3].min() > 0.85 * 256**2
