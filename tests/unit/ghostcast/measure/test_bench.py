"""Goal: a whole measurement goes from the first OFFER to the last OUTCOME, and every way to end has its error.

Method: both engines in this process over loopback multicast, real sockets; the control plane is also fed by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import random
import socket
from collections.abc import Callable

import pytest

from ghostcast.measure import bench_receiver, bench_sender
from ghostcast.measure.bench_receiver import BenchReceiver, ListenOptions, interface_drops
from ghostcast.measure.bench_sender import BenchOptions, BenchSender, Observer
from ghostcast.measure.plan import FixedRates
from ghostcast.measure.record import ListenerState, StepResult
from ghostcast.net.interfaces import choose_interface
from protocol import measurement
from protocol.errors import NobodyCameError, UsageError
from protocol.limits import MEGABIT
from protocol.messages import EndReason

LOOPBACK = choose_interface("127.0.0.1")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def sender(port: int, name: str = "unit", **changes: object) -> BenchSender:
    options: dict[str, object] = {
        "session_name": name,
        "interface": LOOPBACK,
        "plan": FixedRates([50.0 * MEGABIT, 100.0 * MEGABIT]),
        "step_s": 0.1,
        "receivers": 1,
        "max_wait_s": 20.0,
        "port": port,
        "ttl": 0,
        "symbol_size": 1440,
    }
    return BenchSender(BenchOptions(**(options | changes)), random.getrandbits(32) | 1)  # type: ignore[arg-type]


def receiver(port: int, name: str | None = "unit", max_wait_s: float | None = 20.0) -> BenchReceiver:
    return BenchReceiver(ListenOptions(LOOPBACK, name, port, 0, max_wait_s))


async def together(measuring: BenchSender, listeners: list[BenchReceiver], observer: Observer | None = None) -> None:
    await asyncio.gather(measuring.run(observer or Observer()), *(one.run() for one in listeners))


def test_every_listener_counts_every_step() -> None:
    port = free_port()
    measuring = sender(port, receivers=2)
    listeners = [receiver(port), receiver(port, None)]
    asyncio.run(together(measuring, listeners))
    steps = measuring.result.rate_steps
    assert [step.wanted for step in steps] == [50 * MEGABIT, 100 * MEGABIT]
    host = socket.gethostname()
    assert [one.name for one in measuring.result.listeners] == [host, f"{host}#1"]
    for step in steps:
        assert sorted(step.outcomes) == [0, 1]
        assert {one.received for one in step.outcomes.values()} == {step.sent}
        assert step.sent > 100
    for one in listeners:
        assert one.ended is EndReason.COMPLETE
        assert [heard.sent for heard in one.heard] == [step.sent for step in measuring.result.steps]


def test_sizes_are_probed_from_the_largest_down() -> None:
    port = free_port()
    measuring = sender(port, symbol_size=None)
    asyncio.run(together(measuring, [receiver(port)]))
    probes = [step for step in measuring.result.steps if step.probe]
    assert [step.symbol_size for step in probes] == [LOOPBACK.symbol_size_max]
    assert measuring.result.symbol_size == LOOPBACK.symbol_size_max


def test_nobody_came() -> None:
    with pytest.raises(NobodyCameError, match="nobody came"):
        asyncio.run(sender(free_port(), max_wait_s=0.0).run(Observer()))
    with pytest.raises(NobodyCameError, match="no measurement 'unit'"):
        asyncio.run(receiver(free_port(), max_wait_s=0.0).run())


class AtFirstStep(Observer):
    """Does something when the first step begins."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def stepping(self, rate: float, symbol_size: int) -> None:
        if self._call is not None:
            self._call()
            self._call = None


def test_an_interrupted_measurement_tells_its_listeners() -> None:
    port = free_port()
    measuring, listener = sender(port, step_s=60.0), receiver(port)
    asyncio.run(together(measuring, [listener], AtFirstStep(measuring.interrupt)))
    assert measuring.interrupted
    assert listener.ended is EndReason.INTERRUPTED


def test_a_listener_that_is_interrupted_says_so_and_the_rest_goes_on() -> None:
    port = free_port()
    measuring, staying, going = sender(port, receivers=2), receiver(port), receiver(port)
    asyncio.run(together(measuring, [staying, going], AtFirstStep(going.interrupt)))
    states = sorted(listener.state.value for listener in measuring.result.listeners)
    assert states == ["left", "listening"]
    assert staying.ended is EndReason.COMPLETE


