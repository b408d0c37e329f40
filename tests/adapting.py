"""Tiles and settings for tests of adaptation."""

import numpy as np

from rs_pipeline.adapt_settings import load_adapt_settings


class NoiseTiles:
    """Blobs of colour, always the same; some rows of each may be blank."""

    def __init__(self, count=6, side=96, blank_rows=0, seed=0):
        self.count, self.side, self.blank_rows, self.seed = count, side, blank_rows, seed
        self.digest = f"noise {count} {side} {blank_rows} {seed}"

    def __len__(self):
        return self.count

    def footprint(self, index):
        return float(index), 0.0, index + 1.0, 1.0

    def read(self, index):
        rng = np.random.default_rng([self.seed, index])
        coarse = rng.random((3, self.side // 16, self.side // 16), np.float32)
        image = np.kron(coarse, np.ones((1, 16, 16), np.float32))
        valid = np.ones(image.shape[1:], bool)
        valid[: self.blank_rows] = False
        return np.where(valid, image, np.float32(0)), valid


class Notes:
    """A reporter that keeps what it hears."""

    def __init__(self):
        self.said, self.steps = [], 0

    def stage(self, name, total):
        self.said.append(f"{name} {total}")

    def advance(self, steps):
        self.steps += steps

    def note(self, text):
        self.said.append(text)


ALL_LOSSES = {
    "losses": {
        "consistency": {"weight": 1.0, "sure": 0.55}, "importance": {"weight": 0.1}, "contrast": {"weight": 0.05},
        "boundary": {"weight": 0.02}, "distill": {"weight": 0.1}, "text_image": {"weight": 0.1},
    }
}  # fmt: skip
ALL_MODULES = {
    "align": {
        "encoder": {"use": True, "temperature": "learnable"}, "decoder": {"use": True},
        "cross_modal": {"use": True}, "feedback": {"use": True},
    }
}  # fmt: skip
SHORT = {"steps": 4, "check_every": 2, "crop_px": 64, "batch": 2, "learning_rate": 0.01}


def settings(*rows):
    return load_adapt_settings("methods", rows=(SHORT, *rows))
