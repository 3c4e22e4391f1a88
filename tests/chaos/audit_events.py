"""Checks that no event is lost: recorded, answered once, with what was asked, nothing left over."""

from collections import Counter, defaultdict

from pipeline.rules.lifecycle import JOB_MOVES, LIVE, JobState
from tests.chaos.check import Check, accepted_events
from tests.chaos.evidence import Evidence, token_of


def events_are_recorded_once(evidence: Evidence) -> Check:
    accepted = accepted_events(evidence)
    recorded = Counter(row["event_id"] for row in evidence.rows("requests"))
    arrived = {record.key for record in evidence.received}
    return Check(
        "every event is recorded once",
        f"{len(evidence.published)} published, {len(accepted)} distinct, {len(recorded)} recorded",
        [
            *(f"{e.key!r} never reached Kafka" for e in evidence.published if e.key not in arrived),
            *(f"event {id_} is not recorded" for id_ in accepted.keys() - recorded),
            *(f"nobody sent event {id_}" for id_ in recorded.keys() - accepted),
            *(f"event {id_} is recorded {n} times" for id_, n in recorded.items() if n > 1),
        ],
    )


def events_have_one_outcome(evidence: Evidence) -> Check:
    accepted = accepted_events(evidence)
    final: dict[str, set[str]] = defaultdict(set)
    contents: dict[str, set[bytes]] = defaultdict(set)
    for outcome in evidence.outcomes:
        contents[outcome.id].add(outcome.value)
        if outcome.kind != "deferred":
            final[outcome.cause].add(f"{outcome.kind} {outcome.id}")
    causes = {outcome.cause for outcome in evidence.outcomes}
    counts = Counter(outcome.kind for outcome in evidence.outcomes)
    repeated = len(evidence.outcomes) - len(contents)
    return Check(
        "every event has exactly one outcome",
        f"{counts['ready']} ready, {counts['failed']} failed, {counts['deferred']} deferred;"
        f" {repeated} of them repeated",
        [
            *(f"event {id_} has no outcome" for id_ in accepted.keys() - final),
            *(f"event {id_}: {sorted(of)}" for id_, of in final.items() if len(of) > 1),
            *(f"an outcome of {id_}, which nobody sent" for id_ in causes - accepted.keys()),
            *(f"{id_} has {len(c)} contents" for id_, c in contents.items() if len(c) > 1),
        ],
    )


def deferrals_are_announced_once(evidence: Evidence) -> Check:
    said = Counter(
        cause for cause, _ in {(o.cause, o.id) for o in evidence.outcomes if o.kind == "deferred"}
    )
    return Check(
        "every wait is announced once",
        f"{said.total()} waits of {len(said)} events",
        [
            f"event {row['event_id']} waited {row['deferrals']} times, {said[row['event_id']]} said"
            for row in evidence.rows("requests")
            if row["deferrals"] != said[row["event_id"]]
        ],
    )


def broken_records_are_dead_letters(evidence: Evidence) -> Check:
    broken = {e.key for e in evidence.published if e.id is None}
    places = {record.place: record.key for record in evidence.received if record.key in broken}
    letters = set(evidence.dead_letters)
    return Check(
        "every broken record is one dead letter",
        f"{len(places)} broken, {len(letters)} dead letters,"
        f" {len(evidence.dead_letters) - len(letters)} repeated",
        [
            *(f"{places[place]!r} has no dead letter" for place in places.keys() - letters),
            *(f"a dead letter of {place}, which is sound" for place in letters - places.keys()),
        ],
    )


