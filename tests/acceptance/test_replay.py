"""A topic replayed: dry, known events, re-emissions, backfill, by time, killed half-way."""

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from pipeline import topics
from pipeline.replays import Position
from pipeline.rules.replay_range import Range
from pipeline.topic_reader import NotReplayable, Reader
from sandbox.faults import Fault
from tests import services
from tests.acceptance.harness import Headers, Running, World, entity, imagepipe

BOOKS = """
    SELECT (SELECT count(*) FROM imagepipe.requests), (SELECT count(*) FROM imagepipe.jobs),
           (SELECT count(*) FROM imagepipe.attempts), (SELECT count(*) FROM imagepipe.reservations),
           (SELECT count(*) FROM imagepipe.outbox), (SELECT count(*) FROM imagepipe.dead_letters)
"""
MOVED = "SELECT sum(next_offset - first_offset) FROM imagepipe.replay_positions"

real_kafka = pytest.mark.skipif(
    services.kafka().name.startswith("embedded"), reason="the embedded broker makes no topics"
)


def replay(world: World, *options: str, code: int = 0, **variables: str) -> dict[str, Any]:
    """The summary of a replay of `entity-created`, from its beginning unless told otherwise."""
    answer = world.run("replay", *options, "--json", **variables)
    assert answer.returncode == code, answer.stderr
    summary: dict[str, Any] = json.loads(answer.stdout)
    return summary


def input_topic(world: World) -> str:
    return world.settings.topic_entity_created


@pytest.fixture
def archive(world: World) -> Iterator[str]:
    """A topic of events that no worker reads, with two partitions."""
    name = f"{world.settings.topic_entity_created}-archive"
    admin = KafkaAdminClient(**topics.client_options(world.settings))
    try:
        admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1}})
        yield name
        admin.delete_topics([name])
    finally:
        admin.close()


def event(number: int, title: str) -> tuple[bytes, bytes, Headers]:
    """A record of a CloudEvent with an id of its own."""
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": f"old-{number}",
        "ce_source": "urn:cms",
        "ce_type": "cms.entity-created.v1",
    }
    headers = tuple((name, value.encode()) for name, value in attributes.items())
    return f"listing:{number}".encode(), json.dumps(entity(number, title)).encode(), headers


def group(world: World) -> KafkaConsumer:
    """A consumer in the workers' group that never joins it."""
    return KafkaConsumer(
        **topics.client_options(world.settings),
        group_id=world.settings.kafka_group,
        enable_auto_commit=False,
    )


def committed(world: World) -> dict[int, int]:
    """The workers' offsets, by partition."""
    with closing(group(world)) as consumer:
        parts = consumer.partitions_for_topic(input_topic(world))
        return {
            part: consumer.committed(TopicPartition(input_topic(world), part)) or 0
            for part in parts
        }


def test_known_events_buy_nothing_and_are_told_again_only_on_request(world: World) -> None:
    worker = world.start_worker()
    world.sandbox.faults.add(Fault("openai", "moderation_blocked", prompt_contains="Refused"))
    titles = ["Sea", "Sea", "Hill", "Refused"]
    world.publish([entity(number, title) for number, title in enumerate(titles)])
    world.produce([(b"x", b"broken", ())])
    before = world.outcomes(ready=3, failed=1, dead_letters=1)
    assert worker.stop() == 0
    offsets = committed(world)
    assert sum(offsets.values()) == 5
    books = world.query(BOOKS)
    everything = (input_topic(world), "--from-earliest")

    dry = replay(world, *everything, code=1)
    assert (dry["state"], dry["records"], dry["known"]) == ("dry run", 5, 4)
    assert (dry["new"], dry["finished"], dry["undecodable"]) == (0, 4, 1)
    assert world.query("SELECT count(*) FROM imagepipe.replays") == [(0,)]
    done = replay(world, *everything, "--execute", code=1)
    assert (done["state"], done["known"], done["new"]) == ("finished", 4, 0)
    assert done["undecodable"] == 1
    assert world.query(BOOKS) == books

    told = replay(world, *everything, "--reemit", "--execute", code=1)
    assert (told["reemitted"], told["gone"]) == (4, 0)
    again = replay(world, *everything, "--reemit", "--execute")
    assert (again["state"], again["reemitted"]) == ("finished before", 4)
    assert committed(world) == offsets
    books = world.query(BOOKS)

    # The workers announce that; set back by Kafka's own means, they take everything in again, too.
    set_back(world)
    assert sum(committed(world).values()) == 0
    worker = world.start_worker()
    world.wait_until(lambda: taken_in(worker) == 5, "all taken in again")
    after = world.outcomes(ready=6, failed=2, dead_letters=1)
    assert len(after.dead_letters) == 1
    assert world.query(BOOKS) == books
    for first, both in ((before.ready, after.ready), (before.failed, after.failed)):
        anew = {outcome.id: outcome for outcome in both if "ce_replayid" in outcome.headers}
        assert len(both) == 2 * len(first) == 2 * len(anew)
        for old in first:
            new = anew[str(uuid5(UUID(old.id), told["replay"]))]
            assert new.headers["ce_replayid"] == told["replay"].encode()
            same = old.data | {"occurredAt": new.data["occurredAt"]}
            assert (new.key, new.data) == (old.key, same)


