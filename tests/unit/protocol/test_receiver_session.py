"""Goal: what a receiver does in each state, what ends it, and that DONE is said last and only in truth.

Method: the machine alone, by ``receiver_desk``. Whole sessions are in tests/simulation.
"""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from protocol import limits, messages
from protocol.messages import EndReason, SessionState
from protocol.receiver_events import AllWritten, Ended, ExtentReady, Identity, Outcome, ReceiverState, Welcomed
from protocol.receiver_session import ReceiverSession
from tests.unit.protocol.receiver_desk import CHUNKS, IMAGE, MANIFEST, MS, Desk, K, check_begun, manifest, ready_desk


def test_a_lossless_image_is_asked_nothing_and_done_is_said_after_the_flush() -> None:
    desk = ready_desk()
    desk.window(IMAGE, [0, 1, 2, 3, 4], list(range(K)))
    chunks = [event.extent for event in desk.events(ExtentReady) if isinstance(event, ExtentReady)]
    assert chunks == [0, 1, 2, 3, 4]
    for chunk in chunks:
        assert desk.session.state is ReceiverState.RECEIVING
        desk.session.extent_checked(IMAGE, chunk, good=True)
    assert desk.events() == [AllWritten()]
    desk.status()
    desk.pass_time(limits.SECOND_NS)
    assert desk.needs() == {}
    assert desk.session.reception.bytes_done == CHUNKS * 4096
    desk.status()
    assert desk.said(messages.Done) == []
    desk.session.flushed(desk.now)
    desk.pass_time(limits.SECOND_NS)
    dones = desk.said(messages.Done)
    assert len(dones) >= 3
    assert dones[0] == messages.Done(3, bytes(range(32)), CHUNKS * 4096, 0, 0)
    desk.tell(messages.Poll(0, 4, b"\x0f", 5))
    assert desk.session.state is ReceiverState.CONFIRMING
    desk.tell(messages.Poll(0, 4, b"\x07", 4))
    assert desk.session.state is ReceiverState.CONFIRMING, "said before the WELCOME: of an earlier start"
    desk.tell(messages.Poll(0, 4, b"\x07", 6))
    assert desk.session.outcome is Outcome.VERIFIED
    assert desk.session.next_timeout() is None


@pytest.mark.parametrize(
    ("receivers", "grtt_ms", "repeat_ms"), [(1, 10, 60), (400, 10, 60), (4000, 10, 420), (16, 150, 340)]
)
def test_a_done_is_said_again_as_soon_as_its_answer_must_have_come(
    receivers: int, grtt_ms: int, repeat_ms: int
) -> None:
    """Where one of a fleet's is lost, all that is left to wait for is that."""
    desk = ready_desk()
    desk.receivers, desk.grtt_us = receivers, 1000 * grtt_ms
    desk.window(IMAGE, [0, 1, 2, 3, 4], list(range(K)))
    for chunk in range(CHUNKS):
        desk.session.extent_checked(IMAGE, chunk, good=True)
    desk.status()
    desk.session.flushed(desk.now)
    said: list[int] = []
    while len(said) < 3:
        desk.pass_time(MS)
        said += [desk.now] * len(desk.said(messages.Done))
    assert said[1] - said[0] == pytest.approx(repeat_ms * MS, abs=2 * MS)
    assert said[2] - said[1] == pytest.approx(2 * repeat_ms * MS, abs=2 * MS)


def test_resume_asks_for_the_rest_only() -> None:
    desk = Desk()
    desk.read_manifest()
    desk.session.manifest_known(manifest(), np.array([False, True, False, False, True]), 3 * 4096)
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {1: K, 4: K}
    assert desk.session.reception.bytes_done == 3 * 4096


def test_nothing_wanted_is_written_at_once() -> None:
    desk = Desk()
    desk.welcome()
    desk.window(MANIFEST, [0], [0, 1])
    desk.events()
    desk.session.extent_checked(MANIFEST, 0, good=True)
    desk.session.manifest_known(manifest(), np.zeros(CHUNKS, np.bool_), CHUNKS * 4096)
    assert desk.events() == [AllWritten()]


def test_all_may_come_before_the_welcome() -> None:
    desk = Desk()
    desk.send_manifest()
    desk.window(IMAGE, list(range(CHUNKS)), list(range(K)))
    for event in desk.events(ExtentReady):
        assert isinstance(event, ExtentReady)
        desk.session.extent_checked(IMAGE, event.extent, good=True)
    assert desk.events() == []
    desk.welcome()
    assert desk.events() == [Welcomed(3), AllWritten()]


def test_a_damaged_chunk_is_wanted_whole_again_and_given_up_in_the_end() -> None:
    desk = ready_desk()
    desk.cursor = 1
    for attempt in range(limits.DAMAGED_CHUNK_RETRIES_MAX + 1):
        desk.window(IMAGE, [0], list(range(K)))
        assert desk.events(ExtentReady) == [ExtentReady(IMAGE, 0)]
        desk.session.extent_checked(IMAGE, 0, good=False)
        assert desk.session.reception.counters.chunks_damaged == attempt + 1
        if attempt < limits.DAMAGED_CHUNK_RETRIES_MAX:
            desk.status()
            desk.pass_time(10 * MS)
            assert desk.needs() == {0: K}
    assert desk.session.outcome is Outcome.FAILED
    fails = desk.said(messages.Fail)
    assert len(fails) == limits.FAIL_COPIES


