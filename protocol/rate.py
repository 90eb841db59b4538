"""How fast to send: follow the slowest receiver's measured capacity, and do not mistake a noisy link for a full one.

Loss has two causes that want opposite answers. A full queue wants a lower rate; a noisy link wants more repair symbols
at the same rate. They are told apart by experiment: after a cut to what the worst receiver demonstrably got, loss from
a full queue ends, loss from noise stays. What stays is remembered as background, and only loss above it counts from
then on. One interval of loss is never believed: with thousands of receivers somebody always has a microburst
(research §3.5: without that rule 0.005 % of microbursts collapse 10 Gbit/s to the floor).
"""

from __future__ import annotations

import dataclasses
import enum
import math

from protocol import limits
from protocol.sample import CUT_MARGIN, LOSS_HIGH, POOL_FILL_HIGH, SAME_SHARE, TELLING_LOST, Sample

LOSS_LOW = 0.002
"""Loss above the background below which the rate may grow (research §3.3, p_lo)."""

STARTUP_FACTOR = 1.5
"""Growth per step until the first cut."""

GROWTH_SHARE = 0.03
"""Growth of a step near the last limit, as a share of the rate; beyond ``NEAR_SHARE`` of that limit every further step
without trouble grows half as much again, up to ``GROWTH_SHARE_MAX``: careful near the rate that was too high, quick
when the cause is gone."""

NEAR_SHARE = 1.08

GROWTH_SHARE_MAX = 0.5

USED_SHARE = 0.75
"""The rate grows only while so much of it is really sent: a sender at its own limit learns nothing from going on."""

FLOODED_LOSS = 0.3
"""Lasting loss in the network that is a flood, not an excess: the rate goes to what gets through in one step, where
else it is halved at most. Halving took a session that began at 6 Gbit/s on a port of 800 Mbit/s a second, and all that
was lost meanwhile had to be sent again."""

TELLING_DEVIATIONS = 3.0
"""Standard deviations of chance (Poisson) by which more must be lost than is tolerated: for a cut, once there was one,
and to keep the rate from growing."""

ARRIVED_SHARE_MIN = 0.5
"""What arrived in a second at a receiver that is flooded at the start is believed down to this share of what its loss
tells: one that has no time to read has little to say."""

POOL_FILL_LOW = 0.1
"""Fill below which the rate may grow: above it, a receiver is already slower than the sender."""

BACKGROUND_SHARE = 0.6
"""Loss that keeps more than this share of itself after a cut was not caused by the rate."""

FLOOD_SHARE = 0.85
"""As ``BACKGROUND_SHARE``, for loss above ``FLOODED_LOSS``: so much noise is rare, and its share is known well."""

STEADY_SHARE = 0.8
"""Loss above ``FLOODED_LOSS`` is compared with what is lost after a cut only if the sample before it said so much of it
too: where a flood begins, a sample is half of a time before it."""

ROSE_SHARE, ROSE_BY = 1.5, 0.1
"""Loss that is so many times as much after a cut as before it, or so much more, is no noise, which would have stayed
the same: a queue was still filling when the loss was measured first."""

DOUBTFUL_SHARE = 0.02
"""Receivers that ask for a lower rate and cannot be believed yet keep it from growing only if they are more than this
share of those that spoke: among two thousand, somebody always has a microburst."""

PATIENCE = 3
"""Control intervals in a row in which the rate neither grew nor fell, for a loss that might be the first of a flood, or
is too little to be cut for: by then, a flood would have shown, and a link's own loss goes on for ever."""

BACKGROUND_SLACK = 1.3
"""How far above the background loss must rise before it counts: samples of one interval scatter."""

ANSWER_DATAGRAMS = 1000
"""Datagrams at the present rate that everybody has told of before a search goes on sooner than after an interval: a
loss of a percent shows in them."""

SUSPECT_INTERVALS = 5
"""Control intervals for which, after a flood, those that told it are waited for."""

SAMPLE_INTERVALS = 3
"""Control intervals for which a sample counts."""

TOLD_NS = SAMPLE_INTERVALS * limits.CONTROL_INTERVAL_MAX_NS
"""For how long a capacity that was told keeps others from telling theirs."""


