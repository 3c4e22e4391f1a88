"""What reaches the log of a worker whose broker is away."""

import logging

from pipeline.logs import Seldom


def said(name: str, message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, args, None)


def test_aiokafka_says_the_same_thing_once_a_minute() -> None:
    seldom = Seldom()
    heard = [
        seldom.filter(said("aiokafka.client", "Unable connect to node with id %s", node))
        for node in range(30)
    ]
    assert heard == [True] + [False] * 29


def test_each_thing_aiokafka_says_is_heard() -> None:
    seldom = Seldom()
    assert seldom.filter(said("aiokafka.client", "Unable connect to node with id %s", 1))
    assert seldom.filter(said("aiokafka.client", "Unable to update metadata from %s", [1]))
    assert seldom.filter(said("aiokafka.consumer.fetcher", "Unable to update metadata from %s", 1))


def test_what_others_say_twice_is_heard_twice() -> None:
    seldom = Seldom()
    twice = [seldom.filter(said("pipeline.relay", "the broker is away")) for _ in range(2)]
    assert twice == [True, True]
