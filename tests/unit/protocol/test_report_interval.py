"""Goal: what a receiver lost is told apart by who lost it, whenever the gap that a drop made comes by.

Method: counters by hand, interval by interval.
"""

from __future__ import annotations

from protocol import limits
from protocol.report_interval import Measured, ReportInterval


class Counters:
    """What a receiver counts, and an interval that is closed once a second."""

    def __init__(self) -> None:
        self.now = self.expected = self.received = self.dropped = 0
        self.interval = ReportInterval(0)

    def close(self, sent: int, received: int, dropped: int = 0, *, waiting: bool = False) -> Measured:
        self.now += limits.SECOND_NS
        self.expected, self.received, self.dropped = (
            self.expected + sent,
            self.received + received,
            self.dropped + dropped,
        )
        return self.interval.close(self.now, self.expected, self.received, self.dropped, 0, 0, waiting=waiting)


def test_a_drop_is_the_hosts_loss_when_its_gap_comes_by_an_interval_later() -> None:
    counters = Counters()
    assert counters.close(1000, 1000, dropped=20).overrun_ppm == 0
    measured = counters.close(1000, 970)
    assert (measured.overrun_ppm, measured.loss_ppm) == (20_000, 10_000)


def test_a_drop_waits_for_its_gap_as_long_as_the_socket_is_not_empty() -> None:
    counters = Counters()
    counters.close(1000, 1000, dropped=20, waiting=True)
    for _interval in range(3):
        assert counters.close(100, 100, waiting=True).overrun_ppm == 0
    assert counters.close(1000, 980).overrun_ppm == 20_000


def test_drops_that_were_made_up_for_by_what_had_waited_hide_no_loss_later() -> None:
    counters = Counters()
    counters.close(1000, 0, dropped=500, waiting=True)  # STATUS told of a thousand: half wait, and half were dropped
    assert counters.close(300, 500, dropped=300, waiting=True).overrun_ppm == 0
    counters.close(1000, 990)
    counters.close(1000, 990)
    measured = counters.close(1000, 990)
    assert (measured.overrun_ppm, measured.loss_ppm) == (0, 10_000)


def test_a_gap_that_comes_by_after_the_socket_was_read_out_is_still_the_hosts() -> None:
    """What lay in front of it was read first, and the sender was slow: nothing newer had come when that was told."""
    counters = Counters()
    counters.close(1000, 1000, dropped=500, waiting=True)
    counters.close(200, 200)
    measured = counters.close(510, 10)
    assert (measured.overrun_ppm, measured.loss_ppm) == (980_392, 0)
