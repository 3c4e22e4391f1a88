"""What a reader learns from a benchmark: its figures, whether its targets are met, its picture."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.plots import draw
from benchmarks.report import markdown
from benchmarks.results import Direction, Report, Series, Target, percentile

MACHINE = {"cpu": "A processor", "cores": 2, "memory_gib": 23.0, "python": "3.11.7"}
LATENCY = Report(
    name="latency",
    title="From an event to its request",
    how="One event at a time.",
    quick=True,
    series=[Series("imagepipe", "ms", [7.5, 8.25, 9.0]), Series("polling", "ms", [510.0, 498.0])],
    targets=[Target("imagepipe / polling", [0.02, 0.016, 0.0181], "at most", 0.1)],
    about={**MACHINE, "load_before": 0.5},
    samples={"imagepipe": [7.5, 8.25, 9.0], "polling": [510.0, 498.0]},
)
INTAKE = Report(
    name="intake",
    title="Events taken in",
    how="A topic is read from its beginning.",
    quick=False,
    series=[Series("imagepipe", "events/s", [9876.5, 12345.6, 11000.4])],
    targets=[Target("imagepipe / Faust", [1.9, 1.998, 2.2], "at least", 2.0)],
    about={**MACHINE, "kafka": "4.4.0", "load_before": 0.25},
)


def lines(page: str) -> list[str]:
    """Without the padding of its tables."""
    return [" ".join(line.split()) for line in page.splitlines()]


def test_a_report_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    assert Report.read(LATENCY.write(tmp_path / "results")) == LATENCY


@pytest.mark.parametrize(
    ("runs", "direction", "bound", "met"),
    [
        ([1.0, 2.0, 9.0], "at least", 2.0, True),
        ([1.0, 1.9, 9.0], "at least", 2.0, False),
        ([1.0, 5.0, 9.0], "at most", 5, True),
        ([1.0, 5.1, 9.0], "at most", 5, False),
    ],
)
def test_the_median_decides_whether_a_target_is_met(
    runs: list[float], direction: Direction, bound: float, met: bool
) -> None:
    assert Target("ratio", runs, direction, bound).met is met


def test_a_percentile_is_one_of_the_samples() -> None:
    samples = [float(number) for number in range(200, 0, -1)]
    assert [percentile(samples, percent) for percent in (0, 50, 99, 100)] == [1, 100, 198, 200]
    assert percentile([3.0], 99) == 3


def test_the_page_says_which_targets_are_met(tmp_path: Path) -> None:
    page = lines(markdown([LATENCY, INTAKE], tmp_path))
    intake, latency = (line for line in page if line.startswith("| ["))
    # Not 2.00, which would have been enough.
    assert intake == "| [intake](#intake) | imagepipe / Faust | 1.998 | ≥ 2.0 | missed |"
    assert latency == (
        "| [latency](#latency) (short form) | imagepipe / polling | 0.0181 | ≤ 0.1 | met |"
    )
    assert "| imagepipe | events/s | 9,876 · 12,346 · 11,000 | 11,000 |" in page
    assert "| imagepipe | ms | 7.50 · 8.25 · 9.00 | 8.25 |" in page


def test_the_page_describes_the_machine_once(tmp_path: Path) -> None:
    page = lines(markdown([INTAKE, LATENCY], tmp_path))
    assert page.count("A processor, 2 cores, 23.0 GiB of memory, Python 3.11.7") == 1
    assert "Apache Kafka 4.4.0, load before 0.25" in page
    assert "Load before 0.50" in page


def test_only_a_short_form_is_called_one(tmp_path: Path) -> None:
    assert "only show that the benchmark runs" in markdown([LATENCY], tmp_path)
    assert "short form" not in markdown([INTAKE], tmp_path)


def test_notes_are_part_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "intake.md").write_text("The cores are *shared*.\n", "utf-8")
    page = lines(markdown([INTAKE], tmp_path))
    picture, notes = page[-3], page[-1]
    assert picture.endswith("(intake.svg)")
    assert notes == "The cores are *shared*."


def test_the_picture_names_its_series_units_and_targets(tmp_path: Path) -> None:
    path = tmp_path / "latency.svg"
    draw(LATENCY, path)
    texts = {text.strip() for text in ElementTree.parse(path).getroot().itertext()}
    assert {"imagepipe", "polling", "8.25", "504", "p50", "p99", "ms (logarithmic)"} <= texts
    assert "imagepipe / polling: 0.0181 (target ≤ 0.1, met)" in texts
    assert "From an event to its request (short form: only shows that it runs)" in texts


def test_the_same_figures_give_the_same_picture(tmp_path: Path) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    draw(INTAKE, first)
    draw(INTAKE, second)
    assert first.read_bytes() == second.read_bytes()
