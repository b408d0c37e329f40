"""What a labelled data set looks like: its folders, palette and classes, from `configs/datasets/*.yaml`.

Nothing here knows a data set by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import bad_value, configs_folder, read_yaml
from rs_pipeline.errors import ConfigError, UsageError
from rs_pipeline.options import Positive, Section, Share
from rs_pipeline.vocabulary import load_vocabulary

PAIRS = "pairs"
"""The layout that takes its palette from the user."""
IGNORE = "ignore"
OTHER = "background"
_PALETTE_FILE = "palette.yaml"
_USER_KEYS = ("palette", "gsd_m", "closed", "classes")

# As the vocabulary has them.
_Name = Annotated[str, AfterValidator(lambda name: " ".join(name.lower().split()))]
_Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
_Number = Annotated[int, Field(ge=0, le=255, strict=True)]


class ClassLook(Section):
    """A class of a data set, as a model is asked for it."""

    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    colour: _Colour
    threshold: Share


class Layout(Section):
    """A data set's folders, palette and classes."""

    images: Annotated[tuple[str, ...], Field(min_length=1)]
    """Patterns of image files, at any depth below the data set's folder."""
    image_suffix: str = ""
    """End of an image's stem that its mask's name does not have."""
    masks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Where an image's mask may be: {folder} is the image's folder, {parent} that one's, {stem} its name without suffixes."""
    splits: dict[str, tuple[str, ...]]
    """Name to patterns of the path of an image, with every folder from the one that tells the split down to the image's: else a folder
    of that name far above the data set would tell it too."""
    gsd_m: Positive
    """Pixel size, metres, of images that do not tell theirs."""
    closed: bool
    """True where every labelled pixel belongs to a class: asked for together, the likeliest wins and thresholds do not apply."""
    palette: dict[_Number | _Colour, _Name]
    """Number or colour in the mask to the name of a class, `background` or `ignore`; all numbers, or all colours."""
    classes: dict[_Name, ClassLook]

    @field_validator("masks")
    @classmethod
    def _masks_can_be_filled_in(cls, masks: tuple[str, ...]) -> tuple[str, ...]:
        for template in masks:
            try:
                template.format(folder="", parent="", stem="")
            except (KeyError, IndexError, ValueError) as error:
                raise PydanticCustomError("masks", "told by {folder}, {parent} and {stem}, not {error}", {"error": str(error)}) from error
        return masks

    @field_validator("palette")
    @classmethod
    def _palette_is_of_one_kind(cls, palette: dict[int | str, str]) -> dict[int | str, str]:
        if len({type(key) for key in palette}) > 1:
            raise PydanticCustomError("palette", "of numbers or of colours, not of both")
        if len({str(key).lower() for key in palette}) < len(palette):
            raise PydanticCustomError("palette", "each colour once, in capitals or not")
        return palette

    @field_validator("classes")
    @classmethod
    def _classes_are_of_the_palette(cls, classes: dict[str, ClassLook], info: ValidationInfo) -> dict[str, ClassLook]:
        strangers = set(classes) - set(info.data.get("palette", {}).values())
        if strangers and "palette" in info.data:  # a bad palette is told by itself
            raise PydanticCustomError("classes", "those of the palette, not {strangers}", {"strangers": ", ".join(sorted(strangers))})
        return classes

    @property
    def names(self) -> tuple[str, ...]:
        """Classes that masks can show, in the palette's order."""
        return tuple(dict.fromkeys(name for name in self.palette.values() if name not in {IGNORE, OTHER}))

    @property
    def has_numbers(self) -> bool:
        """True where masks are of class numbers, False where they are of colours."""
        return all(isinstance(key, int) for key in self.palette)


def known_layouts() -> tuple[str, ...]:
    """Names of the files in `configs/datasets/`."""
    return tuple(sorted(path.stem for path in (configs_folder() / "datasets").glob("*.yaml")))


def load_layout(name: str, folder: Path, palette: Path | None = None) -> Layout:
    """The layout of a data set.

    Parameters
    ----------
    name: a file of `configs/datasets/`, without its suffix.
    folder: the data set's folder; `pairs` looks there for a palette.yaml.
    palette: what the masks mean, only for `pairs`.

    Raises
    ------
    UsageError: no such layout, or a palette for one that has its own.
    ConfigError: a file that is not as the others are.
    """
    if name not in known_layouts():
        raise UsageError(f"a layout of {', '.join(known_layouts())}", f"--layout {name!r}", "Choose one; `pairs` fits any two folders.")
    path = configs_folder() / "datasets" / f"{name}.yaml"
    data = _read_once_each(path)
    if name == PAIRS:
        path = palette or folder / _PALETTE_FILE
        data |= _user_palette(path)
    elif palette is not None:
        raise UsageError(f"--palette with --layout {PAIRS} only", f"--layout {name}", "Leave --palette out: this layout has its own.")
    try:
        return Layout.model_validate(data)
    except ValidationError as error:
        raise bad_value(error, str(path), "Compare it with configs/datasets/dubai.yaml.") from error


def _user_palette(path: Path) -> dict[str, Any]:
    data = _read_once_each(path)
    for key in data:
        if key not in _USER_KEYS:
            raise ConfigError(f"keys {', '.join(_USER_KEYS)}", f"{key!r} in {path}", "Compare it with configs/datasets/dubai.yaml.")
    if not isinstance(data.get("palette"), dict) or not data["palette"]:
        fix = "Write `palette:` and below it lines like `1: road`, or `'#ff0000': road`."
        raise ConfigError("a palette: colour or number to class", f"none in {path}", fix)
    return data


def _read_once_each(path: Path) -> dict[str, Any]:
    """A YAML mapping in which no key, and none of a mapping below it, is there twice: the last would be taken in silence."""
    data = read_yaml(path)
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    below = [value for _, value in root.value] if isinstance(root, yaml.MappingNode) else []
    for mapping in (root, *below):
        keys = [key.value for key, _ in mapping.value] if isinstance(mapping, yaml.MappingNode) else []
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError("each key once", f"{key!r} {keys.count(key)} times in {path}", "Leave out the repeats.")
    return data


def class_set(layout: Layout, names: Sequence[str], vocabulary: str | None = None) -> ClassSet:
    """The classes to predict, values 1…K in the order asked; all of the layout where `names` is empty.

    Words, colours and thresholds are the layout's, or those of a vocabulary (see `load_vocabulary`). In a closed data set all
    thresholds are 0 where every class is asked for.

    Raises
    ------
    UsageError: a name that the layout does not have, or one twice.
    """
    wanted = [" ".join(name.lower().split()) for name in names] or list(layout.names)
    for name in wanted:
        if name not in layout.names:
            raise UsageError(f"classes of this data set ({', '.join(layout.names)})", repr(name), "Choose among them.")
    asked = load_vocabulary(vocabulary or "default").class_set(wanted)
    if vocabulary is None:
        asked = ClassSet(tuple(_as_here(c, layout.classes.get(c.name)) for c in asked))
    if layout.closed and set(wanted) == set(layout.names):
        asked = asked.at_threshold(0.0)
    return asked


def _as_here(asked: Class, look: ClassLook | None) -> Class:
    if look is None:
        return asked
    red, green, blue = bytes.fromhex(look.colour[1:])
    return Class(asked.value, asked.name, look.prompts, (red, green, blue), look.threshold)
