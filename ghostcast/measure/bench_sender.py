"""The measuring side: gathers listeners, makes one step after the other, and collects what everybody got.

The loop thread owns the plan, the listeners and the control plane; a step's data go out in a thread of their own. Each
step is a dialogue: BEGIN until everybody is READY, data, CLOSE until everybody's OUTCOME is in, each with its patience,
so that one dead machine holds nobody up for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Protocol

from ghostcast.measure.plan import Trial
from ghostcast.measure.record import Listener, ListenerState, Measurement, StepResult
from ghostcast.measure.stream import Stream
from ghostcast.net import sockets
from ghostcast.net.control import Address, ControlEndpoint
from ghostcast.net.interfaces import Interface
from protocol import limits, measurement, wire
from protocol.errors import NobodyCameError, UsageError
from protocol.messages import EndReason

PROGRESS_INTERVAL_S = 0.1
NAME_CHECK_S = 0.06
OFFER_INTERVAL_S = 1.0
REPEAT_S = 0.06
"""How often BEGIN and CLOSE are repeated while somebody has not answered."""

READY_PATIENCE_S = 1.5
OUTCOME_PATIENCE_S = 3.0
UNANSWERED_MAX = 2
"""Steps in a row without a word after which nobody waits for a listener any longer."""

SETTLE_S = 0.08
"""Between a step's last datagram and CLOSE: what a queue of 50 ms holds shall not count as lost."""

ANSWERS_PER_S = limits.FEEDBACK_PER_S
PROBE_COUNT = 200
PROBE_RATE = 20 * limits.MEGABIT
PROBE_HEARD = 0.5
"""Share of a probe's datagrams that every listener must have for the size to count as coming through."""

FINISH_COPIES = 4


class Plan(Protocol):
    """What decides on the next rate."""

    trials: list[Trial]

    @property
    def steps_left(self) -> int | None:
        """Return how many steps are still to come, as far as one can say."""

    def next_rate(self) -> float | None:
        """Return bytes per second, or None when all is known."""

    def record(self, trial: Trial) -> None:
        """Take a trial's result into account."""


@dataclasses.dataclass(frozen=True, slots=True)
class BenchOptions:
    """What a person chose."""

    session_name: str
    interface: Interface
    plan: Plan
    step_s: float
    receivers: int = 0
    """Begin when so many are there; 0: when nobody came for ``quiet_s`` after somebody did."""
    quiet_s: float = 3.0
    max_wait_s: float = 300.0
    group: str | None = None
    port: int = limits.DISCOVERY_PORT
    ttl: int = 1
    symbol_size: int | None = None
    """None: the largest that comes through."""


class Observer:
    """What the engine tells whoever watches; every method is called on the loop's thread."""

    def entered(self, listener: Listener) -> None:
        """A listener takes part."""

    def stepping(self, rate: float, symbol_size: int) -> None:
        """A step begins."""

    def stepped(self, result: StepResult) -> None:
        """A step is over."""

    def lost(self, listener: Listener) -> None:
        """A listener went, or no longer answers."""

    def progress(self) -> None:
        """A moment passed."""