@dataclasses.dataclass(slots=True)
class _Track:
    """The last two samples of one receiver since the rate was last cut, and when the last one came."""

    latest: Sample
    at_ns: int
    previous: Sample | None = None
    lost: float = 0.0
    """Datagrams lost, wherever, in the samples that asked for a lower rate one after another, up to the latest."""
    datagrams: int = 0
    """Datagrams that those samples speak of."""

    @property
    def arrival_rate(self) -> float:
        """The higher rate of the two: in the other, the sender may have paused."""
        earlier = 0.0 if self.previous is None else self.previous.arrival_rate
        return max(self.latest.arrival_rate, earlier)

    def telling(self, tolerated: float) -> bool:
        """Whether more was lost than is tolerated, and that by more than chance.

        Where hardly anything is sent, at the end of a session for one, three datagrams of twenty are lost easily.
        """
        return _telling(self.lost, self.datagrams, tolerated)

    def doubtful(self, tolerated: float) -> bool:
        """Whether more was lost than chance makes of what is tolerated; hosts have no noise that would be."""
        overrun = self.latest.overrun * self.latest.datagrams
        return self.telling(tolerated) or _telling(overrun, self.latest.datagrams, LOSS_HIGH)

    def lasting(self, tolerated: float) -> bool:
        """Whether more than is tolerated was lost in the network in both samples, and that by more than chance."""
        samples = [self.latest] if self.previous is None else [self.latest, self.previous]
        lost = sum(sample.loss * sample.datagrams for sample in samples)
        return self.lasting_loss > tolerated and _telling(lost, sum(s.datagrams for s in samples), tolerated)

    @property
    def lasting_loss(self) -> float:
        """The lower loss of the two: a microburst is over in one."""
        return self.latest.loss if self.previous is None else min(self.latest.loss, self.previous.loss)


@dataclasses.dataclass(slots=True)
class _Experiment:
    """A cut whose effect on loss is being watched."""

    rate_before: float
    """What to return to if it was noise."""
    limit_before: float
    """The last limit that was met before it, for the same."""
    rate_cut: float
    """The rate at which ``loss_before`` was measured."""
    loss_before: float
    steady: bool
    """Whether ``loss_before`` is known well enough to be compared with."""
    suspects: frozenset[int]
    """Who was flooded, if it was a flood: one of them has to speak first."""
    until_ns: int
    """How long they are waited for."""


def _telling(lost: float, datagrams: int, tolerated: float) -> bool:
    """Return whether so many of so many are more than chance makes of what is tolerated."""
    return lost - tolerated * datagrams > TELLING_DEVIATIONS * math.sqrt(lost)


def _new_count(tracks: dict[int, _Track]) -> int:
    """Return how many have spoken once only."""
    return sum(track.previous is None for track in tracks.values())


def _left_out(doubtful: int, count: int) -> int:
    """Return of how many, of those that are doubtful, a fleet of ``count`` takes no heed: of a large one, a few."""
    return min(doubtful, int(DOUBTFUL_SHARE * count))


def _worst(losses: list[float], doubtful: int) -> float:
    """Return the largest loss, as many left out as are doubtful, of a large fleet: somebody always has a microburst."""
    return sorted(losses)[-1 - _left_out(doubtful, len(losses))]


class _Finding(enum.Enum):
    """What an experiment shows."""

    OPEN = enum.auto()
    """Nothing yet: those that were flooded have not spoken."""
    FULL = enum.auto()
    """The loss ended: a queue was full."""
    NOISE = enum.auto()
    """The loss is still there: it is the link's own."""
    FILLING = enum.auto()
    """There is more of it: a queue was only filling when it was measured first."""
    INCOMPARABLE = enum.auto()
    """There is as much, but what it was before is not known well enough."""


