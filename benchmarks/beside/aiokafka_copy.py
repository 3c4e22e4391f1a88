"""A bare aiokafka loop from one topic to another, acks=all, offsets committed in the background."""

import asyncio
import contextlib
import os
import signal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer


async def copy(bootstrap: str, source: str, target: str, group: str) -> None:
    consumer = AIOKafkaConsumer(
        source, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest"
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    async with consumer, producer:
        while True:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=500)).values():
                sent = [
                    await producer.send(target, value=r.value, key=r.key, headers=list(r.headers))
                    for r in records
                ]
                await asyncio.gather(*sent)


async def main() -> None:
    loop, work = (
        asyncio.get_running_loop(),
        asyncio.create_task(
            copy(
                *(
                    os.environ[f"BESIDE_{name}"]
                    for name in ("BOOTSTRAP", "INPUT", "OUTPUT", "GROUP")
                )
            )
        ),
    )
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


if __name__ == "__main__":
    asyncio.run(main())
