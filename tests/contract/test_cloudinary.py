"""Cloudinary's adapter against the sandbox, which checks every signature."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pipeline.adapters.cloudinary_account import CloudinaryAccount
from pipeline.adapters.cloudinary_host import RATE_LIMIT_DELAY, CloudinaryHost
from pipeline.errors import Closed, OutsideError, Rejected, Retryable, Throttled
from sandbox.faults import Fault
from sandbox.server import Sandbox
from tests.contract.conftest import MakeUpload

SECRET = "sandbox-secret"


@pytest_asyncio.fixture
async def host(sandbox: Sandbox) -> AsyncIterator[CloudinaryHost]:
    adapter = CloudinaryHost(cloudinary_url=sandbox.cloudinary_url, timeout=10)
    yield adapter
    await adapter.close()


async def test_what_is_uploaded_is_what_the_account_shows(
    host: CloudinaryHost, sandbox: Sandbox, make_upload: MakeUpload
) -> None:
    stored = await host.store(
        make_upload(alt="Villa | 3+1 = geniş & aydınlık, Şile\\İzmir", tags=("ai", "kiralık"))
    )

    [asset] = sandbox.uploads
    assert asset.context == {"alt": "Villa | 3+1 = geniş & aydınlık, Şile\\İzmir"}
    assert asset.tags == ("ai", "kiralık")
    assert (asset.public_id, asset.asset_folder) == ("ai-7-0a1b2c", "listings/karasu")
    assert stored.public_id == "ai-7-0a1b2c"


async def test_fixed_folders_become_part_of_the_public_id(
    sandbox: Sandbox, make_upload: MakeUpload
) -> None:
    host = CloudinaryHost(cloudinary_url=sandbox.cloudinary_url, folder_mode="fixed")

    stored = await host.store(make_upload())

    await host.close()
    assert stored.public_id == "listings/karasu/ai-7-0a1b2c"


async def test_sha256_signatures_are_taken_as_well(
    sandbox: Sandbox, make_upload: MakeUpload
) -> None:
    host = CloudinaryHost(cloudinary_url=sandbox.cloudinary_url + "&signature_algorithm=sha256")

    await host.store(make_upload())

    await host.close()
    assert len(sandbox.uploads) == 1


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        ("bad_request", Rejected),
        ("not_found", Rejected),
        ("already_exists", Rejected),
        ("unauthorized", Closed),
        ("forbidden", Closed),
        ("slow_down", Throttled),
        ("rate_limit", Throttled),
        ("server_error", Retryable),
        ("unavailable", Retryable),
        ("garbage", Retryable),
        ("reset", Retryable),
    ],
)
async def test_each_failure_has_its_meaning_and_the_next_try_succeeds(
    host: CloudinaryHost,
    sandbox: Sandbox,
    make_upload: MakeUpload,
    kind: str,
    meaning: type[OutsideError],
) -> None:
    sandbox.faults.add(Fault("cloudinary", kind))

    with pytest.raises(OutsideError) as caught:
        await host.store(make_upload())
    await host.store(make_upload())

    assert type(caught.value) is meaning
    if isinstance(caught.value, Throttled):
        assert caught.value.delay == RATE_LIMIT_DELAY
    assert SECRET not in str(caught.value)
    assert len(sandbox.uploads) == 1


async def test_a_host_that_does_not_answer_is_tried_later(
    sandbox: Sandbox, make_upload: MakeUpload
) -> None:
    sandbox.faults.add(Fault("cloudinary", "timeout"))
    host = CloudinaryHost(cloudinary_url=sandbox.cloudinary_url, timeout=0.5)

    with pytest.raises(Retryable):
        await host.store(make_upload())

    await host.close()


async def test_a_wrong_secret_closes_the_host(sandbox: Sandbox, make_upload: MakeUpload) -> None:
    wrong = sandbox.cloudinary_url.replace(SECRET, "another-secret")
    host = CloudinaryHost(cloudinary_url=wrong)

    with pytest.raises(Closed) as caught:
        await host.store(make_upload())

    await host.close()
    assert "another-secret" not in str(caught.value)
    assert sandbox.uploads == []


async def test_accounts_do_not_mix_and_uploads_run_side_by_side(
    host: CloudinaryHost, sandbox: Sandbox, make_upload: MakeUpload
) -> None:
    other = CloudinaryHost(cloudinary_url="cloudinary://k:s@other?upload_prefix=http://127.0.0.1:9")

    uploads = [make_upload(public_id=f"ai-{number}") for number in range(12)]
    await asyncio.gather(*map(host.store, uploads))
    with pytest.raises(Retryable):
        await other.store(uploads[0])

    await other.close()
    assert len(sandbox.uploads) == 12


def test_an_account_is_read_from_its_url() -> None:
    account = CloudinaryAccount.parse("cloudinary://key:secret@cloud?upload_prefix=http://h:1/")

    assert account == CloudinaryAccount("cloud", "key", "secret", "http://h:1")
    assert "secret" not in repr(account)


@pytest.mark.parametrize(
    ("url", "missing"),
    [
        ("", "cloudinary://"),
        ("https://key:hush@cloud", "cloudinary://"),
        ("cloudinary://cloud", "no key"),
        ("cloudinary://key@cloud", "no secret"),
        ("cloudinary://key:hush@", "no cloud"),
        ("cloudinary://key:hush@[cloud", "cannot be read"),
        ("cloudinary://key:hush@cloud?upload_prefix=localhost", "upload_prefix"),
        ("cloudinary://key:hush@cloud?signature_algorithm=md5", "signature_algorithm"),
    ],
)
def test_a_malformed_url_is_explained_without_its_secret(url: str, missing: str) -> None:
    with pytest.raises(ValueError, match=missing) as caught:
        CloudinaryHost(cloudinary_url=url)
    assert "hush" not in str(caught.value)
