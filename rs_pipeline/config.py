"""Run settings: YAML, then flags, then `--set`, into one frozen, validated object."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from rs_pipeline.adapters import adapter_file
from rs_pipeline.arguments import as_path
from rs_pipeline.errors import ConfigError
from rs_pipeline.options import Count, EachOnce, ModelOptions, Positive, RefineSettings, ScoringSettings, Section, Step
from rs_pipeline.segmenter import model_kind

Percent = Annotated[float, Field(ge=0, le=100)]
FormatName = Literal["flatgeobuf", "geoparquet", "geojson", "pmtiles"]
"""What class layers can be written as beside the GeoPackage."""


class RadiometrySettings(Section):
    """One stretch per scene."""

    low_percent: Percent
    high_percent: Percent
    sample_px: Annotated[int, Field(ge=64)]

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if not self.low_percent < self.high_percent:
            raise ValueError(f"low_percent must be below high_percent, got {self.low_percent} and {self.high_percent}")
        return self


class WorkerSettings(Section):
    """Who computes the tiles."""

    cluster: str
    count: Count | None
    batch_size: Count | None
    task_tiles: Count
    ahead: Count
    retries: Annotated[int, Field(ge=0)]
    connect_timeout_s: Positive


class VectorSettings(Section):
    """How labels become polygons."""

    block_px: Annotated[int, Field(ge=16)]
    connectivity: Literal[4, 8]
    min_area_m2: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    simplify_m: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    lines: Annotated[tuple[str, ...], EachOnce]
    square: Annotated[tuple[str, ...], EachOnce]
    formats: Annotated[tuple[FormatName, ...], EachOnce]
    crs: str | None
    licence: str | None

    def decisive(self) -> dict[str, Any]:
        """What of them decides the products, JSON-ready: what is not asked for is left out, so that a setting more is no other run."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value not in (None, [])}


class RunSettings(Section):
    """Everything `rs-seg run` can be told; `configs/run.yaml` says what each means and holds the defaults."""

    aoi: str | None
    classes: tuple[str, ...]
    vocabulary: str
    source: tuple[str, ...]
    catalog: str
    datetime: str | None
    collections: tuple[str, ...]
    max_cloud_cover: Percent | None
    asset: str | None
    roots: tuple[str, ...]
    scenes: tuple[str, ...]
    per_scene: bool
    out: str | None
    outputs: str
    store: str | None
    overwrite: bool
    report: bool
    model: str
    adapter: str | None
    device: str
    dtype: Literal["auto", "float32", "bfloat16"]
    compile: bool
    prompt_batch: Count | None
    gsd_m: Positive | None
    tile_px: Annotated[int, Field(ge=32)] | None
    overlap_px: Annotated[int, Field(ge=0)] | None
    composite: Literal["newest", "oldest", "listed"]
    bands: tuple[Count, Count, Count] | None
    nodata: Annotated[float, Field(allow_inf_nan=False)] | None
    collars: bool
    radiometry: RadiometrySettings
    workers: WorkerSettings
    vectors: VectorSettings
    scoring: ScoringSettings
    refine: RefineSettings

    @property
    def options(self) -> ModelOptions:
        """What of all this the model is told.

        Raises
        ------
        SegmenterError: there is no file where `adapter` says.
        """
        told = {name: getattr(self, name) for name in ModelOptions.model_fields}
        return ModelOptions(**told | {"adapter": adapter_file(self.adapter) if self.adapter is not None else None})


class _Loader(yaml.SafeLoader):
    """YAML in which 2024-01-31 is text, as settings have it, and not a date."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def configs_folder() -> Path:
    """The project's `configs/`: package data of an installed wheel, or the checkout's."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "configs"


def load_settings(
    config: str | Path | Mapping[str, Any] | None = None, flags: Mapping[str, Any] | None = None, sets: Iterable[str] = ()
) -> RunSettings:
    """Settings of a run.

    Parameters
    ----------
    config: YAML file of the user's, or what such a file holds.
    flags: dotted key to value; None values are flags that were not given.
    sets: `key=value` texts; the value is read as YAML.

    Raises
    ------
    ConfigError: an unknown key (named with the nearest one that exists), or a bad value; UsageError: `config` is neither path nor mapping.
    """
    layers: list[tuple[Mapping[str, Any], str]] = []
    if config is not None:
        base = config if isinstance(config, Mapping) else read_yaml(as_path(config, "config"))
        layers.append((base, "the run's settings" if base is config else str(config)))
    layers += [(_nested(key, value), "flags") for key, value in (flags or {}).items() if value is not None]
    layers += [(parse_set(text), f"--set {text}") for text in sets]
    merged = read_yaml(configs_folder() / "run.yaml")
    preset = _last(layers, merged, "refine", "preset")
    model = model_kind(str(_last(layers, merged, "model")))
    overlay(merged["refine"], read_preset(str(preset), model), f"refinement preset {preset}", "refine.")
    for changes, where in layers:
        overlay(merged, changes, where)
    try:
        settings = RunSettings.model_validate(merged)
    except ValidationError as error:
        raise bad_value(error, "the settings", "See configs/run.yaml for what it means.") from error
    for changes, where in layers:
        _refuse_idle(changes, settings.refine, where)
    return settings


