"""Goal: every payload lands in the row it was meant for, and every other datagram comes out whole, however they came.

Method: real datagrams over loopback multicast, sent and fetched by each combination of the kernel's batch calls and
their fallbacks; buffers that the kernel joined are made on purpose, with a control datagram or a stranger in them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ghostcast.net import ingest, libc
from ghostcast.net.ingest import BatchReceiver
from protocol import limits, wire
from protocol.symbols import DATA_HEADER
from tests.unit.ghostcast.net.link import FAST, Link

MakeLink = Callable[..., Link]


@pytest.fixture
def make_link(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeLink]:
    """Make links whose two ends use the named calls."""
    made: list[Link] = []

    def make(sending: str, receiving: str, symbol_size: int = 1440) -> Link:
        monkeypatch.setattr(libc, "HAVE_RECVMMSG", receiving != "recv" and libc.HAVE_RECVMMSG)
        monkeypatch.setattr(libc, "HAVE_SENDMMSG", sending != "send" and libc.HAVE_SENDMMSG)
        link = Link(symbol_size)
        made.append(link)
        link.sender.offload &= sending == "segmented"
        if receiving == "recvmmsg":
            use_small_slots(link.receiver)
        return link

    yield make
    for link in made:
        link.close()


def use_small_slots(receiver: BatchReceiver) -> None:
    """Do at once what a receiver does after some time without joined buffers."""
    receiver._join_segments(False)
    receiver._lay_out(offload=False)


def control(text: bytes) -> bytes:
    return wire.control_datagram(7, text)


def unstamped(datagram: bytes) -> bytes:
    """Return a datagram without its send time."""
    return datagram[: wire.SENT_US_OFFSET] + bytes(4) + datagram[wire.SENT_US_OFFSET + 4 :]


@pytest.mark.parametrize("receiving", ["joined", "recvmmsg", "recv"])
@pytest.mark.parametrize("sending", ["segmented", "sendmmsg", "send"])
def test_every_payload_and_every_control_datagram_arrives(sending: str, receiving: str, make_link: MakeLink) -> None:
    link = make_link(sending, receiving)
    rows = link.rows(3 * link.sender.batch_count + 5)
    parts = np.split(rows, [link.sender.batch_count, link.sender.batch_count + 3, 3 * link.sender.batch_count])
    said = []
    for number, part in enumerate(parts):
        link.sender.send_rows(part, lambda: FAST)
        said.append(control(b"x" * (number * 300)))
        link.sender.send_control(said[-1])
    fetched = link.fetch(len(rows), len(said))
    assert fetched.sequences == list(range(len(rows)))
    assert np.array_equal(fetched.payloads, rows[:, wire.DATA_HEADER_SIZE :])
    assert [unstamped(datagram) for datagram in fetched.control] == said
    assert link.receiver.offload == (receiving == "joined")


def test_payloads_go_to_the_rows_that_are_named(link: Link) -> None:
    rows = link.rows(2 * link.sender.batch_count + 9)
    link.sender.send_rows(rows, lambda: FAST)
    order = np.random.default_rng(1).permutation(len(rows))
    buffer = np.zeros((len(rows), link.symbol_size), np.uint8)
    done = 0
    for batch in link.batches():
        link.receiver.scatter(batch, None, order[done : done + len(batch.headers)], buffer)
        done += len(batch.headers)
        if done == len(rows):
            break
    assert np.array_equal(buffer[order], rows[:, wire.DATA_HEADER_SIZE :])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("receiving", ["joined", "recvmmsg"])
def test_a_chosen_part_is_scattered_and_the_rest_is_not(share: float, receiving: str, make_link: MakeLink) -> None:
    link = make_link("segmented", receiving)
    rows = link.rows(2 * link.sender.batch_count + 9)
    link.sender.send_rows(rows, lambda: FAST)
    rng = np.random.default_rng(2)
    buffer = np.zeros((len(rows), link.symbol_size), np.uint8)
    chosen_sequences: list[int] = []
    seen = 0
    for batch in link.batches():
        chosen = np.flatnonzero(rng.random(len(batch.headers)) < share)
        sequences = batch.headers["sequence"][chosen].astype(np.int64)
        link.receiver.scatter(batch, chosen, len(rows) - 1 - sequences, buffer)
        chosen_sequences += sequences.tolist()
        seen += len(batch.headers)
        if seen == len(rows):
            break
    expected = np.zeros_like(buffer)
    expected[[len(rows) - 1 - sequence for sequence in chosen_sequences]] = rows[chosen_sequences, 32:]
    assert np.array_equal(buffer, expected)


@pytest.mark.parametrize("receiving", ["joined", "recvmmsg", "recv"])
def test_a_buffer_may_end_in_a_shorter_datagram_or_hold_none_of_ours(receiving: str, make_link: MakeLink) -> None:
    link = make_link("segmented", receiving)
    if not link.sender.offload:
        pytest.skip("this kernel does not segment")
    rows, size = link.rows(6), wire.DATA_HEADER_SIZE + link.symbol_size
    last = control(b"the last segment")
    foreign = np.random.default_rng(3).integers(0, 256, 350, np.uint8).tobytes()
    link.send_segmented(rows[:4].tobytes() + last, size)
    link.send_segmented(foreign, 100)
    link.outgoing.send(b"")
    link.send_segmented(rows[4:].tobytes(), size)
    fetched = link.fetch(len(rows), 5)
    assert fetched.sequences == list(range(6))
    assert np.array_equal(fetched.payloads, rows[:, wire.DATA_HEADER_SIZE :])
    assert fetched.control == [last, *(foreign[start : start + 100] for start in range(0, 350, 100))]


@pytest.mark.parametrize("receiving", ["joined", "recvmmsg", "recv"])
def test_a_longer_datagram_is_no_data(receiving: str, make_link: MakeLink) -> None:
    link = make_link("sendmmsg", receiving)
    rows, size = link.rows(2), wire.DATA_HEADER_SIZE + link.symbol_size
    link.sender.send_rows(rows[:1], lambda: FAST)
    link.outgoing.send(bytes(2 * size))
    link.outgoing.send(bytes(size + 1))
    link.sender.send_rows(rows[1:], lambda: FAST)
    fetched = link.fetch(2, 2)
    assert fetched.sequences == [0, 1]
    assert np.array_equal(fetched.payloads, rows[:, wire.DATA_HEADER_SIZE :])
    assert all(len(datagram) > size for datagram in fetched.control)


@pytest.mark.parametrize("receiving", ["joined", "recvmmsg", "recv"])
def test_control_datagrams_may_be_longer_than_data(receiving: str, make_link: MakeLink) -> None:
    link = make_link("sendmmsg", receiving, limits.SYMBOL_SIZE_MIN)
    said = control(bytes(limits.CONTROL_SIZE_MAX - wire.CONTROL_BODY_OFFSET))
    link.sender.send_control(said)
    assert [unstamped(datagram) for datagram in link.fetch(0, 1).control] == [said]


@pytest.mark.parametrize("receiving", ["joined", "recvmmsg", "recv"])
@pytest.mark.parametrize("sending", ["segmented", "sendmmsg"])
def test_a_control_datagram_may_be_exactly_as_long_as_data(sending: str, receiving: str, make_link: MakeLink) -> None:
    link = make_link(sending, receiving, 1024)
    rows, size = link.rows(70), wire.DATA_HEADER_SIZE + link.symbol_size
    rows[:, : wire.DATA_HEADER_SIZE].view(DATA_HEADER)["kind"] = wire.KIND_DATA
    said = [control(bytes([number]) * (size - wire.CONTROL_BODY_OFFSET)) for number in range(3)]
    for part, words in zip(np.split(rows, [20, 21]), said, strict=True):
        link.sender.send_rows(part, lambda: FAST)
        link.sender.send_control(words)
    fetched_control: list[bytes] = []
    fetched_data = 0
    for batch in link.batches():
        fetched_control += batch.control
        fetched_data += int(np.count_nonzero(batch.headers["kind"] == wire.KIND_DATA))
        if len(fetched_control) == len(said) and fetched_data == len(rows):
            break
    assert [unstamped(datagram) for datagram in fetched_control] == said


@pytest.mark.parametrize("receiving", ["recvmmsg", "recv"])
@pytest.mark.parametrize("number", [errno.ENETDOWN, errno.ECONNREFUSED])
def test_an_interface_that_goes_down_is_nothing_to_fetch(
    receiving: str, number: int, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = make_link("sendmmsg", receiving)

    def fail(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    class Down:
        recv_into = staticmethod(fail)
        fileno = staticmethod(link.listener.fileno)

    with monkeypatch.context() as broken:
        broken.setattr(libc, "recvmmsg", fail)
        broken.setattr(link.receiver, "_socket", Down())
        assert link.receiver.fetch() is None
    link.sender.send_rows(link.rows(3), lambda: FAST)
    assert link.fetch(3).sequences == [0, 1, 2]


def test_slots_become_small_and_many_where_nothing_is_joined(make_link: MakeLink) -> None:
    link = make_link("sendmmsg", "joined")
    if not link.receiver.offload:
        pytest.skip("this kernel does not join")
    count, sequences = ingest.BUFFERS_TO_JUDGE + 100, []
    for first in range(0, count, 32):
        part = link.rows(32, first)
        link.sender.send_rows(part, lambda: FAST)
        fetched = link.fetch(32)
        assert np.array_equal(fetched.payloads, part[:, wire.DATA_HEADER_SIZE :])
        sequences += fetched.sequences
    assert sequences == list(range(len(sequences)))
    assert link.receiver.slot_count == ingest.SLOT_COUNT_SINGLE
    assert link.receiver.joined_average == 1.0


@pytest.mark.parametrize("symbol_size", [32, 1440, 8928])
def test_small_slots_take_no_more_memory_than_is_allowed_and_hold_more_than_is_waited_for(
    symbol_size: int, make_link: MakeLink
) -> None:
    receiver = make_link("segmented", "recvmmsg", symbol_size).receiver
    assert 0 < receiver.fetch_aim < receiver.slot_count <= ingest.SLOT_COUNT_SINGLE
    assert receiver._memory.nbytes <= ingest.SLOTS_SIZE_MAX


def test_slots_lie_in_the_memory_that_was_given(link: Link) -> None:
    given = np.full(ingest.SLOTS_SIZE_MAX, 0xFF, np.uint8)
    waker, other = socket.socketpair()
    with waker, other:
        receiver = BatchReceiver(link.listener, link.symbol_size, waker, given)
        link.sender.send_rows(link.rows(3), lambda: FAST)
        batch = receiver.fetch()
    assert batch is not None
    assert batch.headers["sequence"][0] == 0
    assert (given != 0xFF).any()


def test_slots_stay_large_where_buffers_are_joined(link: Link) -> None:
    if not (link.sender.offload and link.receiver.offload):
        pytest.skip("this kernel does not segment or join")
    for first in range(0, 2 * ingest.BUFFERS_TO_JUDGE * 2, 128):
        link.sender.send_rows(link.rows(128, first), lambda: FAST)
        assert link.fetch(128).sequences == list(range(first, first + 128))
    assert link.receiver.offload
    assert link.receiver.joined_average > ingest.JOINED_WORTHWHILE


def test_a_fetch_says_when_more_is_waiting(make_link: MakeLink) -> None:
    link = make_link("sendmmsg", "joined")
    if not link.receiver.offload:
        pytest.skip("this kernel does not join")
    link.sender.send_rows(link.rows(ingest.SLOT_COUNT + 1), lambda: FAST)
    batches = link.batches()
    first = next(batches)
    while first.messages < ingest.SLOT_COUNT and not first.full:
        first = next(batches)
    assert first.full
    assert not next(batches).full


def test_nothing_waiting_is_none_and_the_waker_ends_a_wait(link: Link) -> None:
    assert link.receiver.fetch() is None
    link.wake.send(b"\0")
    link.receiver.wait(1e6)
    link.wake.send(b"\0" * 5)
    link.receiver.wait(1e6, data=False)
    link.receiver.wait(0)
    link.receiver.wait(-5)
