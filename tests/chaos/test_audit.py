"""The audit finds what it is there to find: a sound little world, and one lie after the other."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.rules.limits import Limit
from sandbox.records import Purchase
from tests.chaos.attack import Casualties
from tests.chaos.audit import audit
from tests.chaos.evidence import Evidence, Outcome, Received, Step, bill
from tests.chaos.plan import Event, Picture

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
PICTURE = Picture("P00001", "listing", "Villa")
REFUSED = Picture("M00002", "listing", "Villa", refused=True)
URL = "http://127.0.0.1/picture.webp"
SOLD = Purchase(
    "Villa P00001", "gpt-image-2.5-flare", "1024x1024", "medium", "webp", None, START, 9
)
COST = bill(SOLD)
BOUND = 2 * COST

Lie = Callable[[Evidence], Evidence]


def _event(id_: str, picture: Picture) -> Event:
    return Event(id_.encode(), b"{}", id=id_, entity=f"listing:{id_}", picture=picture)


def _outcome(kind: str, cause: str, **data: Any) -> Outcome:
    return Outcome(kind, f"{kind}-{cause}", cause, data, json.dumps(data).encode())


def _reservation(id_: str, seconds: int, **now: Any) -> dict[str, Any]:
    at = START + timedelta(seconds=seconds)
    return {"id": id_, "at": at, "source": "live", "type": "listing", **now}


HELD = {"state": "held", "requests": 1, "microusd": BOUND}
SETTLED = {"state": "settled", "requests": 1, "microusd": COST}
RELEASED = {"state": "released", "requests": 0, "microusd": 0}


def sound() -> Evidence:
    """Two events share a picture, one is refused by moderation, one record is broken."""
    asset = {"publicId": "p", "mediaAssetId": "asset", "url": URL, "sha256": "abc"}
    failed = {"code": "policy", "errorClass": "policy", "sequence": 3}
    ready = [_outcome("ready", id_, asset=asset, cached=cached) for id_, cached in ONE_AND_TWO]
    steps = [
        ("jobs", {"id": "job", "state": "queued"}),
        ("reservations", _reservation("buy", 0, **HELD)),
        ("attempts", {"id": "buy", "job_id": "job", "state": "started"}),
        ("jobs", {"id": "job", "state": "generating"}),
        ("attempts", {"id": "buy", "job_id": "job", "state": "bought"}),
        ("jobs", {"id": "job", "state": "generated"}),
        ("reservations", _reservation("buy", 0, **SETTLED)),
        ("jobs", {"id": "job", "state": "done"}),
        ("reservations", _reservation("no", 5, **HELD)),
        ("reservations", _reservation("no", 5, **RELEASED)),
    ]
    return Evidence(
        published=[_event("1", PICTURE), _event("2", PICTURE), _event("3", REFUSED), BROKEN],
        casualties=Casualties(),
        received=[Received((0, place), key) for place, key in enumerate((b"1", b"2", b"3", b"b"))],
        outcomes=[*ready, _outcome("failed", "3", **failed)],
        dead_letters=[(0, 3)],
        purchases=[SOLD],
        uploads=1,
        files={URL: "abc"},
        limits=[Limit("ten", "global", 10, 2, BOUND + COST)],
        history=[Step(relation, START, row) for relation, row in steps],
        tables={
            "requests": [
                _request("1", 1, "ready"),
                _request("2", 2, "ready"),
                _request("3", 3, "failed"),
            ],
            "jobs": [
                {"id": "job", "state": "done", "prompt": SOLD.prompt, "lease": None},
                {"id": "jobM", "state": "failed", "prompt": "Villa M00002", "lease": None},
            ],
            "attempts": [
                _attempt("buy", "job", "bought", COST),
                _attempt("no", "jobM", "refused", None),
            ],
            "reservations": [_reservation("buy", 0, **SETTLED), _reservation("no", 5, **RELEASED)],
            "windows": [
                {
                    "scope": "global",
                    "span_seconds": 10,
                    "upto": START - timedelta(seconds=5),
                    "requests": 1,
                    "microusd": COST,
                }
            ],
            "spool": [],
            "outbox": [],
            "assets": [
                {
                    "id": "asset",
                    "cloudinary_public_id": "p",
                    "usage_count": 2,
                    "prompt": SOLD.prompt,
                }
            ],
            "logs": [{"id": "buy", "success": True}, {"id": "no", "success": False}],
        },
    )


ONE_AND_TWO = (("1", False), ("2", True))
BROKEN = Event(b"b", b"{")


def _request(id_: str, sequence: int, state: str) -> dict[str, Any]:
    asset = "asset" if state == "ready" else None
    return {
        "id": id_,
        "event_id": id_,
        "sequence": sequence,
        "state": state,
        "asset_id": asset,
        "type": "listing",
        "deferrals": 0,
    }


def _attempt(id_: str, job: str, state: str, cost: int | None) -> dict[str, Any]:
    return {"id": id_, "job_id": job, "state": state, "cost_microusd": cost, "duplicate": False}


def _with(table: str, place: int, **changes: Any) -> Lie:
    """The same evidence with one row of a table changed."""

    def lie(evidence: Evidence) -> Evidence:
        rows = list(evidence.tables[table])
        rows[place] = rows[place] | changes
        return replace(evidence, tables=evidence.tables | {table: rows})

    return lie


def _without_outcome(evidence: Evidence) -> Evidence:
    return replace(evidence, outcomes=evidence.outcomes[1:])


def _two_outcomes(evidence: Evidence) -> Evidence:
    second = _outcome("failed", "1", code="exhausted", errorClass="exhausted", sequence=1)
    return replace(evidence, outcomes=[*evidence.outcomes, second])


def _repeated_with_another_content(evidence: Evidence) -> Evidence:
    first = evidence.outcomes[0]
    return replace(evidence, outcomes=[*evidence.outcomes, replace(first, value=b"{}")])


def _bought_twice(evidence: Evidence) -> Evidence:
    return replace(evidence, purchases=[SOLD, SOLD])


def _called_again_after_the_bytes(evidence: Evidence) -> Evidence:
    again = _attempt("again", "job", "unknown", None)
    held = Step("reservations", START, _reservation("again", 6, **HELD))
    attempts = [*evidence.tables["attempts"], again]
    tables = evidence.tables | {"attempts": attempts}
    return replace(evidence, history=[*evidence.history, held], tables=tables)


def _two_held_at_once(evidence: Evidence) -> Evidence:
    """Both rows are over only for as long as their bounds were held."""
    steps = list(evidence.history)
    settled = steps.pop(6)
    assert settled.row["state"] == "settled"
    return replace(evidence, history=[*steps, settled])


def _back_in_the_queue(evidence: Evidence) -> Evidence:
    again = Step("jobs", START, {"id": "job", "state": "queued"})
    return replace(evidence, history=[*evidence.history, again])


LIES: dict[str, tuple[str, Lie]] = {
    "an event that nobody recorded": (
        "every event is recorded once",
        _with("requests", 1, event_id="1"),
    ),
    "an event without outcome": ("every event has exactly one outcome", _without_outcome),
    "an event with two outcomes": ("every event has exactly one outcome", _two_outcomes),
    "one id, two contents": (
        "every event has exactly one outcome",
        _repeated_with_another_content,
    ),
    "a wait that was never announced": (
        "every wait is announced once",
        _with("requests", 0, deferrals=1),
    ),
    "a broken record without dead letter": (
        "every broken record is one dead letter",
        lambda evidence: replace(evidence, dead_letters=[]),
    ),
    "a sound record as dead letter": (
        "every broken record is one dead letter",
        lambda evidence: replace(evidence, dead_letters=[(0, 3), (0, 0)]),
    ),
    "a file with other bytes": (
        "every answer's file is there, as announced",
        lambda evidence: replace(evidence, files={URL: "def"}),
    ),
    "an upload that nobody knows": (
        "every answer's file is there, as announced",
        lambda evidence: replace(evidence, uploads=2),
    ),
    "a use too many": ("usage counts are the answers", _with("assets", 0, usage_count=3)),
    "a picture sold twice": ("every distinct picture is paid for once", _bought_twice),
    "a purchase recorded as refused": (
        "every distinct picture is paid for once",
        _with("attempts", 0, state="refused"),
    ),
    "a call after the bytes were there": (
        "no received picture is bought again",
        _called_again_after_the_bytes,
    ),
    "money recorded below the bill": (
        "what is charged is recorded",
        _with("reservations", 0, microusd=COST - 1),
    ),
    "a window over its limit while money was held": (
        "no window is ever over its limit",
        _two_held_at_once,
    ),
    "a total that is off by one": (
        "running totals are exact",
        _with("windows", 0, microusd=COST + 1),
    ),
    "a call that was never settled": (
        "every call is settled and logged",
        _with("attempts", 1, state="started"),
    ),
    "a job on its way": ("nothing is left behind", _with("jobs", 0, state="generated")),
    "a request that waits": ("nothing is left behind", _with("requests", 2, state="waiting")),
    "a job that went back": ("jobs moved as the rules allow", _back_in_the_queue),
}


def test_a_sound_world_passes() -> None:
    assert {check.name: check.breaches for check in audit(sound()) if check.breaches} == {}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found(name: str) -> None:
    check, lie = LIES[name]

    found = {one.name for one in audit(lie(sound())) if one.breaches}

    assert check in found
