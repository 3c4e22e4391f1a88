"""Who may buy now: limits, totals and the queue before them, as plain values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rules.limits import Books, Limit, Purchase, admit

HOUR = 3600
REQUESTS = Limit("hour", "global", HOUR, 20, None)
DOLLARS = Limit("daily-cost", "global", 86400, None, 10_000_000)
LISTINGS = Limit("listings", "type:listing", HOUR, 5, None)
BACKFILL = Limit("backfill", "source:backfill", HOUR, 10, None)

LISTING = Purchase("live", "listing", 120_000)
ARTICLE = Purchase("live", "article", 40_000)


def books(*held: tuple[Limit, int, int]) -> Books:
    """Books in which each limit's window holds so many requests and micro-dollars."""
    return Books(
        [limit for limit, _, _ in held],
        {limit.window: (requests, spent) for limit, requests, spent in held},
    )


@pytest.mark.parametrize(
    ("requests", "spent", "price", "fits"),
    [
        (19, 0, 1, True),
        (20, 0, 1, False),  # the 21st request
        (0, 9_880_000, 120_000, True),  # to the last micro-dollar
        (0, 9_880_001, 120_000, False),  # one over
        (20, 10_000_000, 0, False),
        (19, 10_000_000, 0, True),  # what is free needs no money
    ],
)
def test_a_limit_holds_to_the_request_and_to_the_micro_dollar(
    requests: int, spent: int, price: int, fits: bool
) -> None:
    both = Limit("both", "global", HOUR, 20, 10_000_000)
    assert both.has_room(requests, spent, price) is fits


def test_a_limit_without_one_of_the_maxima_does_not_look_at_it() -> None:
    assert REQUESTS.has_room(0, 10**15, 10**12)
    assert DOLLARS.has_room(10**9, 0, 1)


@pytest.mark.parametrize(
    "stop", [Limit("stop", "global", HOUR, 0, None), Limit("stop", "global", HOUR, None, 0)]
)
def test_zero_stops_everything_that_costs(stop: Limit) -> None:
    assert not stop.could_ever_fit(1)
    assert books((stop, 0, 0)).never_fits(LISTING) == [stop]


def test_only_the_limits_of_a_purchases_own_scopes_block_it() -> None:
    held = books((REQUESTS, 3, 0), (LISTINGS, 5, 0), (BACKFILL, 10, 0))
    assert held.blocking(LISTING) == [LISTINGS]
    assert held.blocking(ARTICLE) == []
    assert held.blocking(Purchase("backfill", "listing", 1)) == [LISTINGS, BACKFILL]


def test_a_purchase_counts_in_every_window_of_its_scopes_and_in_no_other() -> None:
    held = books((REQUESTS, 3, 30), (DOLLARS, 7, 70), (LISTINGS, 1, 10), (BACKFILL, 2, 20))
    held.take(LISTING)
    assert held.totals == {
        REQUESTS.window: (4, 120_030),
        DOLLARS.window: (8, 120_070),
        LISTINGS.window: (2, 120_010),
        BACKFILL.window: (2, 20),
    }


def test_the_queue_goes_in_order_up_to_what_there_is_room_for() -> None:
    admission = admit(books((REQUESTS, 18, 0)), [LISTING, ARTICLE, LISTING, ARTICLE])
    assert admission.admitted == [0, 1]
    assert admission.heads == {"global": (2, [REQUESTS])}


def test_nothing_cheaper_passes_a_head_that_waits_for_money() -> None:
    held = books((DOLLARS, 0, 9_900_000))  # room for the article, not for the listing
    admission = admit(held, [LISTING, ARTICLE])
    assert admission.admitted == []
    assert admission.heads == {"global": (0, [DOLLARS])}


def test_a_head_closes_only_the_scope_that_blocks_it() -> None:
    queue = [
        LISTING,  # blocked: too many listings
        ARTICLE,
        Purchase("backfill", "listing", 1),  # the same scope: behind the head
        Purchase("backfill", "article", 1),  # blocked: the backfill's share
        ARTICLE,
        Purchase("backfill", "hero", 1),
    ]
    admission = admit(books((REQUESTS, 0, 0), (LISTINGS, 5, 0), (BACKFILL, 10, 0)), queue)
    assert admission.admitted == [1, 4]
    assert admission.heads == {
        "type:listing": (0, [LISTINGS]),
        "source:backfill": (3, [BACKFILL]),
    }


def test_a_head_blocked_by_several_limits_names_them_all_in_each_scope() -> None:
    admission = admit(books((REQUESTS, 20, 0), (LISTINGS, 5, 0)), [LISTING, ARTICLE])
    assert admission.heads == {
        "global": (0, [REQUESTS, LISTINGS]),
        "type:listing": (0, [REQUESTS, LISTINGS]),
    }


def test_what_could_never_fit_holds_nobody_up() -> None:
    small = Limit("small", "global", HOUR, None, 100_000)
    admission = admit(books((small, 0, 0)), [LISTING, ARTICLE])
    assert admission.admitted == [1]
    assert admission.heads == {}


PURCHASES = st.builds(
    Purchase,
    st.sampled_from(["live", "backfill", "api"]),
    st.sampled_from(["listing", "article"]),
    st.integers(0, 9),
)


@given(st.lists(PURCHASES, max_size=30), st.integers(0, 12), st.integers(0, 60))
def test_no_queue_gets_over_a_limit_and_every_head_is_really_blocked(
    queue: list[Purchase], max_requests: int, max_microusd: int
) -> None:
    limits = [
        Limit("all", "global", HOUR, max_requests, max_microusd),
        Limit("backfill", "source:backfill", HOUR, max_requests // 2, None),
        Limit("listings", "type:listing", HOUR, None, max_microusd // 2),
    ]
    held = books(*((limit, 0, 0) for limit in limits))
    admission = admit(held, queue)

    bought = [queue[index] for index in admission.admitted]
    assert admission.admitted == sorted(admission.admitted)
    for limit in limits:
        mine = [purchase for purchase in bought if limit.scope in purchase.scopes]
        spent = sum(purchase.microusd for purchase in mine)
        assert held.totals[limit.window] == (len(mine), spent)
        assert limit.max_requests is None or len(mine) <= limit.max_requests
        assert limit.max_microusd is None or spent <= limit.max_microusd
    for scope, (index, blocking) in admission.heads.items():
        assert scope in queue[index].scopes
        assert held.blocking(queue[index])
        assert scope in {limit.scope for limit in blocking}
        behind = (i for i in admission.admitted if i > index)
        assert all(scope not in queue[i].scopes for i in behind)
