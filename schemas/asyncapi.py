"""The AsyncAPI 3.0 document: topics, keys, headers and payloads, for those who speak Kafka to us.

Topic names are configuration; the document shows their defaults.
"""

from typing import Any

from pydantic import JsonValue

from schemas import examples

Document = dict[str, Any]

_TEXT: Document = {"type": "string"}
_ENTITY_KEY: Document = {
    "type": "string",
    "description": "entityType:entityId, so that one entity's records stay in order.",
}
_OUTCOME_KEY: Document = {
    "type": "string",
    "description": "entityType:entityId, or the request's id when it named no entity.",
}
_REPLAY_ID: Document = {
    "type": "string",
    "description": "Only where an outcome is published again on purpose: the replay's id. Its "
    "ce_id is UUIDv5(first ce_id, replay's id).",
}
_TRACEPARENT: Document = {"type": "string", "description": "W3C Trace Context, passed on."}


def asyncapi() -> Document:
    """The whole document; `published` writes it beside the JSON Schemas it refers to."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "imagepipe",
            "version": "1.0.0",
            "description": "Entity events in, images out. Outcomes are delivered at least once, "
            "with ids that repeat: drop repetitions by (ce_source, ce_id). For one entity, ignore "
            "an outcome whose sequence is lower than the last one seen.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "entityCreated": _channel("entity-created", "entityCreated"),
            "imageReady": _channel("image-ready", "imageReady"),
            "imageFailed": _channel("image-failed", "imageFailed"),
            "imageDeferred": _channel("image-deferred", "imageDeferred"),
            "deadLetters": _channel("entity-created.dlq", "deadLetter"),
        },
        "operations": {
            "receiveEntityCreated": _operation("receive", "entityCreated", "entityCreated"),
            "sendImageReady": _operation("send", "imageReady", "imageReady"),
            "sendImageFailed": _operation("send", "imageFailed", "imageFailed"),
            "sendImageDeferred": _operation("send", "imageDeferred", "imageDeferred"),
            "sendDeadLetter": _operation("send", "deadLetters", "deadLetter"),
        },
        "components": {
            "messages": {
                "entityCreated": _entity_created(),
                "imageReady": _outcome("ready", "The picture is there.", examples.IMAGE_READY),
                "imageFailed": _outcome(
                    "failed", "There will be no picture for this request.", examples.IMAGE_FAILED
                ),
                "imageDeferred": _outcome(
                    "deferred", "The picture waits for a limit.", examples.IMAGE_DEFERRED
                ),
                "deadLetter": _dead_letter(),
            }
        },
    }


def _channel(topic: str, message: str) -> Document:
    return {
        "address": topic,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def _operation(action: str, channel: str, message: str) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
    }


def _entity_created() -> Document:
    headers = _cloudevent_headers("com.example.cms.entity-created.v1", "listing:4711")
    return {
        "summary": "An entity that needs a picture. A CloudEvent in binary mode is described "
        "here; structured mode and the bare data (with a header `id`, or none) are read too.",
        "headers": {
            "type": "object",
            "required": ["ce_specversion", "ce_id", "ce_source", "ce_type"],
            "properties": {
                **_cloudevent_properties(),
                "ce_id": {"type": "string", "minLength": 1, "maxLength": 200},
                "ce_source": {"type": "string", "minLength": 1, "maxLength": 400},
                "ce_type": {"type": "string", "pattern": r"^(.*\.)?entity-created(\.v1)?$"},
            },
        },
        "payload": _schema("entity-created"),
        "bindings": _kafka(_ENTITY_KEY),
        "examples": [{"headers": headers, "payload": examples.ENTITY_CREATED}],
    }


def _outcome(kind: str, summary: str, example: dict[str, JsonValue]) -> Document:
    event_type = f"imagepipe.image-{kind}.v1"
    return {
        "summary": summary,
        "headers": {
            "type": "object",
            "required": [name for name in _cloudevent_properties() if name != "traceparent"],
            "properties": {
                **_cloudevent_properties(),
                "ce_type": {"type": "string", "const": event_type},
                "ce_replayid": _REPLAY_ID,
            },
        },
        "payload": _schema(f"image-{kind}"),
        "bindings": _kafka(_OUTCOME_KEY),
        "examples": [
            {
                "headers": _cloudevent_headers(event_type, "listing:4711"),
                "payload": example,
            }
        ],
    }


def _dead_letter() -> Document:
    four_bytes = {"type": "string", "format": "binary", "description": "4 bytes, big-endian."}
    eight_bytes = {"type": "string", "format": "binary", "description": "8 bytes, big-endian."}
    properties = {
        "kafka_dlt-original-topic": _TEXT,
        "kafka_dlt-original-partition": four_bytes,
        "kafka_dlt-original-offset": eight_bytes,
        "kafka_dlt-original-timestamp": eight_bytes,
        "kafka_dlt-original-consumer-group": _TEXT,
        "kafka_dlt-exception-fqcn": _TEXT,
        "kafka_dlt-exception-message": _TEXT,
        "x-error-class": _TEXT,
        "x-attempts": {"type": "string", "pattern": "^[0-9]+$"},
    }
    return {
        "summary": "A record that is no valid entity-created event: key, value and headers as "
        "they came, with the reason in the headers that Spring's dead letters have.",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "required": list(properties), "properties": properties},
        "payload": {"description": "The original value, whatever it is."},
        "bindings": _kafka({"description": "The original key, whatever it is."}),
    }


def _cloudevent_properties() -> Document:
    return {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": _TEXT,
        "ce_source": _TEXT,
        "ce_type": _TEXT,
        "ce_subject": {"type": "string", "description": "The same as the key."},
        "ce_time": {"type": "string", "format": "date-time"},
        "content-type": {"type": "string", "const": "application/json"},
        "traceparent": _TRACEPARENT,
    }


def _cloudevent_headers(event_type: str, subject: str) -> dict[str, str]:
    ours = event_type.startswith("imagepipe.")
    return {
        "ce_specversion": "1.0",
        "ce_id": "2c2f1d9a-6c56-5b0e-9d5b-0d4f6a1e8b43" if ours else "evt-4711-1",
        "ce_source": "urn:imagepipe" if ours else "https://cms.example/listings",
        "ce_type": event_type,
        "ce_subject": subject,
        "ce_time": "2026-11-22T10:00:30Z",
        "content-type": "application/json",
    }


def _schema(name: str) -> Document:
    return {
        "schemaFormat": "application/schema+json;version=draft-2020-12",
        "schema": {"$ref": f"./json/{name}.schema.json"},
    }


def _kafka(key: Document) -> Document:
    return {"kafka": {"key": key, "bindingVersion": "0.5.0"}}
