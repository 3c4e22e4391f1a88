"""What is refused before it does any harm: strangers, floods, tricks."""

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import ledger, wiring
from pipeline.api import keys, protocol, reading
from pipeline.api.guard import SECURITY
from pipeline.api.keys import Scope
from pipeline.generation import Generator
from tests.integration.api import PATH, Api, listing
from tests.integration.builders import Steps
from tests.integration.conftest import StartApi

DEEP = "[" * 30 + "]" * 30


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b"[]", 422, "object"),
        (b"null", 422, "object"),
        (b'{"type":"listing","context":{"title":"a\\u0000b"}}', 400, "NUL"),
        (b'{"type":"listing","context":{"n":9007199254740993}}', 400, "2^53"),
        (f'{{"type":"listing","context":{{"n":{DEEP}}}}}'.encode(), 400, "deeper"),
        (b'{"type":"listing"}', 422, "context"),
        (b'{"type":"yacht","context":{"title":"x"}}', 422, "type"),
        (b'{"type":"listing","context":{"title":"x"},"opts":{}}', 422, "opts"),
        (b'{"type":"custom"}', 422, "prompt"),
        (b'{"type":"listing","context":{"title":"' + b"x" * 70_000 + b'"}}', 413, "65536"),
    ],
)
async def test_a_wrong_body_is_refused_and_named(
    api: Api, body: bytes, status: int, says: str
) -> None:
    answer = await api.client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert set(answer.json()) == {"success", "error"}
    assert says in answer.json()["error"]["message"]


async def test_a_validation_error_names_its_fields(api: Api) -> None:
    body = listing(options={"size": "1x1", "quality": "best"}, skipCache="no")
    details = (await api.post(body)).json()["error"]["details"]
    assert [one["field"] for one in details["fields"]] == [
        "options.size",
        "options.quality",
        "skipCache",
    ]


