"""Segmenters for tests: pointwise, so that tiling cannot change what they say; some of them fail on purpose.

Named to the pipeline as `fake_segmenter:NAME`.
"""

import json
import os
import signal
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rs_pipeline.errors import SegmenterError, TrainingError
from rs_pipeline.segmenter import ModelInfo

TROUBLE = 0.999
"""A red value, after the stretch, that makes the troubled segmenters fail."""


class Pointwise:
    """Class k scores as band (k - 1) mod 3: red, green, blue."""

    def segment(self, images, valid, classes):
        return np.stack([images[:, (c.value - 1) % 3] for c in classes], axis=1)


class Failing(Pointwise):
    def segment(self, images, valid, classes):
        if (images[:, 0] >= TROUBLE).any():
            raise RuntimeError("red is\ntoo much")
        return super().segment(images, valid, classes)


class Broken(Pointwise):
    def segment(self, images, valid, classes):
        raise RuntimeError("no tile at all")


class Slow(Pointwise):
    def segment(self, images, valid, classes):
        time.sleep(0.2)
        return super().segment(images, valid, classes)


class Pausing(Pointwise):
    """As slow as RS_SEG_TEST_PAUSE_S says, in seconds for each tile."""

    def segment(self, images, valid, classes):
        time.sleep(float(os.environ.get("RS_SEG_TEST_PAUSE_S", "0.005")) * len(images))
        return super().segment(images, valid, classes)


class Killing(Pointwise):
    def segment(self, images, valid, classes):
        if (images[:, 0] >= TROUBLE).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().segment(images, valid, classes)


class Greedy(Pointwise):
    """Dies of more than one tile, as a worker does that the system kills for its memory."""

    def segment(self, images, valid, classes):
        if len(images) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().segment(images, valid, classes)


class CountingKilling(Killing):
    """Leaves a line for every tile it did in the file that RS_SEG_TEST_LOG names."""

    def segment(self, images, valid, classes):
        scores = super().segment(images, valid, classes)
        with Path(os.environ["RS_SEG_TEST_LOG"]).open("a") as log:
            log.write("tile\n" * len(images))
        return scores


class Nonsense(Pointwise):
    def segment(self, images, valid, classes):
        return super().segment(images, valid, classes) * 2 + 1


class Counting(Pointwise):
    """Leaves a line for every tile in the file that RS_SEG_TEST_LOG names."""

    def segment(self, images, valid, classes):
        with Path(os.environ["RS_SEG_TEST_LOG"]).open("a") as log:
            log.write("tile\n" * len(images))
        return super().segment(images, valid, classes)


class ByWord:
    """What a class scores hangs on its words alone. Leaves a line for every tile, with the words, where RS_SEG_TEST_LOG says."""

    def segment(self, images, valid, classes):
        words = [" ".join(c.prompts) for c in classes]
        if "RS_SEG_TEST_LOG" in os.environ:
            with Path(os.environ["RS_SEG_TEST_LOG"]).open("a") as log:
                log.write(f"{'+'.join(words)}\n" * len(images))
        return np.stack([self._score(images, zlib.crc32(word.encode())) for word in words], axis=1)

    @staticmethod
    def _score(images, seed):
        return images[:, seed % 3] * np.float32(0.5 + seed % 97 / 194)


class FailingByWord(ByWord):
    def segment(self, images, valid, classes):
        if any("lake" in c.prompts for c in classes) and (images[:, 0] >= TROUBLE).any():
            raise RuntimeError("red is too much")
        return super().segment(images, valid, classes)


@dataclass(frozen=True)
class Provider:
    segmenter: type | None
    vocabulary: tuple[str, ...] | None = None
    apart: bool = False
    description = "bands as scores"

    def info(self):
        return ModelInfo(
            name="fake",
            weights_sha256="0" * 64,
            gsd_m=0.5,
            gsd_range_m=(0.25, 2.0),
            tile_px=64,
            vocabulary=self.vocabulary,
            fuller_model="sam3",
            classes_apart=self.apart,
        )

    def load(self, options, threads):
        if self.segmenter is None:
            raise SegmenterError("weights", "none", "Bring some.")
        return self.segmenter()


class Adapting(Provider):
    """Its adapters are as good as RS_SEG_TEST_GOOD says when they are made, and the plain model as RS_SEG_TEST_PLAIN says."""

    def adapt(self, request, tiles, reporter):
        from safetensors.numpy import save_file

        good = float(os.environ["RS_SEG_TEST_GOOD"])
        if good < 0:
            raise TrainingError("held-out consistency that does not get worse", str(good), "Lower learning_rate.")
        history = {"consistency_before": 0.1, "consistency": good, "best_step": 1, "steps": 2}
        facts = {
            "kind": "rs-seg adapter", "format": 1, "model": "fake", "base_sha256": self.info().weights_sha256,
            "settings": request.settings.model_dump(mode="json"),
            "classes": {c.name: list(c.prompts) for c in request.classes}, "data_sha256": tiles.digest, "history": history,
        }  # fmt: skip
        save_file({"good": np.array([good])}, request.out, {"rs-seg": json.dumps(facts)})
        return {**history, "adapter": str(request.out), "bytes": 1, "tiles": len(tiles), "curves": ["a.json", "a.png"]}

    def consistency(self, options, classes, tiles, threads):
        from safetensors.numpy import load_file

        assert len(tiles) > 0
        if options.adapter is None:
            return float(os.environ.get("RS_SEG_TEST_PLAIN", "0.5"))
        return float(load_file(options.adapter.path)["good"][0])


def adapting(folder):
    return Adapting(Pointwise)


def pointwise(folder):
    return Provider(Pointwise)


def failing(folder):
    return Provider(Failing)


def broken(folder):
    return Provider(Broken)


def slow(folder):
    return Provider(Slow)


def pausing(folder):
    return Provider(Pausing)


def killing(folder):
    return Provider(Killing)


def greedy(folder):
    return Provider(Greedy)


def counting_killing(folder):
    return Provider(CountingKilling)


def nonsense(folder):
    return Provider(Nonsense)


def counting(folder):
    return Provider(Counting)


def by_word(folder):
    return Provider(ByWord, apart=True)


def failing_by_word(folder):
    return Provider(FailingByWord, apart=True)


def together_by_word(folder):
    return Provider(ByWord)


def unloadable(folder):
    return Provider(None)


def narrow(folder):
    return Provider(Pointwise, vocabulary=("road", "water"))
