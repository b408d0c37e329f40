"""Two views of one crop: plain for the teacher, turned and in another light for the student."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rs_model.augment import disturb
from rs_pipeline.adaptation import UnlabelledTiles

Crop = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""(3, S, S) in [0, 1], and (S, S) what of it was seen."""
DRAWS = 8
"""Places of a tile that a crop is chosen from."""
MOSTLY = 0.5
"""Least share of a crop that was seen."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the eight flips and quarter turns."""

    quarters: int
    mirrored: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Turn:
        """Any of them."""
        return cls(int(rng.integers(4)), bool(rng.integers(2)))

    def apply(self, maps: Tensor) -> Tensor:
        """Maps (..., H, W), turned."""
        turned = torch.rot90(maps, self.quarters, (-2, -1))
        return turned.flip(-1) if self.mirrored else turned


@dataclass(frozen=True, slots=True)
class Views:
    """A batch of crops."""

    plain: Tensor
    """(N, 3, S, S) in [0, 1], 0 where not valid."""
    valid: Tensor
    """(N, S, S) bool."""
    turns: tuple[Turn, ...]
    other: Tensor
    """(N, 3, S, S): turned, and in another light."""

    def to(self, device: torch.device) -> Views:
        """The same on a device."""
        return Views(self.plain.to(device), self.valid.to(device), self.turns, self.other.to(device))

    def turned(self, maps: Tensor) -> Tensor:
        """Maps (N, ..., S, S) of the plain view, as the other one lies."""
        return torch.stack([turn.apply(each) for turn, each in zip(self.turns, maps, strict=True)])


def draw_views(tiles: UnlabelledTiles, indices: NDArray[np.int64], crop_px: int | None, count: int, rng: np.random.Generator) -> Views:
    """Crops of some tiles, drawn by `rng` alone.

    Parameters
    ----------
    indices: of the tiles that may be drawn.
    crop_px: side of the crops; None or more than a tile has: whole tiles.
    count: N.
    """
    return make_views([_crop(*tiles.read(int(index)), crop_px, rng) for index in rng.choice(indices, count)], rng)


def _crop(image: NDArray[np.float32], valid: NDArray[np.bool_], crop_px: int | None, rng: np.random.Generator) -> Crop:
    """A square of a tile; of a few that are drawn the first that is mostly seen, else the one that was seen most."""
    length = image.shape[1]
    side = min(crop_px or length, length)
    drawn = [rng.integers(length - side + 1, size=2).tolist() for _ in range(DRAWS)]
    seen = [float(valid[top : top + side, left : left + side].mean()) for top, left in drawn]
    top, left = drawn[next((i for i, share in enumerate(seen) if share >= MOSTLY), int(np.argmax(seen)))]
    return image[:, top : top + side, left : left + side], valid[top : top + side, left : left + side]


def make_views(crops: list[Crop], rng: np.random.Generator) -> Views:
    """Views of crops (3, S, S) with what of them is valid (S, S)."""
    turns = tuple(Turn.draw(rng) for _ in crops)
    plain = torch.from_numpy(np.stack([np.where(valid, image, np.float32(0)) for image, valid in crops]))
    valid = torch.from_numpy(np.stack([valid for _, valid in crops]))
    lit = [torch.from_numpy(np.moveaxis(disturb(_as_bytes(image), rng), -1, 0) * valid) for image, valid in crops]
    other = torch.stack([turn.apply(image) for turn, image in zip(turns, lit, strict=True)])
    return Views(plain, valid, turns, other)


def _as_bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(3, S, S) in [0, 1] → (S, S, 3)."""
    return np.asarray(np.rint(np.moveaxis(image, 0, -1) * 255), np.uint8)
