"""Goal: a receiver finds its session by name at once, and the only one after a moment. Method: ANNOUNCEs by hand."""

from __future__ import annotations

import dataclasses
import random

import msgspec
import pytest

from protocol import limits, messages
from protocol.discovery import LISTEN_NS, SOLICIT_INTERVAL_NS, Discovery, Found, Successor
from tests.unit.protocol.test_messages import examples

SENDER = ("10.0.0.1", 7767)


def announce(session_id: int = 1, **fields: object) -> bytes:
    message = examples()["announce"]
    return messages.encode(session_id, msgspec.structs.replace(message, **fields))


def test_a_named_session_is_taken_at_once_and_others_are_not() -> None:
    search = Discovery("lab", 0, random.Random(1))
    search.receive_datagram(announce(1, name="other"), SENDER, 5)
    assert search.poll_choice(10**12) == []
    assert search.drops.stale == 1
    search.receive_datagram(announce(2), SENDER, 6)
    (found,) = search.poll_choice(6)
    assert found.session_id == 2
    assert found.sender_host == "10.0.0.1"
    assert found.control_address == ("10.0.0.1", 40000)


def test_without_a_name_the_only_session_is_taken_after_a_moment() -> None:
    search = Discovery(None, 0, random.Random(1))
    search.receive_datagram(announce(1), SENDER, 100)
    assert search.poll_choice(99 + LISTEN_NS) == []
    assert search.next_timeout() <= 100 + LISTEN_NS
    assert [found.session_id for found in search.poll_choice(100 + LISTEN_NS)] == [1]


def test_several_sessions_are_for_a_person_to_choose_from() -> None:
    search = Discovery(None, 0, random.Random(1))
    for session_id in (1, 2):
        search.receive_datagram(announce(session_id, name=f"s{session_id}"), SENDER, 100)
    assert len(search.poll_choice(100 + LISTEN_NS)) == 2


def test_it_solicits_soon_and_then_once_a_second() -> None:
    search = Discovery("lab", 7, random.Random(1))
    first = search.next_timeout()
    assert 7 <= first <= 7 + limits.SOLICIT_SPREAD_NS
    assert search.poll_transmit(first - 1) is None
    assert search.poll_transmit(first) == messages.encode(0, messages.Solicit("lab"))
    assert search.poll_transmit(first + 1) is None
    assert search.poll_transmit(first + SOLICIT_INTERVAL_NS + limits.SOLICIT_SPREAD_NS) is not None


def test_one_solicits_for_all_that_want_the_same_session() -> None:
    """Ten thousand that start at once ask a dozen times: who hears another's question waits for its answer."""
    fleet = [Discovery("lab", 0, random.Random(seed)) for seed in range(10_000)]
    other = Discovery("other", 0, random.Random(1))
    question, asked = messages.encode(0, messages.Solicit("lab")), 0
    delay_ns = limits.MILLISECOND_NS
    heard_ns = min(search.next_timeout() for search in fleet) + delay_ns
    asked = sum(search.poll_transmit(heard_ns) is not None for search in fleet)
    assert 1 <= asked <= 20
    for search in [*fleet, other]:
        search.receive_datagram(question, SENDER, heard_ns)
    assert all(search.poll_transmit(SOLICIT_INTERVAL_NS) is None for search in fleet)
    assert other.poll_transmit(limits.SOLICIT_SPREAD_NS) is not None


def test_a_session_that_ended_is_forgotten_and_time_does_not_stand_still() -> None:
    search = Discovery(None, 0, random.Random(1))
    search.receive_datagram(announce(1), SENDER, 0)
    search.receive_datagram(messages.encode(1, messages.End(messages.EndReason.COMPLETE, "")), SENDER, 1)
    now = 2 * LISTEN_NS
    assert search.poll_choice(now) == []
    assert search.poll_transmit(now) is not None
    assert search.next_timeout() > now
    search.receive_datagram(announce(3), SENDER, now)
    assert [found.session_id for found in search.poll_choice(now + LISTEN_NS)] == [3]


def test_many_sessions_are_remembered_up_to_a_limit() -> None:
    search = Discovery(None, 0, random.Random(1))
    for session_id in range(1, 2 * limits.SESSIONS_HEARD_MAX):
        search.receive_datagram(announce(session_id), SENDER, 0)
    assert len(search.found) == limits.SESSIONS_HEARD_MAX


@pytest.mark.parametrize(
    "datagram", [b"", b"junk" * 9, messages.encode(1, messages.Welcome(bytes(16), 1, 1, 0)), announce()[:40]]
)
def test_what_is_no_announce_is_counted(datagram: bytes) -> None:
    search = Discovery("lab", 0, random.Random(1))
    search.receive_datagram(datagram, SENDER, 0)
    assert search.drops.total() == 1
    assert search.found == {}
    assert dataclasses.asdict(search.drops)["session"] == 0


def test_a_stream_with_more_slices_than_are_allowed_is_malformed() -> None:
    search = Discovery("lab", 0, random.Random(1))
    size = 64 * (limits.SLICE_COUNT_MAX + 1)
    search.receive_datagram(announce(symbol_size=64, source_symbols=1, stream_size=size), SENDER, 0)
    assert search.found == {}
    assert search.drops.malformed == 1


def lost_session() -> Found:
    message = examples()["announce"]
    assert isinstance(message, messages.Announce)
    return Found(1, message, "10.0.0.1")


def test_a_sender_that_comes_back_is_known_by_what_it_serves() -> None:
    successor = Successor(lost_session())
    successor.receive_datagram(announce(1), SENDER)
    assert successor.found is None  # the one that is not lost yet
    for field, value in (
        ("name", "other"), ("image_id", bytes(15) + b"x"), ("manifest_digest", bytes(31) + b"x"),
        ("manifest_size", 1), ("stream_size", 1), ("raw_size", 1),
    ):  # fmt: skip
        successor.receive_datagram(announce(2, **{field: value}), SENDER)
        assert successor.found is None, field
    successor.receive_datagram(announce(2), ("10.0.0.2", 7767))
    assert successor.found is not None
    assert (successor.found.session_id, successor.found.sender_host) == (2, "10.0.0.2")
    successor.receive_datagram(announce(2), SENDER)
    assert successor.found.sender_host == "10.0.0.2"  # a repeat from elsewhere changes nothing
    successor.receive_datagram(messages.encode(2, messages.End(messages.EndReason.COMPLETE, "")), SENDER)
    assert successor.found is None


def test_a_sender_that_was_only_stopped_comes_back_itself() -> None:
    successor = Successor(lost_session())
    successor.lost = True
    successor.receive_datagram(announce(1), SENDER)
    assert successor.found is not None
    assert successor.found.session_id == 1
