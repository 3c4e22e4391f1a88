"""Queries on `circuits`: models that nobody should call for a while, seen by every worker."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.errors import OutsideError
from pipeline.rules.retries import Verdict

ABOVE_BOUND = "price_above_bound"


async def failures(connection: AsyncConnection, model: str) -> int:
    """How often in a row the model was found closed."""
    found = await connection.scalar(
        text("SELECT failures FROM imagepipe.circuits WHERE model = :model"), {"model": model}
    )
    return found or 0


async def pause(
    connection: AsyncConnection, model: str, error: OutsideError, verdict: Verdict
) -> None:
    """Nobody calls the model for `verdict.pause_model` seconds; a longer pause stays.

    Calls that were under way when the model was found closed find the same and change nothing:
    only a probe's failure is the next in a row.
    """
    if verdict.pause_model is None:
        return
    await connection.execute(
        text("""
            INSERT INTO imagepipe.circuits AS c (model, code, message, failures, paused_until)
            VALUES (:model, :code, :message, :opened,
                    clock_timestamp() + make_interval(secs => :pause))
            ON CONFLICT (model) DO UPDATE
            SET code = excluded.code, message = excluded.message,
                failures = c.failures + excluded.failures,
                probing = c.probing AND excluded.failures = 0,
                opened_at = CASE WHEN c.failures = 0 THEN excluded.opened_at ELSE c.opened_at END,
                paused_until = CASE WHEN c.probing AND excluded.failures = 1
                    THEN excluded.paused_until
                    ELSE greatest(c.paused_until, excluded.paused_until) END
            WHERE c.paused_until <> 'infinity'
              AND (excluded.failures = 0 OR c.failures = 0 OR c.probing)
        """),
        {
            "model": model,
            "code": error.code,
            "message": error.message,
            "opened": int(verdict.opens_circuit),
            "pause": verdict.pause_model,
        },
    )


async def stop(connection: AsyncConnection, model: str, message: str) -> None:
    """Nobody calls the model until an operator says go on (`resume`)."""
    await connection.execute(
        text("""
            INSERT INTO imagepipe.circuits (model, code, message, failures, paused_until)
            VALUES (:model, :code, :message, 1, 'infinity')
            ON CONFLICT (model) DO UPDATE
            SET code = excluded.code, message = excluded.message, failures = 1,
                probing = false, opened_at = excluded.opened_at, paused_until = 'infinity'
        """),
        {"model": model, "code": ABOVE_BOUND, "message": message},
    )


async def probing(connection: AsyncConnection, models: set[str], seconds: float) -> None:
    """One call goes out to each open model; nobody else tries for `seconds`."""
    await connection.execute(
        text("""
            UPDATE imagepipe.circuits
            SET paused_until = clock_timestamp() + make_interval(secs => :seconds), probing = true
            WHERE model = ANY(:models) AND failures > 0 AND paused_until <> 'infinity'
        """),
        {"models": sorted(models), "seconds": seconds},
    )


async def closed_again(connection: AsyncConnection, model: str) -> None:
    """A call went through: the model is back."""
    await connection.execute(
        text(
            "DELETE FROM imagepipe.circuits"
            " WHERE model = :model AND failures > 0 AND paused_until <> 'infinity'"
        ),
        {"model": model},
    )


async def resume(connection: AsyncConnection, model: str) -> bool:
    """An operator says go on; False when nothing was stopped."""
    done = await connection.execute(
        text("DELETE FROM imagepipe.circuits WHERE model = :model"), {"model": model}
    )
    return done.rowcount > 0
