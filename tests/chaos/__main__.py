"""`python -m tests.chaos`: one attack by seed, its table, and exit code 1 on any breach."""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.faultpoints import POINTS
from tests.chaos.attack import RANDOMLY
from tests.chaos.run import Verdict, run

RECOVERY = 0.25  # of the time, for finishing what is left
SHOWN = 20  # breaches


def main() -> int:
    arguments = _arguments()
    console, started = Console(), time.monotonic()

    def tell(line: str) -> None:
        console.print(f"{time.monotonic() - started:6.0f} s  {line}", highlight=False)

    verdict = run(
        seed=arguments.seed,
        kills=arguments.kills,
        seconds=arguments.minutes * 60 * (1 - RECOVERY),
        workers=arguments.workers,
        tell=tell,
    )
    console.print(table(verdict))
    for breach in verdict.breaches[:SHOWN]:
        console.print(f"[red]breach[/] {breach}", highlight=False, soft_wrap=True)
    if not verdict.enough:
        console.print(
            f"[red]only {verdict.casualties.kills.total()} kills[/]: give it more minutes"
        )
    if verdict.directory:
        console.print(f"logs and evidence are kept in {verdict.directory}")
    if arguments.json:
        arguments.json.write_text(verdict.as_json())
    return 0 if verdict.holds else 1


def table(verdict: Verdict) -> Table:
    """What was done, and what the audit found."""
    done, kills = verdict.casualties, verdict.casualties.kills
    grid = Table("", "figures", "", title=f"chaos, seed {verdict.seed}", show_lines=False)
    restarts = ", ".join(f"{number} x {name}" for name, number in sorted(done.restarts.items()))
    grid.add_row(
        "workers killed",
        f"{kills.total()} of {verdict.kills_wanted}: at {verdict.points_hit} of {len(POINTS)}"
        f" fault points, {kills[RANDOMLY]} at random",
        "" if verdict.enough else "[red]too few[/]",
    )
    grid.add_row("workers frozen beyond their lease", str(done.frosts.total()), "")
    grid.add_row("restarts", restarts or "none", "")
    grid.add_row("seconds", f"{verdict.seconds:.0f}", "", end_section=True)
    for check in verdict.checks:
        broken = len(check.breaches)
        grid.add_row(
            check.name, check.figure, f"[red]{broken} breaches[/]" if broken else "[green]holds[/]"
        )
    return grid


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="what happens follows from it")
    parser.add_argument("--kills", type=int, default=200, help="workers to kill")
    parser.add_argument("--minutes", type=float, default=30, help="for all of it, about")
    parser.add_argument("--workers", type=int, default=3, help="at a time")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
