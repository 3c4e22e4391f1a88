"""The job's legal moves, and what is promised about them."""

from pipeline.rules.lifecycle import JOB_MOVES, LIVE, JobState, Source, sources_of

ENDS = {JobState.DONE, JobState.FAILED}


def reachable_from(state: JobState) -> set[JobState]:
    seen: set[JobState] = set()
    ahead = {state}
    while ahead:
        seen |= ahead
        ahead = {target for state in ahead for target in JOB_MOVES[state]} - seen
    return seen


def test_every_state_says_where_it_may_go() -> None:
    assert JOB_MOVES.keys() == set(JobState)
    assert all(state not in targets for state, targets in JOB_MOVES.items())


def test_every_state_can_be_reached_and_every_job_can_end() -> None:
    assert reachable_from(JobState.QUEUED) == set(JobState)
    assert all(JobState.DONE in reachable_from(state) for state in JobState)


def test_a_received_picture_is_never_given_up() -> None:
    assert reachable_from(JobState.GENERATED) == {JobState.GENERATED, JobState.DONE}


def test_a_stored_picture_is_final() -> None:
    assert JOB_MOVES[JobState.DONE] == frozenset()


def test_requests_join_a_job_until_it_has_ended() -> None:
    assert set(JobState) - LIVE == ENDS


def test_sources_of_are_the_moves_read_backwards() -> None:
    assert {(source, target) for target in JobState for source in sources_of(target)} == {
        (source, target) for source, targets in JOB_MOVES.items() for target in targets
    }
    assert sources_of(JobState.GENERATED) == [
        JobState.FAILED,
        JobState.GENERATING,
        JobState.QUEUED,
    ]
    assert sources_of(JobState.QUEUED) == [JobState.FAILED, JobState.GENERATING]


def test_people_who_wait_go_before_a_backfill() -> None:
    assert Source.LIVE.priority == Source.API.priority > Source.BACKFILL.priority
