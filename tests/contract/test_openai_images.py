"""The image model's adapter against the sandbox: every answer OpenAI can give, and its meaning."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx2
import openai
import pytest
import pytest_asyncio

from pipeline.adapters.openai_errors import DEFAULT_DELAY, MAX_DELAY, classify, retry_delay
from pipeline.adapters.openai_images import DOWNLOAD_TRIES, OpenAIImages
from pipeline.errors import Closed, OutcomeUnknown, OutsideError, Rejected, Retryable, Throttled
from pipeline.ports import ImageCall, Usage
from sandbox.faults import Fault
from sandbox.server import Sandbox

KEY = "sk-not-a-real-key-1234567890"
CALL = ImageCall(
    model="gpt-image-2.5-flare",
    prompt='Listing photograph: "Modern Daire"',
    size="1024x1024",
    quality="medium",
    output_format="webp",
)
DALL_E = ImageCall(
    model="dall-e-3", prompt="Hero: “Karasu”", size="1792x1024", quality="hd", style="vivid"
)
BILLING_CODES = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
)


@pytest_asyncio.fixture
async def images(sandbox: Sandbox) -> AsyncIterator[OpenAIImages]:
    adapter = OpenAIImages(
        api_key=KEY, base_url=sandbox.openai_base_url, timeout=20, max_bytes=2**20
    )
    yield adapter
    await adapter.close()


async def failure(images: OpenAIImages, call: ImageCall = CALL) -> OutsideError:
    with pytest.raises(OutsideError) as caught:
        await images.generate(call)
    return caught.value


async def test_a_picture_arrives_with_its_facts_and_its_exact_usage(
    images: OpenAIImages, sandbox: Sandbox
) -> None:
    image = await images.generate(CALL)

    assert (image.facts.format, image.facts.width, image.facts.height) == ("webp", 1024, 1024)
    assert image.facts.bytes == len(image.data)
    assert image.usage == Usage(text_tokens=9, image_tokens=0, output_tokens=439)
    assert image.request_id is not None
    assert image.request_id.startswith("req_")
    [purchase] = sandbox.purchases
    assert (purchase.model, purchase.size, purchase.quality, purchase.output_format) == (
        CALL.model,
        CALL.size,
        CALL.quality,
        CALL.output_format,
    )
    assert (purchase.prompt, purchase.style) == (CALL.prompt, None)
    assert purchase.size_bytes == len(image.data)


async def test_dall_e_3_answers_by_url_and_the_picture_is_fetched_at_once(
    images: OpenAIImages, sandbox: Sandbox
) -> None:
    image = await images.generate(DALL_E)

    assert (image.facts.format, image.facts.width, image.facts.height) == ("png", 1792, 1024)
    assert image.usage is None
    assert image.revised_prompt is not None
    assert [purchase.style for purchase in sandbox.purchases] == ["vivid"]


@pytest.mark.parametrize(
    ("kind", "meaning", "code"),
    [
        ("bad_request", Rejected, "invalid_value"),
        ("unprocessable", Rejected, "http_422"),
        ("unauthorized", Closed, "unauthorized"),
        ("forbidden", Closed, "forbidden"),
        ("unknown_model", Closed, "model_not_found"),
        *((code, Closed, code) for code in BILLING_CODES),
        ("rate_limit", Throttled, "rate_limit_exceeded"),
        ("slow_down", Throttled, "slow_down"),
        ("overloaded", Retryable, "server_is_overloaded"),
        ("unavailable", OutcomeUnknown, "http_503"),
        ("server_error", OutcomeUnknown, "http_500"),
        ("reset", OutcomeUnknown, "connection_lost"),
        ("reset_mid_body", OutcomeUnknown, "connection_lost"),
        ("huge_body", OutcomeUnknown, "bad_response"),
        ("html", OutcomeUnknown, "bad_response"),
        ("no_data", OutcomeUnknown, "bad_response"),
        ("wrong_base64", OutcomeUnknown, "bad_response"),
        ("not_a_picture", OutcomeUnknown, "bad_response"),
    ],
)
async def test_each_failure_has_its_meaning_and_is_asked_once(
    images: OpenAIImages, sandbox: Sandbox, kind: str, meaning: type[OutsideError], code: str
) -> None:
    sandbox.faults.add(Fault("openai", kind))

    error = await failure(images)

    assert type(error) is meaning
    assert error.code == code
    assert KEY not in str(error)
    assert sandbox.requests("openai") == 1


@pytest.mark.parametrize("kind", ["moderation_blocked", "content_policy_violation"])
async def test_moderation_is_final_and_a_matter_of_policy(
    images: OpenAIImages, sandbox: Sandbox, kind: str
) -> None:
    sandbox.faults.add(Fault("openai", kind))

    error = await failure(images)

    assert isinstance(error, Rejected)
    assert (error.error_class, error.code) == ("policy", "policy")


@pytest.mark.parametrize("kind", ["rate_limit_ms", "rate_limit_seconds", "rate_limit_date"])
async def test_a_rate_limit_says_how_long_to_wait(
    images: OpenAIImages, sandbox: Sandbox, kind: str
) -> None:
    sandbox.faults.add(Fault("openai", kind, retry_after=12))

    error = await failure(images)

    assert isinstance(error, Throttled)
    assert error.delay == pytest.approx(12, abs=3)


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({}, DEFAULT_DELAY),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "9"}, 9),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "inf"}, MAX_DELAY),
        ({"retry-after": "soon"}, DEFAULT_DELAY),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30"}, DEFAULT_DELAY),
    ],
)
def test_a_delay_is_always_sane(headers: dict[str, str], delay: float) -> None:
    assert retry_delay(headers, datetime(2026, 11, 22, 12, tzinfo=UTC)) == delay


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (307, None, Closed),  # a wrong base URL; the request was not carried out
        (400, "billing_hard_limit_reached", Closed),
        (409, None, OutcomeUnknown),
        (502, None, OutcomeUnknown),
    ],
)
def test_rarer_answers_have_a_careful_meaning(
    status: int, code: str | None, meaning: type[OutsideError]
) -> None:
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://127.0.0.1/"))
    error = openai.APIStatusError("", response=response, body={"code": code, "message": f"a {KEY}"})

    classified = classify(error, api_key=KEY)

    assert type(classified) is meaning
    assert KEY not in str(classified)


async def test_no_answer_in_time_leaves_the_outcome_unknown(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault("openai", "timeout"))
    images = OpenAIImages(api_key=KEY, base_url=sandbox.openai_base_url, timeout=0.5)

    error = await failure(images)

    await images.close()
    assert isinstance(error, OutcomeUnknown)
    assert error.code == "timeout"
    assert sandbox.requests("openai") == 1


async def test_nothing_was_sent_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    images = OpenAIImages(api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", timeout=5)

    error = await failure(images)

    await images.close()
    assert type(error) is Retryable
    assert error.code == "not_sent"


async def test_nothing_was_sent_where_the_name_or_tls_fails(sandbox: Sandbox) -> None:
    for address in (
        "http://no-such-host.invalid/v1",
        sandbox.openai_base_url.replace("http", "https"),
    ):
        images = OpenAIImages(api_key=KEY, base_url=address, timeout=5)
        error = await failure(images)
        await images.close()
        assert type(error) is Retryable, address
    assert sandbox.requests("openai") == 0


async def test_a_connection_that_is_never_accepted_was_not_sent() -> None:
    """A listener with a full queue: the handshake never ends, so no byte of the request leaves."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(deaf.getsockname())
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        images = OpenAIImages(api_key=KEY, base_url=address, timeout=60)

        error = await failure(images)

        await images.close()
        for client in waiting:
            client.close()
    assert type(error) is Retryable


