"""A picture of each benchmark: bars of the medians, and how single times are distributed."""

import math
import textwrap
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.report import bound, median, outcome, three_digits
from benchmarks.results import Report, Series, percentile

# Text stays text, so that it can be searched and read aloud. DejaVu Sans, in which it is laid out,
# is wider than what stands in for it where it is missing: nothing runs over. The salt makes the
# same figures the same file; dollars are dollars and not formulas.
STYLE: dict[Any, Any] = {
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "imagepipe",
    "text.parse_math": False,
}

OURS = "#D55E00"  # of Okabe and Ito's colours, which colour-blind people tell apart
THEIRS = ("#56789A", "#A3B8CC", "#5F5F5F", "#B3B3B3")
LINES = ("-", "--", ":", "-.")
INK = "#222222"

WIDTH = 9.0  # inches, like all that follow
BAR, FRAME = 0.34, 0.6
CURVES = 3.0
LINE = 0.2

WIDE_SPREAD = 20


def draw(report: Report, path: Path) -> None:
    """Write the picture as SVG: a panel for each unit, and one for the samples if there are any."""
    panels: dict[str, list[Series]] = {}
    for one in report.series:
        panels.setdefault(one.unit, []).append(one)
    samples = {name: sorted(times) for name, times in report.samples.items() if times}
    heights = [BAR * len(panel) for panel in panels.values()]
    around_them = FRAME * len(heights)
    if samples:
        heights.append(CURVES)
        around_them += FRAME + LINE * len(samples)
    title = textwrap.wrap(
        report.title + (" (short form: only shows that it runs)" * report.quick), 80
    )
    footer = [line for text in verdicts(report) for line in textwrap.wrap(text, 115)]
    height = sum(heights) + around_them + LINE * (len(title) + len(footer) + 1)

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, (unit, series) in zip(axes, panels.items(), strict=False):
            bars(panel, series, unit)
        if samples:
            curves(axes[-1], samples)
        figure.suptitle("\n".join(title), x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.supxlabel("\n".join(footer), x=0.01, ha="left", fontsize=9)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def verdicts(report: Report) -> list[str]:
    """A line for each target, as in "outbox / no outbox: 0.91 (target ≥ 0.8, met)"."""
    return [
        f"{target.what}: {median(target)} (target {bound(target)}, {outcome(target)})"
        for target in report.targets
    ]


def bars(axes: Axes, series: Sequence[Series], unit: str) -> None:
    """The medians, and a dot for every run."""
    rows = range(len(series))
    medians = [one.median for one in series]
    lowest = min(min(one.runs) for one in series)
    highest = max(max(one.runs) for one in series)
    logarithmic = lowest > 0 and max(medians) > WIDE_SPREAD * min(medians)
    if logarithmic:
        low, high = around(lowest, highest)
        logarithms(axes, low, high * (high / low) ** 0.12)
    else:
        axes.set_xlim(0, (highest or 1) * 1.12)
        axes.xaxis.set_major_formatter(tick)
    axes.barh(rows, medians, height=0.7, color=[colour(one.name) for one in series])
    for row, one in zip(rows, series, strict=True):
        dots = [row] * len(one.runs)
        axes.scatter(one.runs, dots, s=16, color=INK, edgecolors="white", linewidths=0.6, zorder=3)
        axes.annotate(
            median(one),
            (max(one.runs), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold",
        )
    axes.set_yticks(rows, [textwrap.fill(one.name, 42) for one in series])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(series) - 0.5, -0.5)  # the first one above
    axes.set_xlabel(f"{unit} (logarithmic)" if logarithmic else unit)


def curves(axes: Axes, samples: dict[str, list[float]]) -> None:
    """Which part of the samples, each sorted and in milliseconds, stays below which time."""
    theirs = cycle(THEIRS)
    ours = cycle(LINES)
    positive = [time for times in samples.values() for time in (times[0], times[-1]) if time > 0]
    logarithms(axes, *around(min(positive, default=1), max(positive, default=1)))
    for name, times in samples.items():
        own = is_ours(name)
        p50, p99 = percentile(times, 50), percentile(times, 99)
        axes.plot(
            *distribution(times),
            drawstyle="steps-post",
            color=OURS if own else next(theirs),
            linestyle=next(ours) if own else "-",
            linewidth=2 if own else 1.6,
            label=f"{name}: p50 {milliseconds(p50)}, p99 {milliseconds(p99)}",
        )
    for percent in (50, 99):
        axes.axhline(percent, color=INK, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        axes.annotate(
            f"p{percent}",
            (1, percent),
            xytext=(3, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
        )
    axes.set_ylim(0, 102)
    axes.set_xlabel("ms (logarithmic)")
    axes.set_ylabel("samples up to this time, %")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


def distribution(times: Sequence[float]) -> tuple[list[float], list[float]]:
    """The times and percentages of a curve, at most some hundred, closer together at the end."""
    steps = {*range(25, 9_800, 25), *range(9_800, 10_001, 2)}  # hundredths of a percent
    ranks = sorted({1, *(-(-len(times) * step // 10_000) for step in steps)})
    return [times[rank - 1] for rank in ranks], [100 * rank / len(times) for rank in ranks]


def logarithms(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis whose ticks are 1, 2 and 5, or the powers of ten where these are many."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 2_000 else (1,)))
    axes.xaxis.set_major_formatter(tick)
    axes.xaxis.set_minor_locator(NullLocator())


def around(lowest: float, highest: float) -> tuple[float, float]:
    """The next of 1, 2, 5, 10, … on both sides, with some room."""
    ticks = [
        step * 10.0**power
        for power in range(math.floor(math.log10(lowest)) - 1, math.ceil(math.log10(highest)) + 2)
        for step in (1, 2, 5)
    ]
    return max(one for one in ticks if one < lowest), min(one for one in ticks if one > highest)


def milliseconds(value: float) -> str:
    return f"{value:,.{three_digits(value) if value > 0 else 0}f} ms"


def tick(value: float, _: object) -> str:
    return f"{value:,.10g}"


def colour(name: str) -> str:
    return OURS if is_ours(name) else THEIRS[0]


def is_ours(name: str) -> bool:
    return name.startswith("imagepipe")
