"""What a benchmark says: rates or times of several systems, run by run, and how they compare.

The machines are noisy, so ratios count, each of two figures of the same run; of several runs the
median counts.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

DIRECTORY = Path(__file__).with_name("results")

Direction = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Series:
    """One thing that was measured, once in each run."""

    name: str
    unit: str
    runs: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio (or another figure without a unit) of each run, and what it should be."""

    what: str
    runs: list[float]
    direction: Direction
    bound: float

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def met(self) -> bool:
        if self.direction == "at least":
            return self.median >= self.bound
        return self.median <= self.bound


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark's outcome. `samples`: single times in milliseconds, of all runs together, where
    their distribution is worth a plot."""

    name: str
    title: str
    how: str
    quick: bool
    series: list[Series]
    targets: list[Target]
    about: dict[str, Any]
    samples: dict[str, list[float]] = field(default_factory=dict)

    def write(self, directory: Path = DIRECTORY) -> Path:
        """Keep it as JSON under its name, a member on a line."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.name}.json"
        members = [
            f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
            for name, value in asdict(self).items()
        ]
        path.write_text("{\n" + ",\n".join(members) + "\n}\n", "utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> "Report":
        data = json.loads(path.read_text("utf-8"))
        data["series"] = [Series(**one) for one in data["series"]]
        data["targets"] = [Target(**one) for one in data["targets"]]
        return cls(**data)


Run = Mapping[str, float]
"""The figures of one run, by name."""


def series(runs: Sequence[Run], name: str, unit: str, label: str | None = None) -> Series:
    """One figure of every run, under the name or a better label."""
    return Series(label or name, unit, [round(run[name], 3) for run in runs])


def target(
    runs: Sequence[Run],
    what: str,
    ratio: Callable[[Run], float],
    direction: Direction,
    bound: float,
) -> Target:
    """A ratio inside each run, and its bound."""
    return Target(what, [round(ratio(run), 4) for run in runs], direction, bound)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value that so many percent of the samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
