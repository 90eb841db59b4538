"""What a sender tells everybody, and when: ANNOUNCE, STATUS, FEEDBACK_ADVICE, POLL, and END a few times at the end.

Knows intervals, gaps and what was said last. It hears no message and decides nothing about the session, of which it is
told where it stands when something is to be said.

Invariant: many causes that come together make one datagram, after the gap of its kind.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from protocol import feedback, limits, messages
from protocol.fleet import Fleet, PeerState
from protocol.messages import SessionState
from protocol.sample import SAME_SHARE
from protocol.schedule import Schedule
from protocol.sender_events import Destination, Outbox, SessionParameters
from protocol.sender_feedback import SenderFeedback


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """Where a session stands at the moment it speaks."""

    state: SessionState
    sequence: int
    pass_count: int
    rate_bytes_per_s: float
    report_interval_ns: int


class SenderNotices:
    """See the module's docstring."""

    def __init__(
        self,
        parameters: SessionParameters,
        fleet: Fleet,
        schedules: dict[int, Schedule],
        measures: SenderFeedback,
        outbox: Outbox,
        now: int,
    ) -> None:
        """Begin to announce; what is spoken of is only read."""
        self.announce_ns = now
        self.status_ns: int | None = None
        self.status_interval_ns = limits.STATUS_INTERVAL_NS
        """From the next STATUS to the one after it; doubles, up to what it begins with."""
        self.advice_ns: int | None = None
        self.poll_ns: int | None = None
        self.poll_number = 0
        self.end_ns: int | None = None
        """When END is due once more; None before the end and after the last word."""
        self._parameters = parameters
        self._fleet = fleet
        self._schedules = schedules
        self._measures = measures
        self._outbox = outbox
        self._announced_ns = now - limits.ANNOUNCE_INTERVAL_NS
        self._announce_interval_ns = limits.ANNOUNCE_FIRST_NS
        self._join_spread_ns = max(
            limits.JOIN_SPREAD_UNKNOWN_NS * (parameters.start.receivers == 0),
            feedback.join_spread_ns(parameters.start.receivers),
        )
        self._join_count = 0
        """JOINs of receivers that were not known, since ``_join_count_ns``."""
        self._join_count_ns = now
        self._advised_ns = now
        self._advised: messages.FeedbackAdvice | None = None
        """What was last said of how to speak."""
        self._ends_left = 0

    def next_timeout(self) -> int:
        """Return when the first of all but END is due."""
        others = self.status_ns, self.advice_ns, self.poll_ns
        return min([self.announce_ns, *(when for when in others if when is not None)])

    def announce(self, standing: Standing, now: int) -> None:
        """Say what is sent, how it is cut, and how to join."""
        p = self._parameters
        message = messages.Announce(
            name=p.name,
            image_id=p.image_id,
            image_name=p.image_name,
            manifest_digest=p.manifest_digest,
            manifest_size=p.manifest_size,
            stream_size=p.stream_size,
            raw_size=p.raw_size,
            symbol_size=p.symbol_size,
            source_symbols=p.source_symbols,
            window_slices=max(p.window_slices, p.window_slices_max),
            group=p.group,
            port=p.port,
            control_port=p.control_port,
            receivers_expected=p.start.receivers,
            state=standing.state,
            join_spread_ms=self._join_spread_ns // limits.MILLISECOND_NS,
            report_interval_ms=standing.report_interval_ns // limits.MILLISECOND_NS,
        )
        self._outbox.say(Destination.DISCOVERY, message)
        self._announced_ns = now
        self.announce_ns = now + self._announce_interval_ns
        self._announce_interval_ns = min(2 * self._announce_interval_ns, limits.ANNOUNCE_INTERVAL_NS)

    def announce_soon(self, now: int) -> None:
        """A fleet that boots at once solicits at once: one answer serves all that ask within the gap."""
        self.announce_ns = min(self.announce_ns, max(now, self._announced_ns + limits.SOLICITED_GAP_NS))

    def count_join(self, *, late: bool, now: int) -> None:
        """Have those who are still to join take their time, where more come than was said or than can be heard."""
        if now - self._join_count_ns > limits.SECOND_NS:
            self._join_count, self._join_count_ns = 0, now
        self._join_count += 1
        shortest_ns = limits.JOIN_COUNT_LATE_MIN_NS if late else limits.JOIN_COUNT_MIN_NS
        elapsed_ns = max(now - self._join_count_ns, shortest_ns)
        if self._join_count * limits.SECOND_NS > limits.JOIN_PER_S * elapsed_ns * 5 // 4:
            wider = min(max(2 * self._join_spread_ns, 2 * limits.SECOND_NS), limits.JOIN_SPREAD_MAX_NS)
            self._join_spread_ns = wider
            self._join_count, self._join_count_ns = 0, now
            self.announce_ns = now

    def say_status(self, standing: Standing, now: int) -> None:
        """Say where the session stands, in line with the data, and how to speak."""
        message = messages.Status(
            sequence=standing.sequence,
            state=standing.state,
            cursor=self._schedules[limits.OBJECT_IMAGE].first_pass_cursor,
            manifest_sent=not self._schedules[limits.OBJECT_MANIFEST].pending,
            pass_index=standing.pass_count,
        )
        self._outbox.say(Destination.DATA, message)
        self.advise(standing, now)
        self.status_ns = now + self.status_interval_ns
        self.status_interval_ns = min(2 * self.status_interval_ns, limits.STATUS_INTERVAL_NS)

    def status_soon(self, now: int) -> None:
        """Say where the session stands to one who has just come; many that come together hear it together."""
        due_ns = max(now, self._advised_ns + limits.FEEDBACK_ADVICE_GAP_NS)
        self.status_ns = due_ns if self.status_ns is None else min(self.status_ns, due_ns)

    def advise(self, standing: Standing, now: int) -> None:
        """Say how to speak: not behind the data, or a whole fleet speaks before it hears that one did."""
        self.advice_ns = None
        self._advised_ns = now
        self._advised = messages.FeedbackAdvice(
            grtt_us=self._measures.grtt_ns // limits.MICROSECOND_NS,
            receivers=self._fleet.live_count,
            feedback_scale=self._measures.feedback_scale,
            report_interval_ms=standing.report_interval_ns // limits.MILLISECOND_NS,
            rate=int(standing.rate_bytes_per_s),
            tolerated_ppm=int(self._measures.tolerated * 1e6),
            report_below=int(self._measures.report_below(now)),
            since=self._measures.lowered_sequence,
        )
        self._outbox.say(Destination.GROUP, self._advised)

    def advise_if_news(self, report_interval_ns: int, now: int) -> None:
        """Say it before its time if more have come, somebody told a lower limit, or words take longer than was said:
        others would speak meanwhile.
        """
        advised = self._advised
        if advised is None:
            return
        more = report_interval_ns * SAME_SHARE > advised.report_interval_ms * limits.MILLISECOND_NS
        longer = self._measures.grtt_ns * SAME_SHARE > advised.grtt_us * limits.MICROSECOND_NS
        if more or longer or self._measures.report_below(now) < SAME_SHARE * advised.report_below:
            self.advice_ns = self._advised_ns + limits.FEEDBACK_ADVICE_GAP_NS

    def poll_soon(self, now: int) -> None:
        """Have a DONE acknowledged; several share one POLL."""
        # Of those that are left, as receivers are told: they repeat what was not acknowledged by then.
        soon = now + feedback.poll_delay_ns(self._fleet.live_count)
        self.poll_ns = soon if self.poll_ns is None else min(self.poll_ns, soon)

    def poll(self) -> None:
        """Acknowledge DONEs: a cleared bit says that the sender knows."""
        for first in range(0, len(self._fleet), limits.POLL_RECEIVERS_MAX):
            part = self._fleet.peers[first : first + limits.POLL_RECEIVERS_MAX]
            wanted = np.packbits([peer.state is not PeerState.VERIFIED for peer in part], bitorder="little")
            self._outbox.say(Destination.GROUP, messages.Poll(first, len(part), wanted.tobytes(), self.poll_number))
        self.poll_number = (self.poll_number + 1) & 0xFFFFFFFF
        self.poll_ns = None

    def begin_end(self, now: int) -> None:
        """Have END said, now and a few times more: nobody acknowledges it."""
        self._ends_left = limits.END_REPEAT_COUNT
        self.end_ns = now

    def repeat_end(self, message: messages.End, now: int) -> None:
        """Say END, if it is due, behind the data and to those who are still to join."""
        if self.end_ns is not None and now >= self.end_ns:
            self._outbox.say(Destination.DATA, message)
            self._outbox.say(Destination.DISCOVERY, message)
            self._ends_left -= 1
            self.end_ns = now + limits.END_REPEAT_NS if self._ends_left else None
