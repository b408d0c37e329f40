"""Which scenes of an archive are asked for. Pure."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from shapely.geometry.base import BaseGeometry

from rs_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of time, both ends included; None is open."""

    start: dt.datetime | None = None
    stop: dt.datetime | None = None

    @property
    def is_open(self) -> bool:
        """True where every time lies inside, and none at all does too."""
        return self.start is None and self.stop is None

    def holds(self, moment: dt.datetime | None) -> bool:
        """True where `moment` lies inside; a scene without a date is in no bounded range."""
        if self.is_open:
            return True
        if moment is None:
            return False
        return (self.start is None or moment >= self.start) and (self.stop is None or moment <= self.stop)

    def meets(self, first: dt.datetime | None, last: dt.datetime | None) -> bool:
        """True where some time of `first` to `last`, each open where None, lies inside."""
        early_enough = self.stop is None or first is None or first <= self.stop
        return early_enough and (self.start is None or last is None or last >= self.start)


@dataclass(frozen=True, slots=True)
class Query:
    """What is taken of an archive. Collections, cloud cover, asset and roots are asked of STAC items only, not of plain images."""

    interval: Interval = field(default_factory=Interval)
    aoi: BaseGeometry | None = None
    """In EPSG:4326; None is everywhere."""
    collections: tuple[str, ...] = ()
    """Ids; empty: all but the products of runs."""
    max_cloud_cover: float | None = None
    """Percent; items that do not state theirs are left out. None: any."""
    asset: str | None = None
    """Key of the asset to read; None: the one that must be meant."""
    roots: tuple[str, ...] = ()
    """Folders and URL prefixes that images must lie in; empty: a local catalog names what it likes, one on the web the web."""


def parse_interval(text: str | None) -> Interval:
    """`FROM/TO` with either end open (`..` or nothing), or one day, as ISO 8601 dates or times.

    Raises
    ------
    UsageError: not dates, or the wrong way round.
    """
    if text is None:
        return Interval()
    first, slash, last = text.partition("/")
    start, stop = _moment(first, text, end=False), _moment(last if slash else first, text, end=True)
    if start and stop and start > stop:
        raise UsageError("--datetime FROM/TO with FROM before TO", text, "Swap them.")
    return Interval(start, stop)


def _moment(text: str, whole: str, *, end: bool) -> dt.datetime | None:
    text = text.strip()
    if text in {"", ".."}:
        return None
    try:
        day = dt.date.fromisoformat(text)
        return dt.datetime.combine(day, dt.time.max if end else dt.time.min, dt.UTC)
    except ValueError:
        pass
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError("--datetime as 2026-01-31, or 2026-01-01/2026-01-31", whole, "Write ISO 8601 dates.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