# DEVIATES RFC 5740 §5.5.2: no TFMCC (RFC 4654). The stream may take the whole of a switch port, which an equation made
# for sharing it with TCP would not, and a minimum over thousands of receivers needs the persistence rule.
class RateControl:
    """Paces one stream. ``rate`` is bytes per second on the wire, IP payload included."""

    def __init__(self, *, start: float, ceiling: float, floor: float = limits.RATE_FLOOR_BYTES_PER_S) -> None:
        self.ceiling = ceiling
        self.floor = min(floor, ceiling)
        self.rate = min(max(start, self.floor), ceiling)
        self.background = 0.0
        """Loss that no cut removed: the link's own."""
        self._startup = True
        self._stayed = 0
        """Steps of this search that left the rate as it was."""
        self._growth_share = GROWTH_SHARE
        self._waited = 0
        """Control intervals in a row in which loss kept the rate as it is."""
        self._waited_ns = -1
        """When the last of them was counted."""
        self._patient = True
        """Whether that was never for long in this search."""
        self._probed: float | None = None
        """The loss in spite of which the rate grew last, by a small step, to see what becomes of it."""
        self._last_limit = 0.0
        self._full: dict[int, float] = {}
        """Receivers whose queues were full, and the most that each got done since, as it was emptied too: their
        capacities, to return to afterwards."""
        self._full_rate = 0.0
        """The rate before the first of them was: what else is on the way carried no more, for all that is known."""
        self._hold_until_ns = 0
        self._tracks: dict[int, _Track] = {}
        self._doubtful_count = 0
        self._changed_ns = -1
        """When the rate was last changed: what was reported until then speaks of another rate."""
        self.limiting: frozenset[int] = frozenset()
        """Receivers that in the last step asked for a lower rate, believably, or whose pools kept it from growing."""
        self._told = math.inf
        """The lowest capacity heard lately, believed or not."""
        self._told_until_ns = 0
        self.flood_count = 0
        """How often the rate was cut for a flood: what was lost before says nothing of what is lost afterwards."""
        self._experiment: _Experiment | None = None

    def drained(self, receiver_index: int, rate: float) -> None:
        """Take in how many bytes per second a receiver got done, whatever else its report is good for."""
        if receiver_index in self._full:
            # A disk that stood still goes on: what it did meanwhile said nothing of it.
            self._full[receiver_index] = max(self._full[receiver_index], rate)

    def observe(self, receiver_index: int, sample: Sample, now: int) -> None:
        """Take a report into account; one that still describes the time before the last change tells of drain alone."""
        self.drained(receiver_index, sample.drain_rate)
        if now < self._hold_until_ns:
            return
        carried = self._capacity(sample)
        self._hear(carried, now)
        before = self._tracks.get(receiver_index)
        track = _Track(sample, now, None if before is None else before.latest)
        if carried < self.rate:
            track.lost, track.datagrams = (sample.loss + sample.overrun) * sample.datagrams, sample.datagrams
            if before is not None:
                track.lost, track.datagrams = track.lost + before.lost, track.datagrams + before.datagrams
        self._tracks[receiver_index] = track

    def _hear(self, carried: float, now: int) -> None:
        lowest = self.told(now)
        if carried < self.rate and carried <= lowest / SAME_SHARE:
            self._told = min(carried, lowest)
            self._told_until_ns = now + TOLD_NS

    def told(self, now: int) -> float:
        """Return the lowest capacity that anybody told lately, infinite where nobody did: who carries about as much has
        nothing to add.
        """
        return self._told if now < self._told_until_ns else math.inf

    def forget(self, receiver_index: int) -> None:
        """Drop a receiver that left."""
        self._tracks.pop(receiver_index, None)
        self._full.pop(receiver_index, None)

    def flooded(self) -> bool:
        """Whether so much is lost that the next step cannot wait for the end of its interval."""
        fresh = {index: track for index, track in self._tracks.items() if track.at_ns > self._changed_ns}
        return bool(fresh) and self._flood(fresh) > max(FLOODED_LOSS, self.tolerated)

    @property
    def climbing(self) -> bool:
        """Whether the rate is being searched for, and no more than two steps left it as it was."""
        return self._startup and self._stayed < PATIENCE

    def answered(self, receivers: int) -> bool:
        """Whether the rate climbs, and all of so many have told that they keep up with what it is."""
        return self.climbing and len(self._tracks) >= receivers and all(map(self._keeps_up, self._tracks.values()))

    def _keeps_up(self, track: _Track) -> bool:
        told, before = track.latest, track.previous
        heard = track.at_ns > self._changed_ns and told.current and told.datagrams >= ANSWER_DATAGRAMS
        # In so short a time, that a pool fills says more than how full it is.
        filling = told.pool_fill - (0.0 if before is None else before.pool_fill)
        room = told.pool_fill + max(0.0, filling) < POOL_FILL_LOW
        return heard and max(told.loss, told.overrun) <= LOSS_LOW and room

    def flood_open(self, now: int) -> bool:
        """Whether the rate was cut for a flood, and it is still waited for what became of that."""
        experiment = self._experiment
        return experiment is not None and experiment.loss_before > FLOODED_LOSS and now < experiment.until_ns

    def step(self, now: int, *, interval_ns: int, measured_rate: float) -> None:
        """Decide once per control interval, sooner where a rate that climbs was answered.

        Args:
            now: instant in ns.
            interval_ns: the control interval; after a cut two of them pass before anything is believed again.
            measured_rate: bytes per second that really went out; the rate grows only while it is used.
        """
        self.limiting = frozenset()
        if now < self._hold_until_ns:
            return
        # What a receiver said some intervals ago is no news, and in a large fleet not everybody speaks in each.
        self._tracks = {
            index: track for index, track in self._tracks.items() if now - track.at_ns <= SAMPLE_INTERVALS * interval_ns
        }
        fresh = {index: track for index, track in self._tracks.items() if track.at_ns > self._changed_ns}
        if not fresh:
            return
        limit, loss, believed = self._limit(fresh)
        rate_before = present = self.rate
        limit_before = self._last_limit
        if self._experiment is not None:
            before = self._experiment
            told = {index: track for index, track in fresh.items() if track.latest.current}
            finding = self._judge(before, told, now)
            if finding is _Finding.OPEN:
                return
            self._experiment = None
            if finding is _Finding.NOISE:
                # What a receiver with a full pool seems to lose may lie in its socket.
                known = [track.latest.loss for track in told.values() if not track.latest.waits]
                self.background = max(self.background, max(known, default=before.loss_before))
                if not any(track.latest.waits for track in fresh.values()):
                    self.rate, self._last_limit = min(before.rate_before, self.ceiling), before.limit_before
                    if not self._last_limit:
                        self._growth_share = GROWTH_SHARE_MAX  # no limit was ever met: the search goes on
                    self._changed(now, interval_ns)
                    return
                # The loss is no reason to stay, but a full queue is one to go on.
                limit, loss, believed = self._limit(fresh)
            believed |= finding in (_Finding.FILLING, _Finding.INCOMPARABLE)
            if finding in (_Finding.NOISE, _Finding.INCOMPARABLE):
                rate_before, limit_before = before.rate_before, before.limit_before
        if limit >= self.rate or (not believed and self._doubtful_count <= DOUBTFUL_SHARE * len(fresh)):
            self._grow(fresh, measured_rate, interval_ns, now)
        elif believed:
            self._cut(fresh, limit, loss, rate_before, limit_before, interval_ns, now)
        else:
            self._wait(interval_ns, now)
        self._stayed += self.rate <= present

    def _wait(self, interval_ns: int, now: int) -> None:
        """Stay, because of a loss of which nothing is known yet."""
        if now - self._waited_ns >= interval_ns:
            self._waited, self._waited_ns = self._waited + 1, now
            self._patient &= self._waited < PATIENCE

    def _judge(self, before: _Experiment, told: dict[int, _Track], now: int) -> _Finding:
        """Return what is known by the worst loss after a cut, as ``told`` of the time after it alone.

        Only one interval is needed here: the question is whether the same loss is still there. A link that was far too
        full is still too full after one cut, but loses less, and how much less is known exactly.
        """
        flood_before = before.loss_before > FLOODED_LOSS
        unheard = not told or (before.suspects and before.suspects.isdisjoint(told))
        if unheard and now < before.until_ns and not (told and self._flood(told) > FLOODED_LOSS):
            return _Finding.OPEN
        # Whoever still loses that much would have spoken by now, out of turn if need be.
        loss = max((track.latest.loss for track in told.values()), default=0.0)
        still_full = max(0.0, 1.0 - (1.0 - before.loss_before) * before.rate_cut / self.rate)
        noise = max(BACKGROUND_SHARE * before.loss_before, (still_full + before.loss_before) / 2)
        if flood_before:
            noise = max(noise, FLOOD_SHARE * before.loss_before)
        if loss > min(ROSE_SHARE * before.loss_before, before.loss_before + ROSE_BY):
            return _Finding.FILLING
        if loss <= noise:
            return _Finding.FULL
        if not before.steady or (loss > FLOODED_LOSS and not flood_before):
            return _Finding.INCOMPARABLE
        return _Finding.NOISE

    def _cut(
        self,
        fresh: dict[int, _Track],
        limit: float,
        loss: float,
        rate_before: float,
        limit_before: float,
        interval_ns: int,
        now: int,
    ) -> None:
        """Go down to what the slowest receiver carries, and watch what becomes of the loss."""
        self._growth_share = GROWTH_SHARE
        if loss > self.tolerated:
            suspects = frozenset(index for index, track in fresh.items() if track.latest.loss > FLOODED_LOSS)
            steady, until_ns = self._steady(fresh, loss), now + SUSPECT_INTERVALS * interval_ns
            self._experiment = _Experiment(rate_before, limit_before, self.rate, loss, steady, suspects, until_ns)
        full = {i: track.latest.drain_rate for i, track in fresh.items() if track.latest.pool_fill > POOL_FILL_HIGH}
        if not self._full:
            self._full_rate = rate_before
        elif not full:
            self._full.clear()  # it is something else by now
        self._full.update({index: max(rate, self._full.get(index, 0.0)) for index, rate in full.items()})
        lowest = self.rate / 2
        flood = self._flood(fresh)
        if flood > FLOODED_LOSS:
            self.flood_count += 1
            limit = CUT_MARGIN * self._passed(fresh, flood)
            lowest = min(lowest, limit)
        self.rate = max(self.floor, limit, lowest)
        self._last_limit = self.rate / CUT_MARGIN
        # A little loss at the start may be the beginning of a flood, which must not go on unheard; and after a flood,
        # nobody is heard who still speaks of the time before the cut (``SenderFeedback``).
        intervals = 0 if flood > FLOODED_LOSS else 1 if self._startup else 2
        self._startup = False
        self._changed(now, max(1, intervals * interval_ns))

    def _passed(self, fresh: dict[int, _Track], flood: float) -> float:
        """Return the bytes per second that got through a flood."""
        passed = self.rate * (1 - flood)
        if not self._startup:
            return passed
        # The first data is a burst: what arrived in a second then says more than its share.
        arrived = min(
            track.arrival_rate for track in fresh.values() if track.latest.loss >= flood and not track.latest.waits
        )
        return min(passed, max(arrived, passed * ARRIVED_SHARE_MIN))

    def _grow(self, fresh: dict[int, _Track], measured_rate: float, interval_ns: int, now: int) -> None:
        """Go up, if nobody loses anything or is about full, and the rate is used."""
        if measured_rate <= USED_SHARE * self.rate or any(
            track.latest.pool_fill >= POOL_FILL_LOW for track in fresh.values()
        ):
            self._waited = 0
            return
        if self._losing(fresh) and not self._learn(fresh):
            if self._probed is None and self._waited >= PATIENCE and self.rate * (1 + GROWTH_SHARE) <= self.ceiling:
                self.rate *= 1 + GROWTH_SHARE
                self._changed(now, 0)
                self._probed = self._latest_loss(fresh)
            else:
                self._wait(interval_ns, now)
            return
        grown = self.rate * (STARTUP_FACTOR if self._startup else 1 + self._growth_share)
        if grown > NEAR_SHARE * self._last_limit:
            self._growth_share = min(1.5 * self._growth_share, GROWTH_SHARE_MAX)
        if self._full:
            grown = max(grown, CUT_MARGIN * min(self._full_rate, *self._full.values()))
            self._full.clear()
        if grown > self.ceiling:
            grown = self.ceiling
            self._startup = False
        self.rate = grown
        self._changed(now, 0)

    def _losing(self, fresh: dict[int, _Track]) -> bool:
        """Whether somebody loses more than may be lost while the rate grows."""
        tolerated = self.background * BACKGROUND_SLACK + LOSS_LOW
        losing = sum(
            track.lasting_loss > tolerated if self._innocent else track.lasting(tolerated) for track in fresh.values()
        )
        return losing > _left_out(_new_count(fresh), len(fresh))

    def _learn(self, fresh: dict[int, _Track]) -> bool:
        """Whether a small step just showed that what is lost is the link's own; if so, that is remembered.

        A full link loses all that is sent more. More than ``LOSS_HIGH`` is for an experiment to find.
        """
        told = {index: track for index, track in fresh.items() if track.latest.current}
        if self._probed is None or not told:
            return False
        probed, self._probed = self._probed, None
        loss = self._latest_loss(told)
        if loss > min(BACKGROUND_SLACK * probed, LOSS_HIGH):
            return False
        self.background = max(self.background, self._lasting_loss(told))
        return True

    def _changed(self, now: int, hold_ns: int) -> None:
        self._waited, self._probed = 0, None
        self._hold_until_ns = now + hold_ns
        self._changed_ns = now
        if hold_ns:
            # Until those who spoke can be heard again, they still speak for the others.
            if self._told_until_ns > now:
                self._told_until_ns = now + hold_ns + TOLD_NS
            self._tracks.clear()

    def restart(self, rate: float) -> None:
        """The receivers that decide are others now: begin anew from another rate, with steps as large, not as soon."""
        self.rate = min(max(rate, self.floor), self.ceiling)
        self._startup, self._experiment = True, None
        self._patient, self._waited, self._probed = True, 0, None
        self._stayed = PATIENCE  # reports of the time before come, which speak of another rate
        self._full.clear()
        self._hold_until_ns = self._told_until_ns = 0
        self._tracks.clear()

    @property
    def _innocent(self) -> bool:
        """Whether neither a limit nor noise was met yet: a single lost datagram may be the first of a flood."""
        return self._startup and self._patient and not self.background

    @property
    def tolerated(self) -> float:
        """Loss up to which no receiver asks for a lower rate, in [0, 1]."""
        return self.background * BACKGROUND_SLACK + LOSS_HIGH

    def _limit(self, tracks: dict[int, _Track]) -> tuple[float, float, bool]:
        """Return what the slowest receiver carries, the worst network loss, and whether that can be believed."""
        limit, believed, worst = self.ceiling * 2, True, 0.0
        limiting = set()
        self._doubtful_count = 0
        for index, track in tracks.items():
            sample = track.latest
            worst = max(worst, 0.0 if sample.waits else sample.loss)
            capacity = self._capacity(sample)
            if capacity < self.rate:
                certain = self._certain(track, sample)
                if certain:
                    limiting.add(index)
                self._doubtful_count += not certain and (self._innocent or track.doubtful(self.tolerated))
                # The lowest believable limit counts; an incredible one only keeps the rate low, if at all.
                if (certain, -capacity) > (believed and limit < self.rate, -limit):
                    limit, believed = capacity, certain
            elif sample.pool_fill >= POOL_FILL_LOW:
                limiting.add(index)
        self.limiting = frozenset(limiting)
        return limit, worst, believed

    @staticmethod
    def _lasting_loss(tracks: dict[int, _Track]) -> float:
        """Return the worst loss, the few left out that had one bad interval or may have had."""
        return _worst([track.lasting_loss for track in tracks.values()], _new_count(tracks))

    @staticmethod
    def _latest_loss(tracks: dict[int, _Track]) -> float:
        """As ``_lasting_loss``, in the last interval alone: of all, the unluckiest."""
        return _worst([track.latest.loss for track in tracks.values()], _new_count(tracks))

    def _flood(self, tracks: dict[int, _Track]) -> float:
        """Return the loss that is one if it is above ``FLOODED_LOSS``: lasting, or, at the start, seen once for long.

        At the start the sample before it was taken while the queue filled.
        """
        losses = [0.0 if track.latest.waits else self._flood_of(track) for track in tracks.values()]
        return _worst(losses, len(losses) if self._startup else _new_count(tracks))

    def _flood_of(self, track: _Track) -> float:
        return track.latest.loss if self._startup and track.latest.share >= 1.0 else track.lasting_loss

    def _steady(self, tracks: dict[int, _Track], loss: float) -> bool:
        """Return whether this loss can be compared with what is lost after a cut; that of the first burst never can."""
        if loss <= FLOODED_LOSS:
            return True
        return not self._startup and self._lasting_loss(tracks) > STEADY_SHARE * loss

    def _certain(self, track: _Track, sample: Sample) -> bool:
        """Return whether a sample that asks for a lower rate is more than a microburst."""
        if sample.pool_fill > POOL_FILL_HIGH:
            return True  # A queue of many milliseconds that is half full did not fill by chance.
        before = track.previous
        lasting = before is not None and self._capacity(before) < self.rate
        if not self._startup:
            return lasting and track.telling(self.tolerated)
        # The rate was just raised, and a cut for nothing would hide what comes of that.
        known = sample.lost + (before.lost if lasting and before is not None else 0.0)
        much = max(sample.loss, sample.overrun) * sample.share > 4 * LOSS_HIGH
        return known >= TELLING_LOST and (lasting or much)

    def _capacity(self, sample: Sample) -> float:
        carried = sample.capacity(self.rate, self.tolerated)
        return self.ceiling * 2 if carried is None else carried