@pytest.mark.parametrize("reason", list(EndReason))
def test_the_end_before_done_is_no_success(reason: EndReason) -> None:
    for prepare in (lambda desk: None, Desk.welcome, Desk.status):
        desk = Desk()
        prepare(desk)
        desk.tell(messages.End(reason, "text"))
        assert desk.session.outcome is Outcome.SENDER_GONE
        assert desk.events(Ended) == [Ended(Outcome.SENDER_GONE, desk.session.outcome_text)]
        desk.status()
        desk.pass_time(limits.SECOND_NS)
        assert desk.events() == []


def test_silence_ends_it() -> None:
    desk = Desk()
    desk.welcome()
    desk.pass_time(limits.SENDER_SILENCE_NS - MS)
    desk.tell(desk.session.found.announce)
    desk.pass_time(limits.SENDER_SILENCE_NS - MS)
    assert desk.session.outcome is None
    desk.pass_time(2 * MS)
    assert desk.session.outcome is Outcome.SENDER_GONE


def test_announcements_alone_keep_a_receiver_only_while_the_session_waits() -> None:
    desk = Desk()
    desk.welcome()
    waiting = desk.session.found.announce
    for _second in range(2 * limits.DATA_SILENCE_NS // limits.SECOND_NS):
        desk.pass_time(limits.SECOND_NS)
        desk.tell(waiting)
    assert desk.session.outcome is None
    begun = desk.now
    while desk.session.outcome is None:
        desk.pass_time(limits.SECOND_NS)
        desk.tell(msgspec.structs.replace(waiting, state=SessionState.SENDING))
    assert limits.DATA_SILENCE_NS <= desk.now - begun <= limits.DATA_SILENCE_NS + limits.SECOND_NS
    assert desk.session.outcome is Outcome.DEAF
    assert "data group 0.0.0.1" in desk.session.outcome_text
    assert len(desk.said(messages.Fail)) == limits.FAIL_COPIES


def test_a_slow_target_that_leaves_the_data_group_unread_is_not_deaf() -> None:
    desk = Desk()
    desk.welcome()
    sending = msgspec.structs.replace(desk.session.found.announce, state=SessionState.SENDING)
    for _second in range(2 * limits.DATA_SILENCE_NS // limits.SECOND_NS):
        desk.pass_time(limits.SECOND_NS)
        desk.tell(sending)
        desk.session.data_unread(desk.now)
    assert desk.session.outcome is None


def test_a_sender_that_is_started_again_takes_nobody_back_who_said_done() -> None:
    for confirming in (False, True):
        desk = ready_desk()
        if confirming:
            desk.session.chunks_found(np.arange(CHUNKS))
            desk.session.flushed(desk.now)
        desk.pass_time(limits.SENDER_REPLACED_NS - MS)
        desk.session.sender_replaced(desk.now)
        assert desk.session.outcome is None
        desk.pass_time(MS)
        desk.session.sender_replaced(desk.now)
        assert desk.session.outcome is (Outcome.VERIFIED if confirming else Outcome.SENDER_GONE)
        assert desk.session.sender_lost is not confirming


def test_a_flush_that_ends_after_the_session_says_nothing() -> None:
    desk = ready_desk()
    desk.session.chunks_found(np.arange(CHUNKS))
    desk.tell(messages.End(EndReason.INTERRUPTED, ""))
    desk.session.flushed(desk.now)
    assert desk.session.outcome is Outcome.SENDER_GONE
    assert desk.said(messages.Done) == []


def test_a_refusal_for_me_ends_it_and_for_another_does_not() -> None:
    desk = Desk()
    desk.tell(messages.Refuse(bytes(16), "not you"))
    assert desk.session.outcome is None
    desk.tell(messages.Refuse(bytes(range(16)), "too small"))
    assert desk.session.outcome is Outcome.REFUSED
    assert desk.session.outcome_text == "too small"


def test_who_is_welcome_does_not_heed_what_an_earlier_start_was_told() -> None:
    desk = ready_desk()
    desk.tell(messages.Refuse(bytes(range(16)), "too small"))
    assert desk.session.outcome is None
    assert desk.session.drops.stale == 1


def test_a_long_identity_still_joins() -> None:
    desk = Desk()
    identity = Identity(bytes(16), 1, "語" * 64, "/mnt/" + "語" * 400 + "\udcff", -1)
    session = ReceiverSession(desk.session.found, identity, pool_size=1 << 20, rng=random.Random(1), now=desk.now)
    session.handle_timeout(desk.now + limits.SECOND_NS)
    assert session.poll_transmit() is not None
    session.fail("語" * 1000)
    assert session.outcome is Outcome.FAILED


def test_nothing_is_asked_for_while_the_target_is_being_looked_through() -> None:
    desk = check_begun()
    desk.pass_time(limits.SECOND_NS)
    desk.status()
    desk.pass_time(limits.SECOND_NS)
    reports = desk.said(messages.Report)
    assert reports
    assert all(isinstance(report, messages.Report) and report.checking for report in reports)
    assert desk.session.chunks_found(np.array([0, 2])).tolist() == [0, 2]
    desk.session.check_ended(desk.now)
    desk.pass_time(10 * MS)
    assert desk.needs() == {1: K, 3: K, 4: K}
    assert desk.session.reception.bytes_done == 2 * 4096


def test_a_manifest_that_is_known_already_is_not_asked_for() -> None:
    desk = Desk()
    desk.session.manifest_known(manifest(), np.arange(CHUNKS) == 1, 4 * 4096)
    desk.welcome()
    desk.cursor, desk.manifest_sent = CHUNKS, True
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {1: K}
    desk.window(MANIFEST, [0], [0, 1])
    assert desk.events(ExtentReady) == []
