"""Class names to a `ClassSet`: colours, synonyms and thresholds from `configs/classes/*.yaml`."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rs_pipeline.classes import MAX_CLASSES, Class, ClassSet
from rs_pipeline.config import bad_value, configs_folder, read_yaml
from rs_pipeline.errors import UsageError

DEFAULT_THRESHOLD = 0.5


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    aliases: tuple[str, ...] = ()
    colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
    threshold: Annotated[float, Field(ge=0, le=1)] = DEFAULT_THRESHOLD


@dataclass(frozen=True)
class Vocabulary:
    """Known class names."""

    entries: dict[str, _Entry]

    def class_set(self, names: Sequence[str]) -> ClassSet:
        """The classes of a run, values 1…N in the order asked.

        Raises
        ------
        UsageError: no names, too many, an empty or a repeated one.
        """
        wanted = [" ".join(n.lower().split()) for n in names]
        if not wanted or "" in wanted:
            raise UsageError("class names separated by commas", repr(",".join(names)), "Give --classes road,water for example.")
        if len(wanted) > MAX_CLASSES:
            raise UsageError(f"at most {MAX_CLASSES} classes", f"{len(wanted)}", "Ask for them in several runs.")
        for name in wanted:
            if wanted.count(name) > 1:
                raise UsageError("each class once", f"{name!r} {wanted.count(name)} times", "Leave out the repeats.")
        return ClassSet(tuple(self._class(i + 1, name) for i, name in enumerate(wanted)))

    def _class(self, value: int, name: str) -> Class:
        if name in self.entries:
            entry = self.entries[name]
            return Class(value, name, entry.prompts, _rgb(entry.colour), entry.threshold)
        for entry in self.entries.values():
            if name in entry.aliases:
                return Class(value, name, (name,), _rgb(entry.colour), entry.threshold)
        return Class(value, name, (name,), _colour_of(name), DEFAULT_THRESHOLD)


def load_vocabulary(spec: str) -> Vocabulary:
    """A vocabulary by the name of a file in `configs/classes/`, or by path.

    Raises
    ------
    ConfigError: no such file, or entries that are not as `configs/classes/default.yaml` has them.
    """
    shipped = configs_folder() / "classes" / f"{spec}.yaml"
    path = shipped if shipped.is_file() else Path(spec)
    data = read_yaml(path)
    try:
        return Vocabulary(TypeAdapter(dict[str, _Entry]).validate_python(data))
    except ValidationError as error:
        raise bad_value(error, str(path), "Compare it with configs/classes/default.yaml.") from error


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _colour_of(name: str) -> tuple[int, int, int]:
    """A strong colour that depends on the name alone, so that two runs agree."""
    hue = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2], "big") / 65536
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.7, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)