async def test_a_picture_of_other_dimensions_is_described_as_it_is(
    images: OpenAIImages, sandbox: Sandbox
) -> None:
    sandbox.faults.add(Fault("openai", "other_dimensions"))

    image = await images.generate(CALL)

    assert (image.facts.width, image.facts.height) == (512, 512)


async def test_usage_and_encoding_may_be_those_of_a_compatible_server(
    images: OpenAIImages, sandbox: Sandbox
) -> None:
    sandbox.faults.add(Fault("openai", "no_usage"))
    sandbox.faults.add(Fault("openai", "url"))

    without_usage = await images.generate(CALL)
    by_url = await images.generate(CALL)

    assert without_usage.usage is None
    assert by_url.facts == without_usage.facts


async def test_a_download_that_recovers_saves_the_paid_picture(
    images: OpenAIImages, sandbox: Sandbox
) -> None:
    sandbox.faults.add(Fault("download", "server_error"))
    sandbox.faults.add(Fault("download", "reset"))

    image = await images.generate(DALL_E)

    assert image.facts.width == 1792
    assert len(sandbox.purchases) == 1


@pytest.mark.parametrize("kind", ["not_found", "huge_body"])
async def test_a_download_that_stays_broken_leaves_the_outcome_unknown(
    images: OpenAIImages, sandbox: Sandbox, kind: str
) -> None:
    sandbox.faults.add(Fault("download", kind, times=DOWNLOAD_TRIES))

    error = await failure(images, DALL_E)

    assert isinstance(error, OutcomeUnknown)
    assert error.code == "download_failed"
    assert len(sandbox.purchases) == 1


async def test_a_large_body_is_cut_off_quickly(images: OpenAIImages, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault("openai", "huge_body"))
    begun = time.monotonic()

    await failure(images)

    assert time.monotonic() - begun < 5


async def test_many_calls_at_once_are_as_many_purchases(
    images: OpenAIImages, sandbox: Sandbox
) -> None:
    await asyncio.gather(*(images.generate(CALL) for _ in range(8)))

    assert len(sandbox.purchases) == sandbox.requests("openai") == 8


@pytest.mark.parametrize(
    ("key", "address"), [("", None), (" ", None), (KEY, "localhost:8000/v1"), (KEY, "ftp://x/v1")]
)
def test_wrong_settings_are_refused_before_anything_is_sent(key: str, address: str | None) -> None:
    with pytest.raises(ValueError, match="image model"):
        OpenAIImages(api_key=key, base_url=address)
