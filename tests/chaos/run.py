"""One run: the stage, the attack, the recovery, the audit."""

import asyncio
import json
import shutil
import signal
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

from pipeline.faultpoints import POINTS
from tests.chaos.attack import RANDOMLY, Attack, Casualties, Tell
from tests.chaos.audit import audit
from tests.chaos.check import Check
from tests.chaos.collection import collect
from tests.chaos.evidence import Evidence
from tests.chaos.stage import Stage
from tests.chaos.worker import Worker

PROGRESS = 5.0  # seconds between progress lines
STANDSTILL = 240.0
"""Seconds without any change after which healthy workers are taken to be stuck: far more than the
longest back-off, lease and window of the stage together."""

REMAINING = """
SELECT (SELECT count(*) FROM imagepipe.requests) AS recorded,
       (SELECT count(*) FROM imagepipe.dead_letters) AS dead,
       (SELECT count(*) FROM imagepipe.requests WHERE state = 'waiting') AS waiting,
       (SELECT count(*) FROM imagepipe.jobs WHERE state NOT IN ('done', 'failed')) AS jobs,
       (SELECT count(*) FROM imagepipe.outbox WHERE published_at IS NULL) AS unpublished,
       (SELECT count(*) FROM imagepipe.attempts) AS attempts
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out of a run. `directory` holds logs and evidence after a failure."""

    seed: int
    kills_wanted: int
    seconds: float
    casualties: Casualties
    checks: list[Check]
    directory: Path | None

    @property
    def enough(self) -> bool:
        return self.casualties.kills.total() >= self.kills_wanted

    @property
    def breaches(self) -> list[str]:
        return [f"{check.name}: {breach}" for check in self.checks for breach in check.breaches]

    @property
    def holds(self) -> bool:
        return self.enough and not self.breaches

    @property
    def points_hit(self) -> int:
        return sum(self.casualties.kills[point] > 0 for point in POINTS)

    def as_json(self) -> str:
        kills = {point: self.casualties.kills[point] for point in (*POINTS, RANDOMLY)}
        return json.dumps(
            {
                "seed": self.seed,
                "holds": self.holds,
                "seconds": round(self.seconds, 1),
                "kills": kills,
                "frosts": dict(self.casualties.frosts),
                "restarts": dict(self.casualties.restarts),
                "checks": [asdict(check) for check in self.checks],
            },
            indent=2,
        )


def run(*, seed: int, kills: int, seconds: float, workers: int, tell: Tell) -> Verdict:
    """Attack for at most `seconds`, let healthy workers finish, and judge. `tell` gets a line of
    progress now and then."""
    started = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="imagepipe-chaos-"))
    tell(f"seed {seed}: starting Kafka, PostgreSQL and the sandbox in {directory}")
    with Stage(directory) as stage:
        attack = Attack(stage, seed=seed, kills=kills, seconds=seconds, workers=workers, tell=tell)
        asyncio.run(_attacked(stage, attack, tell))
        tell("the attack is over, healthy workers finish what is left")
        healthy = [stage.start_worker() for _ in range(workers)]
        _recover(stage, attack, tell)
        attack.casualties.unexpected += _dismiss(healthy)
        evidence = collect(stage, attack.published, attack.casualties)
    verdict = Verdict(
        seed, kills, time.monotonic() - started, attack.casualties, audit(evidence), directory
    )
    if verdict.holds:
        shutil.rmtree(directory)
        return Verdict(seed, kills, verdict.seconds, attack.casualties, verdict.checks, None)
    _keep(evidence, directory / "evidence.json")
    return verdict


async def _attacked(stage: Stage, attack: Attack, tell: Tell) -> None:
    progress = asyncio.create_task(_report(stage, attack, tell))
    try:
        await attack.run()
    finally:
        progress.cancel()


async def _report(stage: Stage, attack: Attack, tell: Tell) -> None:
    while True:
        await asyncio.sleep(PROGRESS)
        casualties = attack.casualties
        tell(
            f"{len(attack.published)} events, {casualties.kills.total()} kills,"
            f" {casualties.frosts.total()} frosts, {len(stage.sandbox.purchases)} pictures sold;"
            f" {await asyncio.to_thread(_standing, stage)}"
        )


def _standing(stage: Stage) -> str:
    try:
        row = stage.query(REMAINING)[0]
    except psycopg.OperationalError:
        return "PostgreSQL is away"
    return f"{row['recorded']} recorded, {row['waiting']} waiting, {row['jobs']} jobs open"


def _recover(stage: Stage, attack: Attack, tell: Tell) -> None:
    """Wait until all that was published is answered, or nothing moves any more."""
    accepted = len({event.id for event in attack.published if event.id is not None})
    broken = sum(event.id is None for event in attack.published)
    seen: object = None
    moved = told = time.monotonic()
    while time.monotonic() - moved < STANDSTILL:
        row = stage.query(REMAINING)[0]
        quiet = not (row["waiting"] or row["jobs"] or row["unpublished"])
        if quiet and row["recorded"] >= accepted and row["dead"] >= broken:
            return
        if row != seen:
            seen, moved = row, time.monotonic()
        if time.monotonic() - told > PROGRESS:
            told = time.monotonic()
            tell(f"{row['recorded']} of {accepted} events recorded, {row['waiting']} waiting")
        time.sleep(0.2)
    tell(f"nothing has moved for {STANDSTILL:.0f} s")


def _dismiss(workers: list[Worker]) -> list[str]:
    """Ask healthy workers to leave; whoever has left before, or does not leave well, is named."""
    for worker in workers:
        worker.send(signal.SIGTERM)
    codes = [(worker.log.name, worker.wait(60)) for worker in workers]
    return [f"{name}: a healthy worker left with {code}" for name, code in codes if code]


def _keep(evidence: Evidence, path: Path) -> None:
    kept = {
        "history": [(step.relation, step.at, step.row) for step in evidence.history],
        "purchases": evidence.purchases,
        "outcomes": [(one.kind, one.id, one.cause, one.data) for one in evidence.outcomes],
        "tables": evidence.tables,
    }
    path.write_text(json.dumps(kept, indent=1, default=str))
