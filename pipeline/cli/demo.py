"""`imagepipe demo`."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import topics
from pipeline.cli import screen
from pipeline.cli.embedded import Embedded
from pipeline.cli.publish import Publisher, event_of
from pipeline.events import Undecodable
from pipeline.messages import Message
from pipeline.settings import HOME, Settings
from sandbox import samples
from schemas.examples import LISTING

PATIENCE = 120.0  # seconds until all outcomes must be there


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the closing table."""

    entity: str
    outcome: str
    cached: str = ""
    cost: float = 0.0
    where: str = ""


def demo(
    home: Annotated[Path, typer.Option(help="Where its data is kept between runs.")] = HOME
    / "demo",
) -> None:
    """Run the main job on twenty sample entities, with nothing but Python, in a sandbox.

    The second run finds every picture in the cache. Exits with 1 when an outcome is missing.

    Example: imagepipe demo
    """
    console = screen.console()
    home.mkdir(parents=True, exist_ok=True)
    log = home / "worker.log"
    with (
        log.open("a", encoding="utf-8") as log_file,
        Embedded(home, lambda step: console.print(f"[bold]==>[/] {step}")) as embedded,
    ):
        embedded.start_worker(log_file)
        embedded.start_api(log_file, port=0)  # nobody else need find it
        settings = embedded.settings
        entities = samples.read()
        console.print(f"[bold]==>[/] {len(entities)} entity-created events to Kafka")
        sent = _publish(settings, entities)
        console.print("[bold]==>[/] Waiting for their outcomes")
        rows = _outcomes(settings, sent, embedded.pictures)
        console.print(_table(rows.values()))
        _over_http(console, embedded.api_url)
    _summary(console, rows, embedded.pictures, log)
    if len(rows) < len(sent):
        console.print(f"{len(sent) - len(rows)} outcomes are missing; see {log}")
        raise typer.Exit(1)


def _over_http(console: Console, address: str) -> None:
    """The same over HTTP: a picture on request, and what limits and bill look like then."""
    path = "/api/ai/generate-image"
    console.print(f"[bold]==>[/] The same over HTTP: POST {path}")
    with httpx2.Client(base_url=address, timeout=PATIENCE) as client:
        _wait_for(client)
        answer = client.post(path, json=LISTING)
        console.print_json(answer.text)
        console.print(f"[bold]==>[/] Limits and today's bill: GET {path}")
        found = client.get(path).json()
        shown = {name: found[name] for name in ("rateLimit", "stats", "cached", "saved")}
        console.print_json(json.dumps(shown))


def _wait_for(client: httpx2.Client) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.get("/healthz").raise_for_status()
            return
        except httpx2.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _publish(settings: Settings, lines: list[str]) -> list[str]:
    """Publish the samples; returns the keys of their outcomes, `type:id`, one for each."""
    publisher = Publisher(settings)
    keys = []
    for line in lines:
        try:
            message = event_of(line, settings.topic_entity_created)
        except Undecodable:  # the broken one: what a CMS with a mistake would send
            upload = json.loads(line)["upload"]
            key = f"{upload['entityType']}:{upload['entityId']}"
            message = Message(settings.topic_entity_created, key.encode(), line.encode(), ())
        publisher.send(message)
        keys.append((message.key or b"").decode())
    publisher.finish()
    return keys


def _outcomes(settings: Settings, keys: list[str], pictures: Path | None) -> dict[str, Row]:
    """Collect one row per key, in the order of `keys`, as far as they come in time."""
    consumer = topics.reader(settings, topics.names(settings)[1:], from_beginning=True)
    found: dict[str, Row] = {}
    deadline = time.monotonic() + PATIENCE
    try:
        while len(found) < len(keys) and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=500).values():
                for record in records:
                    key = record.key.decode()
                    found[key] = _row(settings, key, record, pictures)
    finally:
        consumer.close()
    return {key: found[key] for key in keys if key in found}


def _row(settings: Settings, key: str, record: Any, pictures: Path | None) -> Row:
    if record.topic == settings.topic_dead_letters:
        reason = dict(record.headers)["kafka_dlt-exception-message"].decode()
        return Row(key, "dead letter", where=reason)
    data = json.loads(record.value)
    if record.topic == settings.topic_image_failed:
        return Row(key, "failed", cost=data["costIncurred"]["usd"], where=data["message"])
    if record.topic == settings.topic_image_deferred:
        return Row(key, "deferred", where=f"limit {data['limit']['name']}, {data['retryAt']}")
    url = data["asset"]["url"]
    file = pictures / url.split("/upload/", 1)[1].split("/", 1)[1] if pictures else None
    where = str(file) if file and file.exists() else url
    return Row(key, "ready", "yes" if data["cached"] else "no", data["cost"]["usd"], where)


def _table(rows: Any) -> Table:
    table = Table("entity", "outcome", "cached", "cost USD", "file or URL")
    table.columns[-1].overflow = "fold"
    for row in rows:
        cost = f"{row.cost:.6f}" if row.outcome == "ready" else ""
        table.add_row(row.entity, row.outcome, row.cached, cost, escape(row.where))
    return table


def _summary(console: Console, rows: dict[str, Row], pictures: Path | None, log: Path) -> None:
    ready = [row for row in rows.values() if row.outcome == "ready"]
    bought = [row for row in ready if row.cached == "no"]
    console.print(
        f"{len(ready)} ready: {len(bought)} bought for {sum(row.cost for row in bought):.6f} USD,"
        f" {len(ready) - len(bought)} for nothing"
    )
    shown = list(dict.fromkeys(row.where for row in ready))
    if pictures:
        console.print(f"\n{len(shown)} pictures to open:")
        for where in shown:
            console.print(f"  {where}", soft_wrap=True, highlight=False)
    console.print(f"\nThe worker's log: {log}. Next: imagepipe up", highlight=False)