async def test_a_prompt_that_is_too_long_for_the_model_is_refused(start_api: StartApi) -> None:
    api = await start_api(model="dall-e-3", openai_base_url="http://127.0.0.1:1/v1")
    answer = await api.post({"type": "custom", "prompt": "x" * 5000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "prompt_too_long")


async def test_only_json_is_read(api: Api) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""):
        answer = await api.client.post(PATH, content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 415


async def test_a_body_without_a_length_is_bounded_too(api: Api) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 1024

    answer = await api.client.post(
        PATH, content=endless(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (PATH + "?x=" + "y" * 5000, {}, 414),
        (PATH, {"x-large": "y" * 20_000}, 431),
        (PATH, {"x-larger": "y" * 40_000}, 431),
        ("/nowhere", {}, 404),
        ("/api/ai/generate-image/", {}, 404),
        ("/api/ai/generate-image/not-an-id", {}, 422),
        ("/media/x.webp", {}, 404),
    ],
)
async def test_what_is_no_request_of_ours_is_refused(
    api: Api, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await api.client.get(path, headers=headers)
    assert answer.status_code == status


async def test_another_method_is_told_which_there_are(api: Api) -> None:
    answer = await api.client.delete(PATH)
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert answer.json()["error"]["code"] == "method_not_allowed"


def _raw(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        connection.settimeout(10)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
        return received


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: lo"])
async def test_slow_headers_end_the_connection(
    api: Api, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_WITHIN", 0.2)
    answer = await asyncio.to_thread(_raw, api.port, sent)
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_slow_body_ends_the_request(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BODY_WITHIN", 0.2)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 100\r\nConnection: close\r\n\r\n{"
    )
    answer = await asyncio.to_thread(_raw, api.port, head.encode())
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_endless_headers_end_the_connection(api: Api) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"x: y\r\n" * 20_000
    try:
        answer = await asyncio.to_thread(_raw, api.port, head)
    except ConnectionResetError:
        return  # it was closed while we were still sending
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_nothing_given_comes_back_in_a_header(api: Api) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: a\x0bSet-Cookie:b\r\n"
    answer = await asyncio.to_thread(_raw, api.port, request + b"Connection: close\r\n\r\n")
    assert b"set-cookie" not in answer.lower()
    echoed = await api.get("/healthz", x_request_id="mine-1")
    assert echoed.headers["x-request-id"] == "mine-1"


async def test_every_answer_has_the_security_headers(api: Api) -> None:
    for answer in (await api.get("/healthz"), await api.get("/nowhere"), await api.post({})):
        for name, value in SECURITY.items():
            assert answer.headers[name] == value
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


async def test_web_pages_may_call_only_if_they_are_configured(start_api: StartApi) -> None:
    api = await start_api(api_cors_origins="https://cms.example")
    asks = {"access_control_request_method": "POST"}
    for origin, allowed in (("https://cms.example", True), ("https://evil.example", False)):
        headers = {"origin": origin, **asks}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await api.client.options(PATH, headers=named)
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


async def test_without_keys_only_this_machines_names_are_answered(api: Api) -> None:
    for host, status in (("localhost", 200), ("127.0.0.1:8000", 200), ("evil.example", 403)):
        assert (await api.get("/healthz", host=host)).status_code == status


async def test_keys_have_scopes(start_api: StartApi) -> None:
    reading_key, reads = keys.new_key("reads", frozenset({Scope.READ}))
    writing_key, writes = keys.new_key("writes", frozenset({Scope.GENERATE}))
    api = await start_api(api_keys=f"{reads}, {writes}")

    nobody = await api.get()
    stranger = await api.get(authorization="Bearer " + "x" * 40)
    basic = await api.get(authorization="Basic eDp5")
    assert [one.status_code for one in (nobody, stranger, basic)] == [401, 401, 401]
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert (await api.get(authorization=f"Bearer {reading_key}")).status_code == 200
    assert (await api.get(authorization=f"Bearer {writing_key}")).status_code == 403
    forbidden = await api.post(listing(), authorization=f"Bearer {reading_key}")
    assert (forbidden.status_code, forbidden.json()["error"]["code"]) == (403, "forbidden")
    considered = await api.post(
        listing(), query="?dryRun=true", authorization=f"Bearer {writing_key}"
    )
    assert considered.status_code == 200
    assert (await api.get("/metrics")).status_code == 401
    assert (await api.get("/healthz", host="cms.example")).status_code == 200


async def test_a_local_file_is_served_and_nothing_beside_it(
    start_api: StartApi, tmp_path: Path
) -> None:
    media = tmp_path / "media"
    (media / "listings").mkdir(parents=True)
    (media / "listings" / "a.webp").write_bytes(b"picture")
    (media / ".hidden.webp").write_bytes(b"secret")
    (media / "notes.txt").write_bytes(b"secret")
    (tmp_path / "secret.webp").write_bytes(b"secret")
    (media / "link.webp").symlink_to(tmp_path / "secret.webp")
    api = await start_api(media_host="local", media_directory=media)

    served = await api.get("/media/listings/a.webp")
    assert (served.status_code, served.content) == (200, b"picture")
    assert served.headers["content-type"] == "image/webp"
    assert served.headers["cache-control"] == "public, max-age=31536000, immutable"
    again = await api.get("/media/listings/a.webp", if_none_match=served.headers["etag"])
    assert again.status_code == 304
    for path in (
        "/media/../secret.webp",
        "/media/%2e%2e/secret.webp",
        "/media/..%2fsecret.webp",
        "/media/listings/../../secret.webp",
        "/media//etc/passwd",
        "/media/link.webp",
        "/media/.hidden.webp",
        "/media/notes.txt",
        "/media/listings",
        "/media/%00.webp",
    ):
        raw = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        answer = await asyncio.to_thread(_raw, api.port, raw)
        assert answer.startswith(b"HTTP/1.1 404 "), (path, answer)
        assert b"secret" not in answer


async def test_the_documentation_needs_nobody_else(api: Api) -> None:
    page = await api.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("http-equiv", "")
    for asset in ("docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/start.js"):
        assert asset in page.text
        assert (await api.get(f"/{asset}")).status_code == 200
    document = (await api.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert "securitySchemes" not in document["components"]


async def test_an_error_of_ours_shows_no_stack_trace(
    api: Api, steps: Steps, caplog: pytest.LogCaptureFixture
) -> None:
    await steps.execute("ALTER TABLE imagepipe.requests RENAME alt TO old_alt")
    answer = await api.post(listing())
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "Traceback" not in answer.text
    assert "old_alt" not in json.dumps(answer.json())


async def test_a_database_that_is_away_is_no_purchase(start_api: StartApi) -> None:
    api = await start_api(database_url="postgresql://nobody@127.0.0.1:1/none")
    answer = await api.post(listing())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"]


async def test_trailers_are_bounded_and_dropped(api: Api) -> None:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n"
    )
    few = await asyncio.to_thread(_raw, api.port, f"{head}x: y\r\n\r\n".encode())
    assert few.startswith(b"HTTP/1.1 422 ")

    def flood() -> int:
        with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
            connection.sendall(head.encode())
            sent = 0
            try:
                while sent < 10_000_000:
                    connection.sendall(b"x: " + b"y" * 1000 + b"\r\n")
                    sent += 1000
            except OSError:
                pass
            return sent

    assert await asyncio.to_thread(flood) < 10_000_000


@pytest.mark.parametrize("sandbox", [0.8], indirect=True)
async def test_stray_bytes_after_a_request_do_not_end_its_wait(
    api: Api, working: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_WITHIN", 0.2)
    body = json.dumps(listing()).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(0.1)
            connection.sendall(b"\r\n")
            return connection.recv(65_536)

    assert (await asyncio.to_thread(ask)).startswith(b"HTTP/1.1 200 ")


async def test_hits_and_looks_go_on_while_orders_wait_for_the_ledger(
    start_api: StartApi, working: Generator, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "LOCK_TIMEOUT", 1.5)
    api = await start_api()
    await api.post(listing())
    async with steps.engine.begin() as connection:
        await ledger.lock(connection)
        misses = [asyncio.create_task(api.post(listing(f"Miss {n}"))) for n in range(12)]
        await steps.until_blocked(10)
        async with asyncio.timeout(1):
            assert (await api.post(listing())).json()["cached"] is True
            assert (await api.get()).status_code == 200
            await api.parts.waiters._attend()
        answers = await asyncio.gather(*misses)
    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json()["error"]["code"] == "database_unavailable"
    assert await steps.value("SELECT count(*) FROM imagepipe.requests") == 2
