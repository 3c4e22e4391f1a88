"""Runs benchmarks: `python -m benchmarks`, or `python -m benchmarks intake latency --quick`."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks import plots, report
from benchmarks.results import DIRECTORY, Report
from benchmarks.stage import NotReal, Stage, stage

NAMES = ("intake", "latency", "purchase", "api", "admission", "inflight", "growth", "scale")
RUNS = 3
HERE = Path(__file__).parent


def main() -> int:
    """0 when everything was measured, 1 when something could not be, 2 without a real Kafka."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure imagepipe beside what else one could use; write JSON, pictures and"
        " RESULTS.md into benchmarks/.",
        epilog="Example: python -m benchmarks intake api --quick",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--runs", type=int, default=0, help=f"default {RUNS}, 1 when quick")
    parser.add_argument(
        "--output",
        type=Path,
        help="where results are written; default: benchmarks/, or quick/ in it",
    )
    parser.add_argument("--write", action="store_true", help="only RESULTS.md and the pictures")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no benchmark {min(unknown)}; there are {', '.join(NAMES)}")
    quick = options.quick or os.environ.get("BENCH_QUICK") == "1"
    output = options.output or (HERE / "quick" if quick else HERE)
    results = output / DIRECTORY.name
    missing = 0
    if not options.write:
        try:
            with stage(runs=options.runs or (1 if quick else RUNS), quick=quick) as made:
                missing = measure(made, options.names or NAMES, results)
        except NotReal as error:
            sys.stderr.write(f"{error}\n")
            return 2
    write(results, output)
    return 1 if missing else 0


def measure(made: Stage, names: Sequence[str], results: Path) -> int:
    """Run the benchmarks and keep what they say; returns how many failed."""
    failed = 0
    for name in names:
        sys.stdout.write(f"==> {name}\n")
        sys.stdout.flush()
        started = time.monotonic()
        run: Callable[[Stage], Report] = import_module(f"benchmarks.{name}").measure
        try:
            found = run(made)
        except Exception as error:
            failed += 1
            sys.stdout.write(f"    failed: {error!r}\n")
            continue
        found.write(results)
        sys.stdout.write(summary(found) + f"    {time.monotonic() - started:.0f} s\n")
    return failed


def summary(found: Report) -> str:
    """A line for each figure and each target."""
    lines = [f"    {one.name}: {one.median:,.1f} {one.unit}" for one in found.series]
    lines += [
        f"    {one.what}: {one.median:.3g}, {one.direction} {one.bound:g}:"
        f" {'met' if one.met else 'missed'}"
        for one in found.targets
    ]
    return "".join(f"{line}\n" for line in lines)


def write(results: Path, output: Path) -> None:
    """RESULTS.md and the pictures, of everything that has been measured."""
    reports = [Report.read(path) for path in sorted(results.glob("*.json"))]
    (output / "RESULTS.md").write_text(report.markdown(reports), "utf-8")
    for one in reports:
        plots.draw(one, output / f"{one.name}.svg")


if __name__ == "__main__":
    sys.exit(main())
