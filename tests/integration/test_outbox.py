"""The outbox: messages of a key leave in order, a shard has one holder, unmarked ones stay."""

from pipeline import outbox
from pipeline.messages import Message
from pipeline.outbox import Taken
from tests.integration.builders import Steps


def message(key: str, value: str) -> Message:
    headers = (("ce_id", b"1"), ("empty", None), ("binary", b"\xff\x00"))
    return Message("image-ready", key.encode(), value.encode(), headers)


async def add(steps: Steps, *messages: Message) -> None:
    async with steps.engine.begin() as connection:
        await outbox.add(connection, [(message, None) for message in messages])


async def test_messages_come_out_as_they_went_in(steps: Steps) -> None:
    first, nothing = message("listing:1", "one"), Message("dlq", None, None, ())
    await add(steps, first, nothing)

    async with steps.engine.begin() as connection:
        due = (await outbox.take(connection, limit=10)).messages

    assert [out.message for out in due] == [first, nothing]


async def test_messages_of_a_key_keep_their_order_over_batches(steps: Steps) -> None:
    await add(steps, message("listing:1", "one"), message("listing:2", "two"))
    await add(steps, message("listing:1", "three"))

    values = []
    for _ in range(3):
        async with steps.engine.begin() as connection:
            [due] = (await outbox.take(connection, limit=1)).messages
            await outbox.mark(connection, [due.id])
            values.append(due.message.value)

    assert values == [b"one", b"two", b"three"]


async def test_what_is_not_marked_comes_again(steps: Steps) -> None:
    await add(steps, message("listing:1", "one"), message("listing:2", "two"))
    async with steps.engine.begin() as connection:
        first, _ = (await outbox.take(connection, limit=10)).messages
        await outbox.mark(connection, [first.id])

    async with steps.engine.begin() as connection:
        due = (await outbox.take(connection, limit=10)).messages

    assert [out.message.value for out in due] == [b"two"]


async def test_a_shard_in_hand_is_left_to_its_holder(steps: Steps) -> None:
    await add(steps, message("listing:1", "one"))
    async with steps.engine.begin() as holder, steps.engine.begin() as other:
        taken = await outbox.take(holder, limit=10)
        assert (len(taken.messages), taken.all_shards) == (1, True)
        assert await outbox.take(other, limit=10) == Taken([], all_shards=False)

    async with steps.engine.begin() as connection:
        assert len((await outbox.take(connection, limit=10)).messages) == 1


async def test_what_was_never_committed_is_never_published(steps: Steps) -> None:
    async with steps.engine.connect() as connection:
        await outbox.add(connection, [(message("listing:1", "one"), None)])
        await connection.rollback()

    assert await steps.said() == []