def failures_have_a_reason(evidence: Evidence) -> Check:
    accepted = accepted_events(evidence)
    newest: dict[tuple[str | None, str], int] = defaultdict(int)
    for row in evidence.rows("requests"):
        place = accepted[row["event_id"]].entity, row["type"]
        newest[place] = max(newest[place], row["sequence"])
    attempts, unknown = evidence.by_token(), evidence.ever_unknown()
    breaches, codes = [], Counter[str]()
    for outcome in {one.id: one for one in evidence.outcomes if one.kind == "failed"}.values():
        event, code = accepted[outcome.cause], outcome.data["code"]
        assert event.picture is not None
        codes[outcome.data["errorClass"] if code != "superseded" else code] += 1
        tries = attempts[event.picture.token]
        tried = Counter(attempt["state"] for attempt in tries)
        lost = sum(str(attempt["id"]) in unknown for attempt in tries)
        explained = {
            "policy": event.picture.refused,
            "unknown-outcome": lost >= 2,  # when it was said: a refusal may have come since
            "exhausted": tried["refused"] >= 5,
            "permanent": code == "superseded"
            and newest[event.entity, event.picture.type] > outcome.data["sequence"],
        }
        if not explained[outcome.data["errorClass"]]:
            breaches.append(f"{event.picture.token} of {event.id}: {outcome.data}, tried {tried}")
    figure = ", ".join(f"{n} {code}" for code, n in sorted(codes.items()))
    return Check("every failure has its reason", figure or "no failure", breaches)


def answers_show_what_was_asked(evidence: Evidence) -> Check:
    accepted = accepted_events(evidence)
    tokens = {
        row["cloudinary_public_id"]: token_of(row["prompt"]) for row in evidence.rows("assets")
    }
    ready = [outcome for outcome in evidence.outcomes if outcome.kind == "ready"]
    breaches = []
    for outcome in ready:
        picture, asset = accepted[outcome.cause].picture, outcome.data["asset"]
        assert picture is not None
        if tokens.get(asset["publicId"]) != picture.token or picture.refused:
            breaches.append(f"event {outcome.cause} wants {picture.token}, got {asset}")
        if evidence.files[asset["url"]] != asset["sha256"]:
            breaches.append(
                f"{asset['url']}: {evidence.files[asset['url']]}, not {asset['sha256']}"
            )
    if evidence.uploads != len(tokens):
        breaches.append(f"{evidence.uploads} uploads, {len(tokens)} assets")
    return Check(
        "every answer's file is there, as announced",
        f"{len(tokens)} assets, {len(evidence.files)} files read back",
        breaches,
    )


def uses_are_counted(evidence: Evidence) -> Check:
    answered = Counter(row["asset_id"] for row in evidence.rows("requests") if row["asset_id"])
    announced: dict[str, set[str]] = defaultdict(set)
    for outcome in evidence.outcomes:
        if outcome.kind == "ready":
            announced[outcome.data["asset"]["mediaAssetId"]].add(outcome.cause)
    return Check(
        "usage counts are the answers",
        f"{answered.total()} answers",
        [
            f"asset {row['id']} counts {row['usage_count']} uses, {answered[row['id']]} requests,"
            f" {len(announced[str(row['id'])])} events"
            for row in evidence.rows("assets")
            if len({row["usage_count"], answered[row["id"]], len(announced[str(row["id"])])}) > 1
        ],
    )


def nothing_is_left(evidence: Evidence) -> Check:
    live = {str(state) for state in LIVE}
    left = {
        "jobs on their way": [j for j in evidence.rows("jobs") if j["state"] in live or j["lease"]],
        "requests waiting": [r for r in evidence.rows("requests") if r["state"] == "waiting"],
        "pictures in the spool": evidence.rows("spool"),
        "messages unpublished": evidence.rows("outbox"),
    }
    return Check(
        "nothing is left behind",
        ", ".join(f"{len(rows)} {what}" for what, rows in left.items()),
        [f"{what}: {row}" for what, rows in left.items() for row in rows],
    )


def jobs_moved_lawfully(evidence: Evidence) -> Check:
    states: dict[str, JobState] = {}
    breaches, moves = [], 0
    for step in evidence.history:
        if step.relation != "jobs":
            continue
        id_, new = step.row["id"], JobState(step.row["state"])
        old = states.get(id_)
        if old is not None and old != new:
            moves += 1
            if new not in JOB_MOVES[old]:
                breaches.append(f"job {id_} went from {old} to {new} at {step.at}")
        states[id_] = new
    return Check("jobs moved as the rules allow", f"{len(states)} jobs, {moves} moves", breaches)


def workers_ended_only_by_force(evidence: Evidence) -> Check:
    casualties = evidence.casualties
    return Check(
        "no worker ended by itself",
        f"{casualties.kills.total()} killed, {casualties.frosts.total()} frozen",
        casualties.unexpected,
    )
