"""Ablations: a grid of adaptations and refinements of one model, each with the same seeds and budget, scored on labelled places.

What has labels is the model package's to know: it announces a proving ground in the entry-point group
`rs_pipeline.proving_grounds`, a callable `(data: Path) -> ProvingGround`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import Field, ValidationError

from rs_pipeline.adapt_settings import AdaptSettings, default_config, load_adapt_settings
from rs_pipeline.adaptation import AdaptRequest, UnlabelledTiles, as_adaptable
from rs_pipeline.classes import ClassSet
from rs_pipeline.config import RunSettings, bad_value, load_settings, read_yaml
from rs_pipeline.errors import ConfigError, OutputError, TrainingError
from rs_pipeline.keys import adapter_facts, digest, refine_facts
from rs_pipeline.metrics import Confusion
from rs_pipeline.options import Section
from rs_pipeline.reporting import Reporter
from rs_pipeline.segmenter import ModelInfo, Segmenter, find_provider
from rs_pipeline.vocabulary import load_vocabulary

GROUP = "rs_pipeline.proving_grounds"
_READ = {"dtype", "device", "scoring", "refine", "adapter"}
"""First parts of the run settings that reach the model when it is scored."""
RESULT_FORMAT = 1
"""Raised whenever kept results would be other ones."""


class ProvingGround(Protocol):
    """Places with imagery to adapt to, and places with labels to score on."""

    classes: tuple[str, ...]
    """What a model is asked for when it is judged."""

    def tiles(self, places: Sequence[str], tile_px: int) -> UnlabelledTiles:
        """Images of some places, without their labels.

        Raises
        ------
        ConfigError: an unknown place. TrainingError: its files are missing.
        """
        ...

    def digest(self, place: str) -> str:
        """Of a place's images and labels, hexadecimal; raises as `tiles` does."""
        ...

    def judge(self, segmenter: Segmenter, place: str, tile_px: int) -> Judged:
        """A model on every image of a place; raises as `tiles` does."""
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """A model on one place."""

    classes: tuple[str, ...]
    """What the labels know."""
    images: tuple[Confusion, ...]
    """Of each image: 0 for none of the classes, then the classes in order."""


class Row(Section):
    """One line of the table."""

    name: Annotated[str, Field(min_length=1)]
    adapt: dict[str, Any] | None = None
    """Laid over `base`; None: the model as it is."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Settings of a run, by dotted key: a refinement preset, or anything the model is told."""


class AblationSettings(Section):
    """`configs/ablate/*.yaml`."""

    title: str
    model: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    adapt_on: tuple[str, ...]
    score_on: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    base: dict[str, Any]
    """Laid over the settings that fit the model, as `rs-seg adapt` takes them."""
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]


