"""Checks of the money: every picture paid for once, every charge recorded, no window over."""

from collections import Counter
from collections.abc import Iterable

from tests.chaos.check import Check, accepted_events
from tests.chaos.evidence import Evidence, bill, token_of
from tests.chaos.windows import Amount, peaks, totals

FOUND = {"bought": "settled", "refused": "released", "unknown": "unknown"}
"""What the reservation of an attempt in each final state has to be."""


def _wanted(evidence: Evidence) -> Counter[str]:
    """How many distinct pictures were asked for, by token: one, or one per event where the cache
    is to be skipped."""
    wanted: Counter[str] = Counter()
    for event in accepted_events(evidence).values():
        assert event.picture is not None
        token = event.picture.token
        wanted[token] = wanted[token] + 1 if event.picture.skip_cache else 1
    return wanted


def pictures_are_paid_once(evidence: Evidence) -> Check:
    """Per picture: assets <= sold <= wanted + unknown, and sold <= what we know we bought +
    unknown: no purchase that nobody recorded, none that a refusal hid."""
    wanted, attempts, unknown = _wanted(evidence), evidence.by_token(), evidence.ever_unknown()
    sold = Counter(token_of(purchase.prompt) for purchase in evidence.purchases)
    assets = Counter(token_of(row["prompt"]) for row in evidence.rows("assets"))
    breaches = []
    for token in wanted.keys() | sold.keys():
        lost = sum(str(attempt["id"]) in unknown for attempt in attempts[token])
        states = Counter(attempt["state"] for attempt in attempts[token])
        bought, still_unknown = states["bought"], states["unknown"]
        if not assets[token] <= sold[token] <= wanted[token] + lost or (
            not bought <= sold[token] <= bought + still_unknown
        ):
            breaches.append(
                f"{token}: wanted {wanted[token]}, sold {sold[token]}, assets {assets[token]},"
                f" ever unknown {lost}, attempts {dict(states)}"
            )
    duplicates = sum(row["duplicate"] for row in evidence.rows("attempts"))
    return Check(
        "every distinct picture is paid for once",
        f"{assets.total()} pictures <= {sold.total()} sold <= {assets.total()} + {len(unknown)}"
        f" unknown; {duplicates} duplicates",
        breaches
        + (
            []
            if assets.total() <= sold.total() <= assets.total() + len(unknown)
            else ["the totals are out of bounds"]
        ),
    )


def received_pictures_are_not_bought_again(evidence: Evidence) -> Check:
    """No reservation of a picture after one of it was settled at its cost: both happen under the
    ledger's lock, so their order is that of their commits."""
    tokens = {str(row["id"]): token_of(row["prompt"]) for row in evidence.rows("jobs")}
    jobs = {str(row["id"]): str(row["job_id"]) for row in evidence.rows("attempts")}
    begun: set[str] = set()
    received: dict[str, str] = {}
    breaches = []
    for step in evidence.history:
        attempt = step.row["id"] if step.relation == "reservations" else None
        if attempt is None:
            continue
        picture = _picture_of(jobs[attempt], tokens)
        if attempt not in begun and picture in received:
            breaches.append(
                f"{picture}: attempt {attempt} began when {received[picture]} had its bytes"
            )
        begun.add(attempt)
        if step.row["state"] == "settled":
            received.setdefault(picture, attempt)
    return Check(
        "no received picture is bought again",
        f"{len(received)} received, {len(begun)} calls",
        breaches,
    )


def _picture_of(job: str, tokens: dict[str, str]) -> str:
    """A picture's token; where the cache is skipped, every job is a picture of its own."""
    token = tokens[job]
    return f"{token} of job {job}" if token.startswith("S") else token


def charges_are_recorded(evidence: Evidence) -> Check:
    charged: Counter[str] = Counter()
    for purchase in evidence.purchases:
        charged[token_of(purchase.prompt)] += bill(purchase)
    held = {row["id"]: row["microusd"] for row in evidence.rows("reservations")}
    recorded = {
        token: sum(held.get(attempt["id"], 0) for attempt in attempts)
        for token, attempts in evidence.by_token().items()
    }
    return Check(
        "what is charged is recorded",
        f"{charged.total() / 1e6:.6f} USD charged <= {sum(held.values()) / 1e6:.6f} recorded",
        [
            f"{token}: charged {amount}, recorded {recorded.get(token, 0)}"
            for token, amount in charged.items()
            if amount > recorded.get(token, 0)
        ],
    )


def no_window_is_over(evidence: Evidence) -> Check:
    as_held = peaks(evidence.limits, evidence.ledger_steps)
    as_settled = peaks(evidence.limits, evidence.ledger)
    fullest = ", ".join(
        f"{peak.limit.name} {peak.fullness:.0%}" for peak in as_held if not peak.limit.derived
    )
    return Check(
        "no window is ever over its limit",
        f"fullest: {fullest}",
        [f"{peak} is over" for peak in (*as_held, *as_settled) if peak.is_over],
    )


def totals_are_exact(evidence: Evidence) -> Check:
    ledger = evidence.ledger
    real = {
        (row["scope"], row["span_seconds"]): totals(row["scope"], row["upto"], ledger)
        for row in evidence.rows("windows")
    }
    instants = [one.at for one in _first_of_each(evidence.ledger_steps)]
    return Check(
        "running totals are exact",
        f"{len(real)} windows, {len(ledger)} reservations",
        [
            f"window {row['scope']}, {row['span_seconds']} s: {row['requests']}, {row['microusd']},"
            f" recomputed {real[row['scope'], row['span_seconds']]}"
            for row in evidence.rows("windows")
            if (row["requests"], row["microusd"]) != real[row["scope"], row["span_seconds"]]
        ]
        + ([] if instants == sorted(instants) else ["the ledger's instants went back"]),
    )


def _first_of_each(steps: Iterable[Amount]) -> list[Amount]:
    first: dict[str, Amount] = {}
    for step in steps:
        first.setdefault(step.id, step)
    return list(first.values())


def attempts_are_settled(evidence: Evidence) -> Check:
    reservations = {row["id"]: row for row in evidence.rows("reservations")}
    attempts = evidence.rows("attempts")
    logged = {row["id"]: row["success"] for row in evidence.rows("logs")}
    breaches = [
        f"reservation {id_} without attempt"
        for id_ in reservations.keys() - {row["id"] for row in attempts}
    ]
    for attempt in attempts:
        found = reservations.get(attempt["id"])
        if found is None or found["state"] != FOUND.get(attempt["state"]):
            breaches.append(f"attempt {attempt}, reservation {found}")
        elif attempt["state"] == "bought" and found["microusd"] != attempt["cost_microusd"]:
            breaches.append(f"attempt {attempt} is recorded at {found['microusd']}")
        if logged.get(attempt["id"]) is not (attempt["state"] == "bought"):
            breaches.append(f"attempt {attempt}, log row {logged.get(attempt['id'])}")
    states = Counter(row["state"] for row in attempts)
    figure = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return Check("every call is settled and logged", figure, breaches)
