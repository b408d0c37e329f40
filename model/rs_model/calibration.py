"""Probabilities that mean what they say: for each class a temperature and a bias, `P' = sigmoid(logit(P) / T + b)`.

Platt scaling of a class's final probability (Platt, "Probabilistic outputs for support vector machines", 1999; Guo et al., "On
calibration of modern neural networks", ICML 2017), fitted on places that neither training nor any reported score uses. A weights
folder carries it in its config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from rs_model.reliability import LOG_ODDS, Tally
from rs_model.weights import CONFIG
from rs_model.words import SYNONYMS
from rs_pipeline.errors import SegmenterError

TEMPERATURES = (0.05, 20.0)
"""Least and greatest: where scores tell a class without a mistake, the best temperature would be 0."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How the probabilities of one class are set right."""

    temperature: float
    bias: float
    """Of the log-odds, after the temperature."""

    def __post_init__(self) -> None:
        if not (np.isfinite([self.temperature, self.bias]).all() and self.temperature > 0):
            raise ValueError(f"a temperature above 0 and a finite bias, got {self.temperature} and {self.bias}")

    def apply(self, log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of log-odds of any shape; -inf stays 0, inf stays 1."""
        scaled: NDArray[np.float64] = expit(log_odds / self.temperature + self.bias)
        return scaled


Calibration = Mapping[str, Scaling]
"""By training class; a class that is not in it is left as it is."""


def queries_of(name: str) -> str:
    """What a calibration has the scaling of a class's queries under, where their scores have one of their own."""
    return f"{name}, queries"


def training_class(prompts: Sequence[str]) -> str | None:
    """The training class that all of a class's prompts are words for; None where they name several, or one is not known."""
    owners = {prompt: name for name, phrases in SYNONYMS.items() for prompt in phrases}
    found = {owners.get(" ".join(prompt.lower().split())) for prompt in prompts}
    return found.pop() if len(found) == 1 else None


def fit_scaling(places: Sequence[Tally], *, with_bias: bool = True) -> Scaling:
    """The scaling of the least binary negative log-likelihood, every place weighing the same; without a bias, the best temperature.

    Pixels of probability 0, where a prompt was found absent, are left out: no scaling moves them.

    Raises
    ------
    ValueError: the pixels that are left are all of the class, or none is.
    """
    counts = sum((place.counts[:, 1:] / max(place.counts[:, 1:].sum(), 1) for place in places), start=np.zeros((2, len(LOG_ODDS) - 1)))
    if not counts.any(axis=1).all():
        raise ValueError("pixels of the class and pixels beside it are needed")
    log_odds, share = LOG_ODDS[1:], counts / counts.sum()

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope, bias = parameters
        scaled = slope * log_odds + bias
        # -log(1 - P) and -log(P), in the form that does not overflow.
        value = (share * np.logaddexp(0, [scaled, -scaled])).sum()
        error = share.sum(0) * expit(scaled) - share[1]
        return float(value), np.array([(error * log_odds).sum(), error.sum()])

    coldest, hottest = TEMPERATURES
    bounds = [(1 / hottest, 1 / coldest), (None, None) if with_bias else (0.0, 0.0)]
    # Convex in slope and bias, so where it starts decides nothing.
    best = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-10)
    return Scaling(round(float(1 / best.x[0]), 4), round(float(best.x[1]), 4))


def rescale(scores: NDArray[np.float32], names: Sequence[str], calibration: Calibration) -> NDArray[np.float32]:
    """Probabilities (K, H, W) of classes by name, calibrated; a copy."""
    scaled = scores.copy()
    for band, name in zip(scaled, names, strict=True):
        if name in calibration:
            band[...] = calibration[name].apply(logit(band.astype(np.float64)))
    return scaled


def read_calibration(folder: Path) -> Calibration:
    """The calibration in a weights folder's config.json; empty where it has none.

    Raises
    ------
    SegmenterError: no such file, or a calibration that is damaged.
    """
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text()).get("calibration", {})
        return {str(name): Scaling(float(values["temperature"]), float(values["bias"])) for name, values in found.items()}
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        came = f"{path} ({type(error).__name__}: {error})"
        fix = "Fit it again with `python -m rs_model.calibrate --write`, or copy the whole folder again."
        raise SegmenterError("a temperature above 0 and a bias for each calibrated class", came, fix) from error


def to_config(calibration: Calibration) -> dict[str, dict[str, float]]:
    """JSON-ready form; `read_calibration` gives it back."""
    return {name: {"temperature": s.temperature, "bias": s.bias} for name, s in calibration.items()}