def load_ablation(path: Path, model: str | None = None) -> AblationSettings:
    """The settings of a file; `model` in the place of its own.

    Raises
    ------
    ConfigError: an unknown or missing key, a bad value, or two rows of one name.
    """
    data = read_yaml(path)
    fix = "Compare it with configs/ablate/parts.yaml."
    try:
        settings = AblationSettings.model_validate({**data, **({"model": model} if model is not None else {})})
    except ValidationError as error:
        raise bad_value(error, str(path), fix) from error
    names = [row.name for row in settings.rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError("rows of different names", f"{', '.join(twice)} twice in {path}", fix)
    return settings


def find_ground(data: Path) -> ProvingGround:
    """The installed proving ground over a folder of data sets.

    Raises
    ------
    ConfigError: none is installed, or no such folder.
    """
    if not data.is_dir():
        raise ConfigError("a folder of data sets", f"{data}, which is none", "Point --data at it.")
    for entry in entry_points(group=GROUP):
        ground: ProvingGround = entry.load()(data)
        return ground
    raise ConfigError(f"an installed proving ground ({GROUP})", "none", "Install the package again.")


@dataclass(frozen=True, slots=True)
class Result:
    """A row with one seed."""

    name: str
    seed: int
    places: dict[str, Judged]
    adaptation: dict[str, Any] | None
    """What `Adaptable.adapt` gave."""


class Ablation:
    """One table under way; its results are kept in `out`, and a row that is there is not computed again.

    Parameters
    ----------
    out: a folder; results go into `rows/`, adapters into `adapters/`.
    """

    def __init__(self, settings: AblationSettings, ground: ProvingGround, out: Path) -> None:
        self.settings, self.ground, self.out = settings, ground, out
        if "/" in settings.model and not Path(settings.model).is_dir():
            fix = "Train it (`rs-seg train --config configs/train/ablation-base.yaml …`), or give --model another."
            raise ConfigError("the weights folder of the grid's model", f"none at {settings.model}", fix)
        self.provider = find_provider(settings.model)
        self.info: ModelInfo = self.provider.info()
        if set(settings.classes) != set(ground.classes):  # what an adapter was not made for, it must not be judged by
            fix = "Name them in the grid."
            raise ConfigError(f"the classes that models are judged by ({', '.join(ground.classes)})", ", ".join(settings.classes), fix)
        self.classes: ClassSet = load_vocabulary("default").class_set(settings.classes)
        # All rows are read before the first is computed: the last one's spelling should not cost a night.
        self._runs = {row.name: self._run_of(row) for row in settings.rows}
        self._adapting = {row.name: self._rows_of(row) for row in settings.rows if row.adapt is not None}
        for rows in self._adapting.values():
            self._settings_of(rows)
        if self._adapting:
            as_adaptable(self.provider, settings.model)
        self._tiles: UnlabelledTiles | None = None
        self._digests: dict[str, str] = {}

    def _run_of(self, row: Row) -> RunSettings:
        unread = [key for key in row.run if key.split(".")[0] not in _READ or key == "scoring.threshold"]
        if unread:
            fix = f"Settings of a row begin with {', '.join(sorted(_READ))}; places have their own thresholds."
            raise ConfigError("settings that scores hang on", f"{', '.join(unread)} in row {row.name}", fix)
        flags = {"model": self.settings.model, "refine.preset": "none", **row.run}
        return load_settings(flags=flags)

    def _rows_of(self, row: Row) -> list[Mapping[str, Any]]:
        return [self.settings.base, row.adapt or {}]

    def _settings_of(self, rows: Sequence[Mapping[str, Any]]) -> AdaptSettings:
        return load_adapt_settings(default_config(self.settings.model), rows=rows)

    def run(self, reporter: Reporter) -> list[Result]:
        """All rows with all seeds, in order.

        Raises
        ------
        RsSegError: a row cannot be computed; finished ones are kept.
        """
        jobs = [(row, seed) for row in self.settings.rows for seed in (self.settings.seeds if row.adapt is not None else (0,))]
        results = []
        for number, (row, seed) in enumerate(jobs, 1):
            reporter.note(f"row {number} of {len(jobs)}: {row.name}{f', seed {seed}' if row.adapt is not None else ''}")
            results.append(self._one(row, seed, reporter))
        return results

    def _one(self, row: Row, seed: int, reporter: Reporter) -> Result:
        settings = self._runs[row.name]
        rows = [*self._adapting[row.name], {"seed": seed}] if row.adapt is not None else []
        key = self._key(rows, settings)
        path = self.out / "rows" / f"{key}.json"
        kept = _read_result(path, row.name)
        if kept is not None:
            return kept
        made = None
        if row.adapt is not None:
            made = self._adapt(rows, self.out / "adapters" / f"{key}.safetensors", reporter)
            settings = settings.model_copy(update={"adapter": made["adapter"]})
        segmenter = self.provider.load(settings.options, None)
        places = {place: self.ground.judge(segmenter, place, self.info.tile_px) for place in self.settings.score_on}
        result = Result(row.name, seed, places, made)
        _write_result(path, result)
        return result

    def _key(self, rows: Sequence[Mapping[str, Any]], settings: RunSettings) -> str:
        adapting = self._settings_of(rows).model_dump(mode="json") if rows else None
        options = settings.options
        facts = {
            "format": RESULT_FORMAT,
            "model": [self.info.name, self.info.weights_sha256, self.info.code_version],
            "classes": self.classes.to_list(),
            "adapt": [adapting, list(self.settings.adapt_on), self._adapt_tiles().digest] if rows else None,
            "score_on": {place: self._digest(place) for place in self.settings.score_on},
            "options": [options.dtype, options.device, options.scoring.model_dump(mode="json")],
            **refine_facts(options.refine),
            **adapter_facts(options),
        }
        return digest(facts)[:24]

    def _digest(self, place: str) -> str:
        if place not in self._digests:
            self._digests[place] = self.ground.digest(place)
        return self._digests[place]

    def _adapt_tiles(self) -> UnlabelledTiles:
        if self._tiles is None:
            self._tiles = self.ground.tiles(self.settings.adapt_on, self.info.tile_px)
        return self._tiles

    def _adapt(self, rows: Sequence[Mapping[str, Any]], out: Path, reporter: Reporter) -> dict[str, Any]:
        """Without the guard: what hurts is to be seen, too."""
        request = AdaptRequest(self.classes, self._settings_of(rows), out.absolute(), "auto", None, resume=True, guarded=False)
        return as_adaptable(self.provider, self.settings.model).adapt(request, self._adapt_tiles(), reporter)


def _write_result(path: Path, result: Result) -> None:
    places = {
        place: {"classes": judged.classes, "images": [[i.counts.tolist(), i.not_observed] for i in judged.images]}
        for place, judged in result.places.items()
    }
    data = {"name": result.name, "seed": result.seed, "places": places, "adaptation": result.adaptation}
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(data))
        aside.replace(path)
    except OSError as error:
        raise OutputError("a folder for the results", f"{path.parent} ({error})", "Give another --out.") from error


def _read_result(path: Path, name: str) -> Result | None:
    """A kept result, by whatever name its row has now."""
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text())
        places = {
            place: Judged(tuple(j["classes"]), tuple(Confusion(np.array(counts, np.int64), lost) for counts, lost in j["images"]))
            for place, j in data["places"].items()
        }
        return Result(name, data["seed"], places, data["adaptation"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError("a whole result", f"{path} ({type(error).__name__})", "Delete it: its row is computed again.") from error
