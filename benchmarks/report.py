"""The page that people read: every report's figures and targets, as Markdown."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.results import Report, Series, Target

NOTES = Path(__file__).with_name("notes")

ORDER = ("intake", "latency", "purchase", "api", "admission", "inflight", "growth", "scale")

INTRODUCTION = """\
# Benchmarks

Every figure here was measured by `make bench` on the machine below. A ratio is always of two
figures of the same run, and the median of the runs counts, because machines are noisy. The broker,
the database and everything that is measured share the machine's cores."""

SHORT_FORM = "from a short form: they only show that the benchmark runs, not how fast anything is"

SPELLINGS = {
    "fastapi": "FastAPI",
    "faust": "Faust",
    "java": "Java",
    "kafka": "Apache Kafka",
    "postgresql": "PostgreSQL",
    "python": "Python",
    "sqlalchemy": "SQLAlchemy",
}


def markdown(reports: Sequence[Report], notes: Path = NOTES) -> str:
    """The whole page. What a person wrote about a benchmark in `notes`/NAME.md is part of it; the
    plots are expected beside the page, as NAME.svg."""
    ordered = sorted(reports, key=position)
    shared = common([report.about for report in ordered])
    blocks = [INTRODUCTION, facts(shared), *overview(ordered)]
    for report in ordered:
        blocks.extend(section(report, shared, notes / f"{report.name}.md"))
    return "\n\n".join(block for block in blocks if block) + "\n"


def position(report: Report) -> tuple[int, str]:
    """In the order in which an event meets what is measured; others follow by name."""
    return (ORDER.index(report.name) if report.name in ORDER else len(ORDER), report.name)


def common(abouts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is the same in all of them."""
    if not abouts:
        return {}
    first, *others = abouts
    missing = object()
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key, missing) == value for other in others)
    }


def facts(about: dict[str, Any]) -> str:
    """What figures depend on besides the code, in one line."""
    line = ", ".join(fact(key, value) for key, value in about.items())
    return line[:1].upper() + line[1:]


def fact(key: str, value: Any) -> str:
    match key:
        case "cpu":
            return str(value)
        case "cores":
            return f"{value} cores"
        case "memory_gib":
            return f"{value} GiB of memory"
    if isinstance(value, float):
        value = f"{value:,.2f}"
    return f"{SPELLINGS.get(key, key.replace('_', ' '))} {value}"


def overview(reports: Sequence[Report]) -> Iterator[str]:
    """One line for each target."""
    if any(report.quick for report in reports):
        yield f"**Figures marked “short form” are {SHORT_FORM}.**"
    yield table(
        "<<>><",
        ("benchmark", "ratio", "median", "target", "outcome"),
        [
            (
                f"[{report.name}](#{report.name})" + (" (short form)" if report.quick else ""),
                target.what,
                median(target),
                bound(target),
                outcome(target),
            )
            for report in reports
            for target in report.targets
        ],
    )


def section(report: Report, shared: dict[str, Any], notes: Path) -> Iterator[str]:
    """All that there is about one benchmark."""
    yield f'<a id="{report.name}"></a>'
    yield f"## {report.title}"
    if report.quick:
        yield f"**These figures are {SHORT_FORM}.**"
    yield report.how.strip()
    yield facts({key: value for key, value in report.about.items() if key not in shared})
    yield table(
        "<<>>",
        ("measured", "unit", "every run", "median"),
        [(one.name, one.unit, runs(one), median(one)) for one in report.series],
    )
    yield table(
        "<>>><",
        ("ratio", "every run", "median", "target", "outcome"),
        [
            (target.what, runs(target), median(target), bound(target), outcome(target))
            for target in report.targets
        ],
    )
    yield f"![{report.name}: the medians, and every run]({report.name}.svg)"
    if notes.exists():
        yield notes.read_text("utf-8").strip("\n")


def runs(measured: Series | Target) -> str:
    """Every run, with as many digits as the median has."""
    places = decimals(measured)
    return " · ".join(f"{run:,.{places}f}" for run in measured.runs)


def median(measured: Series | Target) -> str:
    return f"{measured.median:,.{decimals(measured)}f}"


def decimals(measured: Series | Target) -> int:
    """How many digits behind the point give the median three significant ones. Counts need none; a
    ratio needs more where rounding would put it on the other side of its bound."""
    values = [measured.median, *measured.runs]
    if all(value == int(value) for value in values):
        return 0
    places = three_digits(abs(measured.median) or max(map(abs, values)))
    if isinstance(measured, Target):
        while replace(measured, runs=[round(measured.median, places)]).met != measured.met:
            places += 1
    return places


def three_digits(value: float) -> int:
    """How many digits behind the point give a positive number three significant ones."""
    return max(0, 2 - math.floor(math.log10(value)))


def bound(target: Target) -> str:
    """As in "≥ 2.0", with the digits in which it was asked for."""
    return f"{'≥' if target.direction == 'at least' else '≤'} {target.bound:,}"


def outcome(target: Target) -> str:
    return "met" if target.met else "missed"


def table(alignment: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is aligned in its source, too; nothing where there are no rows."""
    if not rows:
        return ""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (headings, *rows)]
    columns = [
        column(side, texts) for side, texts in zip(alignment, zip(*cells, strict=True), strict=True)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


def column(side: str, texts: Sequence[str]) -> list[str]:
    """A heading, the rule that says to which side the column goes, and its cells: equally wide."""
    width = max(map(len, texts))
    rule = ":" + "-" * (width - 1) if side == "<" else "-" * (width - 1) + ":"
    heading, *rest = [f"{text:{side}{width}}" for text in texts]
    return [heading, rule, *rest]