def taken_in(worker: Running) -> int:
    """How many records a worker says that it has recorded."""
    return sum(map(int, re.findall(r"\brecords=(\d+)", worker.log)))


def set_back(world: World) -> None:
    """What `kafka-consumer-groups --reset-offsets --to-earliest --execute` does."""
    with closing(group(world)) as consumer:
        parts = [
            TopicPartition(input_topic(world), part)
            for part in consumer.partitions_for_topic(input_topic(world))
        ]
        consumer.assign(parts)
        consumer.commit({part: OffsetAndMetadata(0, "", -1) for part in parts})


@real_kafka
def test_new_events_become_backfill_and_times_are_exact(world: World, archive: str) -> None:
    noon = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    for minutes, numbers in ((-30, (1, 2, 3)), (0, (4, 5)), (30, (6,))):
        records = [event(number, f"No {number}") for number in numbers]
        world.produce(records, topic=archive, at=noon + timedelta(minutes=minutes))
    noon_z = noon.isoformat().replace("+00:00", "Z")
    half_past = (noon + timedelta(minutes=30)).replace(tzinfo=None).isoformat()

    with Reader(world.settings, archive) as reader:
        for range_, records_in_it in (
            (Range(back=timedelta(hours=2, minutes=10)), 3),
            (Range(until=noon), 3),
            (Range(since=noon - timedelta(microseconds=1)), 3),
            (Range(since=noon + timedelta(microseconds=1)), 1),
            (Range(since=datetime.now(UTC)), 0),
        ):
            positions = reader.positions(range_, datetime.now(UTC))
            assert sum(position.left for position in positions) == records_in_it
    between = (archive, "--from-datetime", noon_z, "--to-datetime", half_past)
    done = replay(world, *between, "--execute")
    assert (done["records"], done["new"]) == (2, 2)

    world.start_worker()
    made = world.outcomes(ready=2)
    assert sorted(outcome.key or "" for outcome in made.ready) == ["listing:4", "listing:5"]
    assert len(made.bought) == 2
    sources = world.query("SELECT DISTINCT source FROM imagepipe.requests")
    money = world.query("SELECT DISTINCT source FROM imagepipe.reservations")
    assert (sources, money) == ([("backfill",)], [("backfill",)])


@real_kafka
def test_killed_half_way_it_goes_on_where_it_was(world: World, archive: str) -> None:
    world.produce([event(number, "Sea") for number in range(40)], topic=archive)
    _transaction(world, archive, [event(number, "Sea") for number in range(40, 44)])
    options = (archive, "--from-earliest", "--batch", "10", "--execute")

    killed = world.run("replay", *options, IMAGEPIPE_FAULT="intake.before_commit:2")
    assert killed.returncode == -signal.SIGKILL
    [(half,)] = world.query(MOVED)
    assert 0 < half <= 10
    done = replay(world, *options)
    assert (done["state"], done["records"], done["new"], done["known"]) == ("finished", 44, 44, 0)
    assert all(part["next"] == part["end"] for part in done["partitions"])
    assert world.query(BOOKS)[0][:3] == (44, 1, 0)

    world.start_worker()
    world.outcomes(ready=44)
    telling = (*options, "--reemit", "--id", "tell")
    for fault in ("intake.before_commit:2", "intake.after_commit:2"):
        killed = world.run("replay", *telling, IMAGEPIPE_FAULT=fault)
        assert killed.returncode == -signal.SIGKILL
    told = replay(world, *telling)
    assert (told["records"], told["known"], told["reemitted"]) == (44, 44, 44)
    ids = Counter(outcome.id for outcome in world.outcomes(ready=88).ready)
    assert (len(ids), set(ids.values())) == (88, {1})
    other = world.run("replay", *options, "--id", "tell")
    assert (other.returncode, "--reemit; give another --id" in other.stderr) == (2, True)