def test_a_name_is_measured_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()

    async def twice() -> None:
        first, second = sender(port), sender(port)
        offered = asyncio.Event()

        class Offered(Observer):
            def progress(self) -> None:
                offered.set()

        task = asyncio.create_task(first.run(Offered()))
        await offered.wait()
        monkeypatch.setattr(bench_sender, "NAME_CHECK_S", 10.0)
        try:
            with pytest.raises(UsageError, match="choose another --session"):
                await second.run(Observer())
        finally:
            first.interrupt()
            await task

    asyncio.run(twice())


def test_a_choice_between_several_is_a_persons() -> None:
    port = free_port()

    async def run() -> None:
        offering = [sender(port, name) for name in ("one", "two")]
        tasks = [asyncio.create_task(one.run(Observer())) for one in offering]
        with pytest.raises(UsageError, match=r"'one' of .*'two' of"):
            await receiver(port, None).run()
        for one in offering:
            one.interrupt()
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_silence_of_a_listener_ends_the_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_sender, "READY_PATIENCE_S", 0.3)
    monkeypatch.setattr(bench_sender, "OUTCOME_PATIENCE_S", 0.5)
    port = free_port()
    measuring, present = sender(port, receivers=2, plan=FixedRates([50.0 * MEGABIT] * 3)), receiver(port)

    class Absent:
        """Enters and then says nothing."""

        def __init__(self) -> None:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind(("127.0.0.1", 0))

    absent = Absent()
    with contextlib.closing(absent.socket):

        class Helper(Observer):
            steps: list[StepResult] = []  # noqa: RUF012

            def entered(self, listener: object) -> None:
                if len(measuring.result.listeners) == 1:
                    enter = measurement.Enter(bytes(16), "absent", 0, 1500, 0)
                    control = ("127.0.0.1", measuring._offer.control_port)
                    absent.socket.sendto(measurement.encode(measuring._session_id, enter), control)

            def stepped(self, result: StepResult) -> None:
                self.steps.append(result)

        asyncio.run(together(measuring, [present], Helper()))
    assert {one.host: one.state for one in measuring.result.listeners}["absent"] is ListenerState.SILENT
    assert len(measuring.result.rate_steps) == 3


def test_a_stranger_cannot_speak_for_a_listener() -> None:
    measuring = sender(free_port())

    async def run() -> None:
        entering = measurement.encode(measuring._session_id, measurement.Enter(bytes(16), "a", 0, 1500, 0))
        sent: list[tuple[bytes, tuple[str, int]]] = []

        class Control:
            async def send(self, datagram: bytes, address: tuple[str, int]) -> None:
                sent.append((datagram, address))

        measuring._control = Control()  # type: ignore[assignment]
        await measuring._receive(entering, ("10.0.0.1", 1))
        await measuring._receive(entering, ("10.0.0.2", 1))  # the same id from elsewhere gets no answer
        assert [address for _datagram, address in sent] == [("10.0.0.1", 1)]
        leave = measurement.encode(measuring._session_id, measurement.Leave(0))
        await measuring._receive(leave, ("10.0.0.2", 1))
        assert measuring.result.listeners[0].state is ListenerState.LISTENING
        await measuring._receive(measurement.encode(99, measurement.Leave(0)), ("10.0.0.1", 1))
        await measuring._receive(measurement.encode(measuring._session_id, measurement.Leave(7)), ("10.0.0.1", 1))
        assert measuring.result.listeners[0].state is ListenerState.LISTENING
        await measuring._receive(leave, ("10.0.0.1", 1))
        assert measuring.result.listeners[0].state is ListenerState.LEFT

    asyncio.run(run())


def test_the_drops_of_an_interface_are_read(tmp_path: pathlib.Path) -> None:
    statistics = tmp_path / "eth7" / "statistics"
    statistics.mkdir(parents=True)
    (statistics / "rx_missed_errors").write_text("30\n")
    (statistics / "rx_fifo_errors").write_text("4\n")
    assert interface_drops("eth7", tmp_path) == 34
    assert interface_drops("nosuch0", tmp_path) == 0


def test_a_measuring_side_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_receiver, "SILENCE_S", 0.0)
    port = free_port()

    async def run() -> None:
        measuring, listener = sender(port), receiver(port)
        task = asyncio.create_task(measuring.run(Observer()))
        with pytest.raises(bench_receiver.IncompleteError, match="it is gone"):
            await listener.run()
        measuring.interrupt()
        await task

    asyncio.run(run())