def read_preset(name: str, model: str) -> dict[str, Any]:
    """What a refinement preset says: a file of `configs/refine/`, or a path.

    A preset may speak of models one by one, under `models:`; a model it does not name is left as it is.

    Raises
    ------
    ConfigError: no such preset, or a file that is none.
    """
    folder = configs_folder() / "refine"
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in known and not name.endswith((".yaml", ".yml")):
        raise ConfigError(f"a refinement preset ({', '.join(known)}) or a YAML file", repr(name), "Choose one with --refine.")
    preset = read_yaml(known.get(name, Path(name)))
    if "models" not in preset:
        return {**preset, "preset": name}
    by_model = preset["models"]
    chosen = by_model.get(model, {}) if isinstance(by_model, dict) else None
    if len(preset) > 1 or not isinstance(chosen, dict):
        fix = "Compare it with configs/refine/recommended.yaml."
        raise ConfigError("models: alone, a mapping of model names to settings", f"another form in preset {name}", fix)
    return {**chosen, "preset": name}


def _refuse_idle(changes: Mapping[str, Any], refine: RefineSettings, where: str) -> None:
    """A strength that is set for a step that is not done would change nothing, in silence."""
    if where.startswith("--set"):
        idle = (set(changes.get("refine") or ()) & set(get_args(Step))) - set(refine.steps)
        for step in idle:
            done, more = ", ".join(refine.steps) or "none", ", ".join((*refine.steps, step))
            raise ConfigError(f"a setting of a step that is done ({done})", f"{step} in {where}", f"Add --set 'refine.steps=[{more}]'.")


def _last(layers: Iterable[tuple[Mapping[str, Any], str]], base: Mapping[str, Any], *keys: str) -> Any:
    """The value of a key in the last layer that has it."""
    value: Any = None
    for layer in (base, *(changes for changes, _ in layers)):
        found: Any = layer
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        value = value if found is None else found
    return value


def parse_set(text: str) -> dict[str, Any]:
    """`a.b=value` as a mapping of mappings; the value is read as YAML.

    Raises
    ------
    ConfigError: no equals sign, or a value that is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError("--set KEY=VALUE", f"--set {text}", "Write the key, an equals sign and the value.")
    return _nested(key.strip(), _parse_yaml(value, f"--set {text}"))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises
    ------
    ConfigError: the file is missing, is not YAML, or holds something else than a mapping.
    """
    try:
        data = _parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("a readable YAML file", f"{path} ({error})", "Check the path.") from error
    if not isinstance(data, dict):
        raise ConfigError("a YAML mapping of keys to values", f"{type(data).__name__} in {path}", "Compare it with configs/run.yaml.")
    return data


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError("YAML", f"{where} ({' '.join(str(error).split())})", "Mend the syntax.") from error


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return dict(value)


def overlay(base: dict[str, Any], changes: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Lay settings over others, in place.

    Raises
    ------
    ConfigError: a key that `base` does not have.
    """
    for key, value in changes.items():
        if key not in base:
            raise unknown_key(f"{prefix}{key}", [f"{prefix}{k}" for k in base], where)
        if isinstance(base[key], dict):
            if not isinstance(value, Mapping):
                raise ConfigError(f"a mapping under {prefix}{key}", f"{value!r} in {where}", f"Its keys are {', '.join(base[key])}.")
            overlay(base[key], value, where, f"{prefix}{key}.")
        else:
            base[key] = value


def unknown_key(key: str, known: list[str], where: str) -> ConfigError:
    """The error for a key nobody reads, naming the nearest that exists."""
    near = difflib.get_close_matches(key, known, n=1)
    fix = f"Did you mean {near[0]!r}?" if near else f"Keys are {', '.join(known)}."
    return ConfigError("a known configuration key", f"{key!r} in {where}", fix)


def bad_value(error: ValidationError, where: str, fix: str) -> ConfigError:
    """The first complaint of a pydantic model, as one line."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    whole_section = isinstance(first["input"], dict)  # the message says what is wrong within it
    came = "nothing" if first["type"] == "missing" else "other values" if whole_section else repr(first["input"])
    message = first["msg"].removeprefix("Value error, ")  # what pydantic puts before a validator's own words
    return ConfigError(": ".join(part for part in (key, message[0].lower() + message[1:]) if part), f"{came} in {where}", fix)
