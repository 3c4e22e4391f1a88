"""`imagepipe watch`."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pipeline import topics
from pipeline.settings import Settings, load

COLOURS = {"ready": "green", "failed": "red", "deferred": "yellow", "dlq": "magenta"}


def watch(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: topic, key, headers, data.")
    ] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with what is there already.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="End after that many outcomes.")
    ] = None,
) -> None:
    """Show outcomes and dead letters as they come; Ctrl-C ends it.

    Example: imagepipe watch --json | jq .data.asset.url
    """
    settings = load()
    settings.require("kafka_bootstrap_servers")
    topics.ensure(settings)
    consumer = topics.reader(settings, topics.names(settings)[1:], from_beginning=from_beginning)
    console = Console(soft_wrap=True)
    try:
        for seen, record in enumerate(consumer, 1):
            if as_json:
                typer.echo(json.dumps(_as_json(record), ensure_ascii=False))
            else:
                console.print(_line(record, settings))
            if seen == count:
                break
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()


def _as_json(record: Any) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": _text(record.key),
        "headers": {name: _text(value) for name, value in record.headers},
        "data": _data(record),
    }


def _line(record: Any, settings: Settings) -> str:
    data = _data(record)
    name = record.topic
    colour = next((c for word, c in COLOURS.items() if word in name), "white")
    start = f"[{colour}]{escape(name):22}[/] {escape(_text(record.key) or '-')}"
    if name == settings.topic_dead_letters or not isinstance(data, dict):
        headers = {key: _text(value) for key, value in record.headers}
        return f"{start}  {escape(headers.get('kafka_dlt-exception-message') or '')}"
    if name == settings.topic_image_ready:
        cost = "cached" if data["cached"] else f"{data['cost']['usd']:.6f} USD"
        return f"{start}  {cost}  {escape(data['asset']['url'])}"
    if name == settings.topic_image_failed:
        return f"{start}  {escape(data['errorClass'])}  {escape(data['message'])}"
    until = data["retryAt"] or "never, unless the limit is changed"
    return f"{start}  limit {escape(data['limit']['name'])}, retry at {escape(until)}"


def _data(record: Any) -> Any:
    try:
        return json.loads(record.value)
    except (TypeError, ValueError):
        return _text(record.value)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")
