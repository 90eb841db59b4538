"""Goal: a receiver finds its session by name at once, and the only one after a moment. Method: ANNOUNCEs by hand."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from protocol import limits, messages
from protocol.discovery import LISTEN_NS, SOLICIT_INTERVAL_NS, Discovery
from tests.unit.protocol.test_messages import examples

SENDER = ("10.0.0.1", 7767)


def announce(session_id: int = 1, **fields: object) -> bytes:
    message = examples()["announce"]
    return messages.encode(session_id, msgspec.structs.replace(message, **fields))


def test_a_named_session_is_taken_at_once_and_others_are_not() -> None:
    search = Discovery("lab", 0)
    search.receive_datagram(announce(1, name="other"), SENDER, 5)
    assert search.poll_choice(10**12) == []
    assert search.drops.stale == 1
    search.receive_datagram(announce(2), SENDER, 6)
    (found,) = search.poll_choice(6)
    assert found.session_id == 2
    assert found.sender_host == "10.0.0.1"
    assert found.control_address == ("10.0.0.1", 40000)


def test_without_a_name_the_only_session_is_taken_after_a_moment() -> None:
    search = Discovery(None, 0)
    search.receive_datagram(announce(1), SENDER, 100)
    assert search.poll_choice(99 + LISTEN_NS) == []
    assert search.next_timeout() <= 100 + LISTEN_NS
    assert [found.session_id for found in search.poll_choice(100 + LISTEN_NS)] == [1]


def test_several_sessions_are_for_a_person_to_choose_from() -> None:
    search = Discovery(None, 0)
    for session_id in (1, 2):
        search.receive_datagram(announce(session_id, name=f"s{session_id}"), SENDER, 100)
    assert len(search.poll_choice(100 + LISTEN_NS)) == 2


def test_it_solicits_once_a_second() -> None:
    search = Discovery("lab", 7)
    assert search.next_timeout() == 7
    datagram = search.poll_transmit(7)
    assert datagram == messages.encode(0, messages.Solicit("lab"))
    assert search.poll_transmit(8) is None
    assert search.poll_transmit(7 + SOLICIT_INTERVAL_NS) is not None


def test_a_session_that_ended_is_forgotten_and_time_does_not_stand_still() -> None:
    search = Discovery(None, 0)
    search.receive_datagram(announce(1), SENDER, 0)
    search.receive_datagram(messages.encode(1, messages.End(messages.EndReason.COMPLETE, "")), SENDER, 1)
    now = 2 * LISTEN_NS
    assert search.poll_choice(now) == []
    assert search.poll_transmit(now) is not None
    assert search.next_timeout() > now
    search.receive_datagram(announce(3), SENDER, now)
    assert [found.session_id for found in search.poll_choice(now + LISTEN_NS)] == [3]


def test_many_sessions_are_remembered_up_to_a_limit() -> None:
    search = Discovery(None, 0)
    for session_id in range(1, 2 * limits.SESSIONS_HEARD_MAX):
        search.receive_datagram(announce(session_id), SENDER, 0)
    assert len(search.found) == limits.SESSIONS_HEARD_MAX


@pytest.mark.parametrize("datagram", [b"", b"junk" * 9, messages.encode(1, messages.Solicit("lab")), announce()[:40]])
def test_what_is_no_announce_is_counted(datagram: bytes) -> None:
    search = Discovery("lab", 0)
    search.receive_datagram(datagram, SENDER, 0)
    assert search.drops.total() == 1
    assert search.found == {}
    assert dataclasses.asdict(search.drops)["session"] == 0


def test_a_stream_with_more_slices_than_are_allowed_is_malformed() -> None:
    search = Discovery("lab", 0)
    size = 64 * (limits.SLICE_COUNT_MAX + 1)
    search.receive_datagram(announce(symbol_size=64, source_symbols=1, stream_size=size), SENDER, 0)
    assert search.found == {}
    assert search.drops.malformed == 1
