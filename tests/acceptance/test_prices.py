"""What a picture costs is the same figure in the event, in the CMS's log and in the ledger."""

from decimal import Decimal

from tests.acceptance.harness import World

LISTING = {  # the specification's example
    "type": "listing",
    "context": {
        "title": "Modern Daire",
        "propertyType": "daire",
        "location": "Karasu, Sakarya",
        "status": "satilik",
    },
    "options": {"size": "1792x1024", "quality": "hd"},
    "upload": {"entityType": "listing", "entityId": "listing-id", "alt": "Modern Daire - Karasu"},
}


def test_a_wide_hd_listing_from_dall_e_3_costs_twelve_cents(world: World) -> None:
    world.start_worker(IMAGEPIPE_MODEL="dall-e-3")

    world.publish([LISTING])

    [ready] = world.outcomes(ready=1).ready
    assert ready.data["cost"] == {"usd": 0.12, "basis": "actual"}
    assert ready.data["alt"] == "Modern Daire - Karasu"
    assert (ready.data["asset"]["width"], ready.data["asset"]["height"]) == (1792, 1024)
    [logged] = world.query(
        "SELECT generation_type, image_size, image_quality, cost, success"
        " FROM ai_image_generation_logs"
    )
    assert logged == ("listing", "1792x1024", "hd", Decimal("0.1200"), True)
    assert world.query("SELECT state, microusd FROM imagepipe.reservations") == [
        ("settled", 120_000)
    ]
