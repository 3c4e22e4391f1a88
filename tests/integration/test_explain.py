"""The whole story of a request, and the ledger against what the provider counted."""

import json
from datetime import date
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import reconcile
from pipeline.cli import app
from pipeline.errors import OutcomeUnknown
from pipeline.explain import Explained, NothingFound, explain
from tests.integration.builders import CATALOGUE, COST, Steps, asked, picture


async def tell(steps: Steps, word: str, limit: int = 3) -> list[Explained]:
    async with steps.engine.connect() as connection:
        return await explain(connection, word, limit=limit)


async def test_a_purchase_and_a_hit_are_told_from_end_to_end(steps: Steps) -> None:
    await steps.make(asked("bought", "Modern Daire"))
    hit = asked("hit", "MODERN  daire")
    await steps.ask(hit)

    [bought] = await tell(steps, "listing:bought")
    [found] = await tell(steps, str(hit.id))

    assert bought.story is not None
    assert [(row.state, row.microusd) for row in bought.story.attempts] == [("bought", COST)]
    assert bought.asset is not None
    assert found.asset is not None
    assert bought.asset.id == found.asset.id
    assert found.story is None
    assert json.loads(found.canonical)["context"] == {"title": "modern daire"}
    assert found.canonical == bought.canonical
    assert [message.topic for message in found.messages] == ["image-ready"]
    assert found.messages[0].published_at is None


async def test_a_hash_tells_of_all_who_asked_for_it(steps: Steps) -> None:
    requests = [asked(f"{n}", "Modern Daire") for n in range(4)]
    await steps.make(*requests)

    told = await tell(steps, requests[0].context_hash)
    by_prompt = await tell(steps, requests[0].prompt_hash, limit=10)

    assert [one.request.event_id for one in told] == ["3", "2", "1"]
    assert len(by_prompt) == 4


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("listing:none", "no request"),
        ("0" * 64, "no request"),
        ("6e9e2f0e-7c39-5d7c-9a0a-52f9a3f6c7d1", "no request"),
        ("yacht:1", "neither an entity"),
        ("", "neither an entity"),
    ],
)
async def test_nothing_found_is_said(steps: Steps, word: str, says: str) -> None:
    with pytest.raises(NothingFound, match=says):
        await tell(steps, word)


async def read_bills(steps: Steps, days: int = 1) -> list[reconcile.Bill]:
    async with steps.engine.connect() as connection:
        return await reconcile.reconcile(connection, CATALOGUE, days=days, timezone="UTC")


async def test_the_ledger_is_what_the_usage_comes_to(steps: Steps) -> None:
    await steps.make(asked("a", "A"), asked("b", "B"))
    await steps.ask(asked("c", "C"))
    without_usage = await steps.claim_one()
    await steps.keep(without_usage, picture(usage=None))
    await steps.ask(asked("d", "D"))
    lost = await steps.claim_one()
    await steps.fail(lost, OutcomeUnknown("timeout", "silence"))
    await steps.ask(asked("e", "E"))
    await steps.claim_one()

    [bill] = await read_bills(steps)

    bound = await steps.value(
        "SELECT microusd FROM imagepipe.reservations WHERE id = :id", id=without_usage.attempt_id
    )
    assert bill.day == date.fromisoformat(
        str(await steps.value("SELECT CAST(now() AT TIME ZONE 'UTC' AS date)"))
    )
    assert (bill.model, bill.calls, bill.unknown_calls) == ("gpt-image-2.5-flare", 3, 1)
    assert (bill.recomputed, bill.estimated, bill.settled) == (2 * COST, bound, 2 * COST + bound)
    assert bill.unknown > 0
    assert bill.held > 0
    assert bill.difference == 0


async def test_a_difference_is_found(steps: Steps) -> None:
    await steps.make(asked("a", "A"))
    await steps.execute("UPDATE imagepipe.reservations SET microusd = microusd + 5")
    [bill] = await read_bills(steps)
    assert bill.difference == 5


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DATABASE_URL", database_url)
    return lambda *words: CliRunner().invoke(app, [*words])


def test_the_commands_of_an_empty_database(run: Any) -> None:
    nothing = run("explain", "listing:1")
    assert nothing.exit_code == 1
    assert "there is no request" in nothing.output
    bills = run("reconcile", "--json")
    assert bills.exit_code == 0
    assert json.loads(bills.stdout)["total"]["settled"] == 0
    assert run("reconcile").exit_code == 0