def _transaction(world: World, topic: str, records: list[tuple[bytes, bytes, Headers]]) -> None:
    """Records whose partitions end with the marks of a transaction, which are no records."""
    options = topics.client_options(world.settings)
    producer = KafkaProducer(**options, transactional_id=topic)
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for key, value, headers in records:
            producer.send(topic, value=value, key=key, headers=list(headers))
        producer.commit_transaction()
    finally:
        producer.close()


@real_kafka
def test_ctrl_c_ends_it_after_the_batch_in_hand(world: World, archive: str) -> None:
    world.produce([event(number, "Sea") for number in range(500)], topic=archive)
    options = ("replay", archive, "--from-earliest", "--batch", "1", "--execute")
    log = world.directory / "replay.log"
    running = Running(imagepipe(*options), world.shell, world.directory, log)
    world.wait_until(lambda: (world.query(MOVED)[0][0] or 0) > 3, "some records taken in")

    assert running.stop(signal.SIGINT) == 130, running.log
    assert "the same command goes on from here" in running.log
    assert 3 < world.query(MOVED)[0][0] < 500
    done = replay(world, archive, "--from-earliest", "--execute")
    assert (done["state"], done["records"], done["new"]) == ("finished", 500, 500)
    anew = replay(world, archive, "--from-earliest", "--execute", "--restart")
    assert (anew["state"], anew["new"], anew["known"]) == ("finished", 0, 500)


def test_what_is_not_there_is_said(world: World) -> None:
    for topic, range_, said in (
        ("no-such-topic", Range(), "there is no topic no-such-topic"),
        (input_topic(world), Range(offsets=((0, 99),)), "ends before offset 99"),
        (input_topic(world), Range(partitions=(9,)), "has no partition 9, only 0 to 3"),
    ):
        with Reader(world.settings, topic) as reader, pytest.raises(NotReplayable, match=said):
            reader.positions(range_, datetime.now(UTC))
    made_anew = Position(0, first=0, next=5, end=10)
    with (
        Reader(world.settings, input_topic(world)) as reader,
        pytest.raises(NotReplayable, match="add --restart"),
    ):
        reader.check([made_anew])


@real_kafka
def test_what_kafka_has_removed_meanwhile_is_counted(world: World) -> None:
    record = event(1, "Sea")
    world.produce([record] * 4)
    with Reader(world.settings, input_topic(world)) as reader:
        [full] = [p for p in reader.positions(Range(), datetime.now(UTC)) if p.left]
    admin = KafkaAdminClient(**topics.client_options(world.settings))
    admin.delete_records({TopicPartition(input_topic(world), full.partition): 3})
    admin.close()

    interrupted = Position(full.partition, first=0, next=1, end=4)
    with Reader(world.settings, input_topic(world)) as reader:
        assert reader.check([interrupted]) == 2
        read = [found.offset for batch in reader.batches([interrupted], 10) for found in batch]
        assert read == [3]
        [rest] = [p for p in reader.positions(Range(), datetime.now(UTC)) if p.left]
    assert rest == Position(full.partition, first=3, next=3, end=4)


def test_a_broker_or_a_database_that_is_away_is_exit_code_4(world: World) -> None:
    for away in (
        {"IMAGEPIPE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        {"IMAGEPIPE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"},
    ):
        answer = world.run("replay", input_topic(world), "--from-earliest", **away)
        assert answer.returncode == 4, answer.stderr
