"""Goal: the next window is planned when what is planned takes no more than a fifth of a second to leave.

Method: a line that a simulated clock empties at a rate of its own, and the session that asks for its next turn.
"""

from __future__ import annotations

import pytest

from protocol import limits
from protocol.lookahead import LOOKAHEAD_NS, Lookahead
from tests.unit.protocol.sender_desk import Desk, K

MS = limits.MILLISECOND_NS
WINDOW = 4256


class Line:
    """A sender that plans windows of ``WINDOW`` datagrams, at most ``places`` at a time, of which some leave."""

    def __init__(self, places: int = 3) -> None:
        self.lookahead, self.places = Lookahead(), places
        self.sequence = self.now = self.longest = 0
        self.sent = 0.0

    def run(self, ms: int, per_s: float) -> None:
        for _step in range(ms):
            self.now += MS
            self.sent = min(self.sent + per_s / 1000, self.sequence)
            planned = self.sequence - int(self.sent)
            while planned <= (self.places - 1) * WINDOW and not self.wait_ns():
                self.sequence, planned = self.sequence + WINDOW, planned + WINDOW
            self.longest = max(self.longest, planned)

    def wait_ns(self) -> int:
        return self.lookahead.wait_ns(self.sequence, int(self.sent), self.now)


@pytest.mark.parametrize("per_s", [2_000, 17_000, 100_000, 1_000_000])
def test_what_is_planned_takes_little_more_than_a_window_and_the_lookahead_and_never_ends(per_s: int) -> None:
    line = Line()
    line.run(1000 + 3 * WINDOW * 1000 // per_s, per_s)  # what was planned before anything was known has left
    line.longest = 0
    before = line.sent
    line.run(2000, per_s)
    assert line.sent - before == pytest.approx(min(2 * per_s, 2000 * 2 * WINDOW), rel=0.01)
    assert line.longest <= min(per_s * LOOKAHEAD_NS / limits.SECOND_NS + WINDOW + 1, 3 * WINDOW)


def test_before_anything_has_left_everything_may_be_planned() -> None:
    line = Line()
    line.run(500, 0)
    assert line.sequence == 3 * WINDOW


def test_a_line_that_becomes_quicker_is_filled_again() -> None:
    line = Line()
    line.run(3000, 5_000)
    before = line.sent
    line.run(1000, 200_000)
    assert line.sent - before > 0.95 * 200_000


def test_a_line_that_was_empty_does_not_pass_for_a_slow_one() -> None:
    line = Line()
    line.run(1000, 100_000)
    quick = line.longest
    line.sent = line.sequence  # nothing to send for a while
    for _turn in range(50):
        line.now += 20 * MS
        line.wait_ns()
    line.longest = 0
    line.run(300, 100_000)
    assert line.longest == quick


def test_a_line_that_stands_still_is_asked_about_seldom() -> None:
    line = Line()
    line.run(1000, 17_000)
    wait_ns = line.wait_ns()
    assert wait_ns >= 5 * MS
    line.now += limits.SECOND_NS
    assert line.wait_ns() == wait_ns, "nothing has left"


def test_a_session_says_when_to_ask_for_the_next_window() -> None:
    """One that leaves and one that is ready, of four slices each, a quarter of a second each."""
    desk = Desk()
    desk.sends_at_once = False
    desk.join()
    session, window, step_ns = desk.session, 4 * K, 250 * MS // (4 * K)
    lefts = []
    for _datagram in range(1000):
        desk.now += step_ns
        session.sent_below = min(session.sequence, session.sent_below + 1)
        due = session.next_timeout()
        if due is not None and due <= desk.now:
            session.handle_timeout(desk.now)
        left = session.sequence - session.sent_below
        if left > window:
            continue
        if session.poll_window(desk.now) is not None:
            lefts.append(left)
        elif left and session.remaining_symbols:
            due = session.next_timeout()
            assert due is not None
            assert desk.now < due <= desk.now + left * step_ns
    assert session.remaining_symbols == 0
    assert lefts[:4] == [0, 1, window, window], "the manifest and three windows, while nothing is known"
    assert len(lefts) == 6
    assert all(LOOKAHEAD_NS / 2 < left * step_ns <= LOOKAHEAD_NS for left in lefts[4:])
