"""Goal: whatever comes in whatever order is placed, counted, and told to the engine once it is whole.

Method: the machine alone, by ``receiver_desk``; headers by hand, some of them foreign.
"""

from __future__ import annotations

import numpy as np

from protocol import limits, messages, wire
from protocol.receiver_events import AllWritten, ExtentReady, SlicesToDecode
from protocol.symbols import DATA_HEADER
from tests.unit.protocol.receiver_desk import CHUNKS, IMAGE, MS, SESSION_ID, Desk, K, check_begun, ready_desk


def test_image_slices_may_come_before_the_manifest() -> None:
    desk = Desk()
    desk.welcome()
    desk.window(IMAGE, [0, 1, 2], [*range(K), K], lose=((1, 0),))
    assert desk.events(SlicesToDecode) == [SlicesToDecode(IMAGE, (1,))]
    desk.send_manifest()
    chunks = [event.extent for event in desk.events(ExtentReady) if isinstance(event, ExtentReady)]
    assert chunks == [0, 2]
    desk.session.slices_decoded(IMAGE, np.array([1]))
    assert desk.events() == [ExtentReady(IMAGE, 1)]


def test_foreign_headers_are_counted_and_get_no_row() -> None:
    desk = ready_desk()
    drops = desk.session.drops
    for field, value, reason in (
        ("magic", 1, "foreign"), ("version", 9, "foreign"), ("kind", 2, "foreign"), ("session", 5, "session"),
        ("object", 7, "malformed"), ("slice", CHUNKS, "malformed"), ("slice", (1 << 32) - 1, "malformed"),
        ("esi", 255, "malformed"), ("sequence", 1 << 31, "malformed"),
    ):  # fmt: skip
        headers = np.zeros(2, DATA_HEADER)
        headers["magic"], headers["version"], headers["kind"] = wire.MAGIC, wire.VERSION, wire.KIND_DATA
        headers["session"], headers["object"], headers["sequence"] = SESSION_ID, IMAGE, desk.sequence
        headers[field][0] = value
        before = getattr(drops, reason)
        placements = desk.session.receive_symbols(headers, desk.now)
        assert sum(len(placement.rows) for placement in placements) == 1, field
        assert getattr(drops, reason) == before + 1, field
    assert desk.session.receive_symbols(headers[:0], desk.now) == []


def test_a_huge_sequence_number_from_the_sender_is_survived() -> None:
    desk = ready_desk()
    desk.sequence = limits.SEQUENCE_MAX - 1
    desk.status()
    desk.window(IMAGE, [0], list(range(K)))
    desk.sequence = 2
    desk.status()
    desk.window(IMAGE, [1], list(range(K)), lose=((1, 0),))
    desk.status()
    desk.pass_time(10 * MS)
    assert desk.needs() == {1: 1}


def test_loss_in_the_network_and_in_the_host_are_told_apart() -> None:
    desk = ready_desk()
    desk.status()
    desk.pass_time(200 * MS)
    desk.said(messages.Report)
    desk.window(IMAGE, [0, 1, 2, 3, 4], list(range(K)), lose=((0, 0), (1, 1), (2, 2), (3, 3)))
    desk.session.reception.host_dropped(1)
    desk.status()
    desk.pass_time(200 * MS)
    reports = [report for report in desk.said(messages.Report) if isinstance(report, messages.Report)]
    assert reports[0].lost_network == 3
    assert reports[0].lost_host == 1
    assert reports[0].loss_ppm == 3 * 1_000_000 // 20
    assert reports[0].overrun_ppm == 1_000_000 // 20


def test_what_comes_while_the_target_is_looked_through_is_taken() -> None:
    desk = check_begun()
    desk.window(IMAGE, [1], list(range(K)))
    assert desk.events(ExtentReady) == [ExtentReady(IMAGE, 1)]
    assert desk.session.chunks_found(np.arange(CHUNKS)).tolist() == [0, 2, 3, 4]
    assert desk.events(AllWritten) == []
    desk.session.extent_checked(IMAGE, 1, good=True)
    assert desk.events() == [AllWritten()]
    assert desk.session.reception.bytes_done == CHUNKS * 4096


def test_a_slice_that_is_being_decoded_is_let_go_afterwards() -> None:
    desk = check_begun()
    desk.window(IMAGE, [2], [*range(1, K), K])
    assert desk.events() == [SlicesToDecode(IMAGE, (2,))]
    desk.session.chunks_found(np.arange(CHUNKS))
    desk.session.slices_decoded(IMAGE, np.array([2]))
    assert desk.session.reception.assembly(IMAGE).fill == 0
    assert desk.session.reception.assembly(IMAGE).complete_slices().tolist() == []
