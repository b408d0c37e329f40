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
from rs_pipeline.config import VectorSettings, bad_value, configs_folder, read_yaml
from rs_pipeline.errors import ConfigError, UsageError
from rs_pipeline.reproject import read_crs

DEFAULT_THRESHOLD = 0.5


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    aliases: tuple[str, ...] = ()
    colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
    threshold: Annotated[float, Field(ge=0, le=1)] = DEFAULT_THRESHOLD


def normal_name(name: str) -> str:
    """A class name as it is compared and shown: in small letters, words one space apart."""
    return " ".join(name.lower().split())


@dataclass(frozen=True)
class Vocabulary:
    """Known class names."""

    entries: dict[str, _Entry]
    """By `normal_name`, as their aliases are; a name is of one entry only."""

    def class_set(self, names: Sequence[str]) -> ClassSet:
        """The classes of a run, values 1…N in the order asked.

        Raises
        ------
        UsageError: no names, too many, an empty or a repeated one.
        """
        wanted = [normal_name(name) for name in names]
        if not wanted or "" in wanted:
            raise UsageError("class names separated by commas", repr(",".join(names)), "Give --classes road,water for example.")
        if len(wanted) > MAX_CLASSES:
            raise UsageError(f"at most {MAX_CLASSES} classes", f"{len(wanted)}", "Ask for them in several runs.")
        for name in wanted:
            if wanted.count(name) > 1:
                raise UsageError("each class once", f"{name!r} {wanted.count(name)} times", "Leave out the repeats.")
        return ClassSet(tuple(self._class(i + 1, name) for i, name in enumerate(wanted)))

    def find(self, names: Sequence[str], classes: ClassSet, setting: str) -> list[Class]:
        """The classes of a run that some names mean, in the run's order.

        A name means the class so called. Where none is, it means those that the run calls by another name of the same entry:
        `buildings` is found as `building`, and `building` as `buildings`.

        Parameters
        ----------
        setting: what the names were given with, for the error.

        Raises
        ------
        UsageError: a name of no class that the run looks for.
        """
        found: set[str] = set()
        unknown = []
        for name in map(normal_name, names):
            entry = self._entry_of(name)
            alike = {called for called in classes.names if entry is not None and self._entry_of(called) == entry}
            meant = {name} & set(classes.names) or alike
            found |= meant
            unknown += [] if meant else [name]
        if unknown:
            came = f"{', '.join(unknown)} beside {', '.join(classes.names)}"
            raise UsageError(f"{setting}: classes that are asked for", came, f"Add it to --classes, or leave it out of {setting}.")
        return [item for item in classes if item.name in found]

    def _entry_of(self, name: str) -> str | None:
        """The entry that has a name, or an alias, of the normal form."""
        if name in self.entries:
            return name
        return next((key for key, entry in self.entries.items() if name in entry.aliases), None)

    def _class(self, value: int, name: str) -> Class:
        key = self._entry_of(name)
        if key is None:
            return Class(value, name, (name,), _colour_of(name), DEFAULT_THRESHOLD)
        entry = self.entries[key]
        return Class(value, name, entry.prompts if key == name else (name,), _rgb(entry.colour), entry.threshold)


def load_vocabulary(spec: str) -> Vocabulary:
    """A vocabulary by the name of a file in `configs/classes/`, or by path.

    Raises
    ------
    ConfigError: no such file, entries that are not as `configs/classes/default.yaml` has them, or a name of two entries.
    """
    shipped = configs_folder() / "classes" / f"{spec}.yaml"
    path = shipped if shipped.is_file() else Path(spec)
    data = read_yaml(path)
    try:
        written = TypeAdapter(dict[str, _Entry]).validate_python(data)
    except ValidationError as error:
        raise bad_value(error, str(path), "Compare it with configs/classes/default.yaml.") from error
    owners: dict[str, str] = {}
    entries = {}
    for key, entry in written.items():
        aliases = tuple(normal_name(alias) for alias in entry.aliases)
        for name in {normal_name(key), *aliases}:
            if name in owners:
                came = f"{name!r} of {owners[name]!r} and of {key!r} in {path}, in small letters and without spaces too many"
                raise ConfigError("names and aliases that each mean one class", came, "Leave one of them out.")
            owners[name] = key
        entries[normal_name(key)] = entry.model_copy(update={"aliases": aliases})
    return Vocabulary(entries)


def resolve_names(names: Sequence[str], classes: ClassSet, vocabulary: Vocabulary, setting: str) -> tuple[str, ...]:
    """Classes by the names that the run calls them, each once, sorted: the same wish in one spelling, for the key of a run.

    Raises
    ------
    UsageError: a class that the run does not look for.
    """
    return tuple(sorted(item.name for item in vocabulary.find(names, classes, setting)))


def resolve_vectors(vectors: VectorSettings, classes: ClassSet, vocabulary: Vocabulary) -> VectorSettings:
    """The same wish in one spelling, for the key of a run: classes by the names that the run calls them, the CRS in its normal form.

    Raises
    ------
    UsageError: lines or squares of a class that the run does not look for. ConfigError: the CRS is none.
    """
    wanted = {name: resolve_names(getattr(vectors, name), classes, vocabulary, f"vectors.{name}") for name in ("lines", "square")}
    return vectors.model_copy(update={**wanted, "crs": _normal_crs(vectors.crs) if vectors.crs is not None else None})


def _normal_crs(text: str) -> str:
    """`EPSG:4326` for all its spellings; WKT where no register is sure to have the CRS."""
    crs = read_crs(text)
    code = crs.to_authority(min_confidence=100)
    return ":".join(code) if code is not None else str(crs.to_wkt())


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _colour_of(name: str) -> tuple[int, int, int]:
    """A strong colour that depends on the name alone, so that two runs agree."""
    hue = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2], "big") / 65536
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.7, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)