class BenchSender:
    """One measurement. Create it, ``await run()``, read ``result`` afterwards."""

    def __init__(self, options: BenchOptions, session_id: int) -> None:
        """Open nothing yet.

        Args:
            options: see there.
            session_id: 32 random bits, not 0.
        """
        self.options = options
        self.group = sockets.check_group(options.group) if options.group else sockets.data_group(session_id)
        self.result = Measurement(options.session_name, 0, options.interface.mtu)
        self.observer = Observer()
        self.interrupted = False
        self.begun_s: float | None = None
        self.ended_s: float | None = None
        self.stream: Stream | None = None
        self._session_id = session_id
        self._wake = asyncio.Event()
        self._drops = wire.Drops()
        self._start_now = False
        self._ready: set[int] = set()
        self._current: StepResult | None = None
        self._by_step: dict[int, StepResult] = {}
        self._offer_due_s = 0.0
        self._last_entry_s = 0.0

    # --- from signal handlers of the loop ---------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End as soon as possible."""
        self.interrupted = True
        self._wake.set()

    def start_now(self) -> None:
        """Begin with whoever is there."""
        self._start_now = True
        self._wake.set()

    @property
    def seconds(self) -> float:
        """Time since the first step began, until the last ended."""
        return 0.0 if self.begun_s is None else (self.ended_s or time.monotonic()) - self.begun_s

    @property
    def steps_left(self) -> int | None:
        """How many steps are still to come, as far as the plan can say; None while it still climbs."""
        return self.options.plan.steps_left if self.result.steps else None

    @property
    def listening(self) -> list[Listener]:
        """Who is still waited for."""
        return [listener for listener in self.result.listeners if listener.state is ListenerState.LISTENING]

    # --- the run ----------------------------------------------------------------------------------------------------

    async def run(self, observer: Observer) -> Measurement:
        """Measure, telling ``observer`` about it.

        Raises:
            NobodyCameError: no listener within the wait.
            UsageError: a socket cannot be opened, or the name is taken.
        """
        self.observer = observer
        options = self.options
        control_socket = sockets.open_control(options.interface, options.ttl)
        self._control = await ControlEndpoint.open(control_socket, self._wake.set)
        self._discovery = await ControlEndpoint.open(
            sockets.open_listener(options.interface, limits.DISCOVERY_GROUP, options.port, "discovery"), self._wake.set
        )
        self._data_socket = sockets.open_data_sender(options.interface, options.ttl)
        self._offer = measurement.Offer(
            options.session_name, sockets.group_number(self.group), options.port, control_socket.getsockname()[1]
        )
        reason = EndReason.FAILED
        try:
            await self._check_name_is_free()
            await self._gather()
            if not self.interrupted:
                self.begun_s = time.monotonic()
                await self._measure()
            reason = EndReason.INTERRUPTED if self.interrupted else EndReason.COMPLETE
            return self.result
        finally:
            self.ended_s = time.monotonic()
            await self._finish(reason)
            await self._control.close()
            await self._discovery.close()
            self._data_socket.close()

    async def _check_name_is_free(self) -> None:
        await self._to_discovery(measurement.Seek(self.options.session_name))
        deadline = time.monotonic() + NAME_CHECK_S
        while (left := deadline - time.monotonic()) > 0 and not self.interrupted:
            await self._sleep(left)
            for datagram, address in self._discovery.take():
                decoded = measurement.decode(datagram, self._drops)
                offer = decoded[1] if decoded else None
                if isinstance(offer, measurement.Offer) and offer.name == self.options.session_name:
                    raise UsageError(
                        f"a measurement named {self.options.session_name!r} is offered by {address[0]} already: "
                        "choose another --session"
                    )

    async def _gather(self) -> None:
        """Wait for listeners by the start rule."""
        options = self.options
        begun = time.monotonic()

        def enough() -> bool:
            here, now = len(self.listening), time.monotonic()
            if self._start_now and here:
                return True
            if options.receivers and here >= options.receivers:
                return True
            if not options.receivers and here and now - self._last_entry_s >= options.quiet_s:
                return True
            return now - begun >= options.max_wait_s

        while not enough() and not self.interrupted:
            await self._turn(PROGRESS_INTERVAL_S)
        if not self.listening and not self.interrupted:
            raise NobodyCameError(
                f"nobody came: no listener for measurement {options.session_name!r} within {options.max_wait_s:g} s. "
                "Start `ghostcast bench receive` on other machines, or ask `ghostcast doctor`"
            )

    async def _measure(self) -> None:
        """Find the datagram size that comes through, then follow the plan."""
        size = await self._choose_size()
        self.result.symbol_size = size
        plan = self.options.plan
        while not self.interrupted and self.listening and len(self.result.steps) < measurement.STEPS_MAX:
            rate = plan.next_rate()
            if rate is None:
                return
            step = await self._step(rate, size, self.options.step_s)
            plan.record(step.trial)
            self.result.sender_limit = getattr(plan, "sender_limit", None)

    async def _choose_size(self) -> int:
        """Return the largest symbol size of which every listener hears datagrams; the smallest one tried if none."""
        largest = self.options.interface.symbol_size_max
        if self.options.symbol_size is not None:
            return self.options.symbol_size
        theirs = [_symbol_size(listener.mtu) for listener in self.listening]
        candidates = sorted({largest, *(min(size, largest) for size in theirs), min(1440, largest)}, reverse=True)
        for size in candidates[:-1]:
            step = await self._step(PROBE_RATE, size, 1.0, probe=True)
            heard = [
                step.outcomes[listener.index].received for listener in self.listening if listener.index in step.outcomes
            ]
            if self.interrupted or (heard and min(heard) >= PROBE_HEARD * step.sent):
                return size
        return candidates[-1]

    async def _step(self, rate: float, symbol_size: int, seconds: float, *, probe: bool = False) -> StepResult:
        """Make one step."""
        number = len(self.result.steps)
        spread_ms = min(60_000, round(len(self.listening) * 1000 / ANSWERS_PER_S))
        stream = self._stream_of(symbol_size)
        self.observer.stepping(rate, symbol_size)
        self._ready.clear()
        begin = measurement.Begin(number, symbol_size, round(rate), spread_ms)
        await self._repeat(
            begin, spread_ms, READY_PATIENCE_S, lambda: {one.index for one in self.listening} <= self._ready
        )
        sending = asyncio.get_running_loop().run_in_executor(
            None, lambda: stream.send(number, rate, seconds, lambda: self.interrupted, PROBE_COUNT if probe else None)
        )
        sending.add_done_callback(lambda _future: self._wake.set())
        while not sending.done():
            await self._turn(PROGRESS_INTERVAL_S)
        sent = await sending
        result = StepResult(number, probe, symbol_size, rate, sent.rate, sent.seconds, sent.count, sent.refused)
        self.result.steps.append(result)
        self._by_step[number] = result
        settled = time.monotonic() + SETTLE_S
        while (left := settled - time.monotonic()) > 0:
            await self._turn(left)
        close = measurement.Close(number, sent.count, spread_ms)
        await self._repeat(
            close,
            spread_ms,
            OUTCOME_PATIENCE_S,
            lambda: {one.index for one in self.listening} <= result.outcomes.keys(),
        )
        self._count_silence(result)
        self.observer.stepped(result)
        return result

    def _stream_of(self, symbol_size: int) -> Stream:
        if self.stream is None or self.stream.symbol_size != symbol_size:
            self.stream = Stream(self._data_socket, self.group, self.options.port, self._session_id, symbol_size)
        return self.stream

    def _count_silence(self, result: StepResult) -> None:
        for listener in self.listening:
            listener.unanswered = 0 if listener.index in result.outcomes else listener.unanswered + 1
            if listener.unanswered >= UNANSWERED_MAX:
                listener.state = ListenerState.SILENT
                self.observer.lost(listener)

    async def _repeat(
        self,
        message: measurement.Begin | measurement.Close,
        spread_ms: int,
        patience_s: float,
        done: Callable[[], bool],
    ) -> None:
        """Multicast a message in the data stream until everybody answered, or patience is over."""
        assert self.stream is not None
        interval = REPEAT_S + 2 * spread_ms / 1000
        deadline = time.monotonic() + patience_s + 2 * spread_ms / 1000
        due = 0.0
        while not done() and not self.interrupted and (now := time.monotonic()) < deadline:
            if now >= due:
                due = now + interval
                self.stream.sender.send_control(measurement.encode(self._session_id, message))
            await self._turn(min(due - now, interval))

    async def _finish(self, reason: EndReason) -> None:
        message = measurement.encode(self._session_id, measurement.Finish(reason, ""))
        for _copy in range(FINISH_COPIES):
            if self.stream is not None:
                with contextlib.suppress(OSError):
                    self.stream.sender.send_control(message)
            await self._control.send(message, (limits.DISCOVERY_GROUP, self.options.port))
            await asyncio.sleep(limits.END_REPEAT_NS / limits.SECOND_NS)

    # --- the control plane ------------------------------------------------------------------------------------------

    async def _turn(self, seconds: float) -> None:
        """Take in what arrived, say what is due, tell the observer, and sleep at most so long."""
        for datagram, address in self._control.take() + self._discovery.take():
            await self._receive(datagram, address)
        if (now := time.monotonic()) >= self._offer_due_s:
            self._offer_due_s = now + OFFER_INTERVAL_S
            await self._to_discovery(self._offer)
        with contextlib.suppress(OSError):
            self.observer.progress()
        await self._sleep(min(seconds, PROGRESS_INTERVAL_S))

    async def _sleep(self, seconds: float) -> None:
        handle = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._wake.set)
        await self._wake.wait()
        handle.cancel()
        self._wake.clear()

    async def _to_discovery(self, message: measurement.AnyMeasurement) -> None:
        datagram = measurement.encode(self._session_id, message)
        await self._control.send(datagram, (limits.DISCOVERY_GROUP, self.options.port))

    async def _receive(self, datagram: bytes, address: Address) -> None:
        decoded = measurement.decode(datagram, self._drops)
        if decoded is None:
            return
        session_id, message = decoded
        if isinstance(message, measurement.Seek):
            if message.name in ("", self.options.session_name):
                self._offer_due_s = min(self._offer_due_s, time.monotonic())
            return
        if session_id != self._session_id:
            self._drops.session += 1
            return
        if isinstance(message, measurement.Enter):
            await self._enter(message, address)
            return
        listener = self._speaker(message, address)
        if listener is None:
            self._drops.stale += 1
            return
        listener.unanswered = 0
        if listener.state is ListenerState.SILENT:
            listener.state = ListenerState.LISTENING
        match message:
            case measurement.Ready() if message.step == len(self.result.steps):
                self._ready.add(listener.index)
            case measurement.Outcome() if message.step in self._by_step:
                self._by_step[message.step].outcomes[listener.index] = message
            case measurement.Leave():
                listener.state = ListenerState.LEFT
                self.observer.lost(listener)
            case _:
                self._drops.stale += 1

    def _speaker(self, message: measurement.AnyMeasurement, address: Address) -> Listener | None:
        """Return who speaks, if the address is that of its ENTER."""
        if not isinstance(message, measurement.Ready | measurement.Outcome | measurement.Leave):
            return None
        if message.receiver_index >= len(self.result.listeners):
            return None
        listener = self.result.listeners[message.receiver_index]
        return listener if listener.address == address else None

    async def _enter(self, message: measurement.Enter, address: Address) -> None:
        known = next((one for one in self.result.listeners if one.receiver_id == message.receiver_id), None)
        if known is None and len(self.result.listeners) < limits.RECEIVERS_MAX:
            index = len(self.result.listeners)
            taken = any(one.host == message.host for one in self.result.listeners)
            known = Listener(
                index,
                message.receiver_id,
                message.host,
                f"{message.host}#{index}" if taken else message.host,
                address,
                message.link_rate,
                message.mtu,
                message.buffer_size,
            )
            self.result.listeners.append(known)
            self._last_entry_s = time.monotonic()
            self.observer.entered(known)
        if known is not None and known.address == address:
            entered = measurement.Entered(message.receiver_id, known.index)
            await self._control.send(measurement.encode(self._session_id, entered), address)


def _symbol_size(mtu: int) -> int:
    """Return the largest symbol that an MTU takes, as ``Interface.symbol_size_max``."""
    fitting = (mtu - 28 - wire.DATA_HEADER_SIZE) // limits.SYMBOL_SIZE_STEP * limits.SYMBOL_SIZE_STEP
    return max(limits.SYMBOL_SIZE_MIN, min(fitting, limits.SYMBOL_SIZE_MAX))
