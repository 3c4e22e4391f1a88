"""What a check of the audit says, and what most checks ask first."""

from dataclasses import dataclass

from tests.chaos.evidence import Evidence
from tests.chaos.plan import Event


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, or a part of one: what was found, and each breach in words."""

    name: str
    figure: str
    breaches: list[str]


def accepted_events(evidence: Evidence) -> dict[str, Event]:
    return {event.id: event for event in evidence.published if event.id is not None}
