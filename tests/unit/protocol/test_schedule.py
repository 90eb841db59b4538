"""Goal: needs are merged, served in order, never twice for one loss, and always with fresh symbols.

Method: small objects, window by window; the rules of SPEC §7 one at a time. The oracle is in tests/property.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from protocol import limits
from protocol.partition import Partition
from protocol.schedule import Schedule, Window, window_slices

K = 8


def schedule(slice_count: int = 10, last: int = K, wanted: list[int] | None = None) -> Schedule:
    partition = Partition(64 * (K * (slice_count - 1) + last), 64, K)
    mask = np.ones(slice_count, np.bool_)
    if wanted is not None:
        mask[:] = False
        mask[wanted] = True
    return Schedule(limits.OBJECT_IMAGE, partition, mask)


def surplus(extra: int) -> Callable[[int, bool], int]:
    return lambda needed, whole: extra


def drain(plan: Schedule, sequence: int = 0, size: int = 4, extra: int = 0) -> tuple[list[Window], int]:
    windows = []
    plan.release()
    while (window := plan.poll_window(size, sequence, surplus(extra))) is not None:
        windows.append(window)
        sequence += window.datagram_count
    return windows, sequence


def ask(plan: Schedule, needs: dict[int, int], sequence: int) -> dict[int, int]:
    slices = np.array(sorted(needs), np.int64)
    counted = plan.request(slices, np.array([needs[s] for s in slices.tolist()], np.int64), sequence)
    return dict(zip(counted[0].tolist(), counted[1].tolist(), strict=True))


def test_the_first_pass_sends_every_wanted_slice_once_in_order() -> None:
    plan = schedule(wanted=[0, 1, 4, 5, 6, 9])
    windows, sequence = drain(plan, size=4, extra=1)
    assert [window.slices.tolist() for window in windows] == [[0, 1, 4, 5], [6, 9]]
    assert all((window.positions == 0).all() and (window.counts == K + 1).all() for window in windows)
    assert [window.source_count for window in windows] == [4 * K, 2 * K]
    assert not any(window.repair_pass for window in windows)
    assert sequence == 6 * (K + 1)
    assert not plan.pending
    assert plan.pass_index == 0
    assert plan.first_pass_cursor == 10


def test_a_window_goes_symbol_by_symbol_then_slice_by_slice() -> None:
    window = Window(1, np.array([5, 9]), np.array([0, 3]), np.array([3, 1]), 0, 4, False)
    row, ordinal = window.wire_order()
    assert list(zip(row.tolist(), ordinal.tolist(), strict=True)) == [(0, 0), (1, 0), (0, 1), (0, 2)]


def test_the_largest_deficit_counts_and_is_answered_with_fresh_symbols() -> None:
    plan = schedule()
    _windows, sequence = drain(plan)
    assert ask(plan, {3: 2}, sequence) == {3: 2}
    assert ask(plan, {3: 5, 4: 1}, sequence) == {3: 5, 4: 1}
    assert ask(plan, {3: 1}, sequence) == {3: 1}
    windows, sequence = drain(plan, sequence)
    assert [window.slices.tolist() for window in windows] == [[3, 4]]
    assert windows[0].positions.tolist() == [K, K]
    assert windows[0].counts.tolist() == [5, 1]
    assert windows[0].source_count == 0
    assert windows[0].repair_pass
    ask(plan, {3: 2}, sequence)
    windows, _sequence = drain(plan, sequence)
    assert windows[0].positions.tolist() == [K + 5]


def test_a_deficit_from_before_the_last_transmission_is_not_counted() -> None:
    plan = schedule()
    _windows, sequence = drain(plan)
    ask(plan, {3: 2}, sequence)
    _windows, later = drain(plan, sequence)
    assert ask(plan, {3: 2, 4: 1}, later - 1) == {4: 1}
    assert ask(plan, {3: 2}, later) == {3: 2}


def test_partial_deficits_overtake_the_first_pass_and_whole_ones_wait_for_the_next() -> None:
    plan = schedule(12)
    window = plan.poll_window(4, 0, surplus(0))
    assert window is not None
    sequence = window.datagram_count
    ask(plan, {1: K, 2: 3}, sequence)
    held = plan.poll_window(4, sequence, surplus(0), wrap=False)
    assert held is not None
    assert held.slices.tolist() == [4, 5, 6, 7]
    order = [window.slices.tolist() for window in drain(plan, sequence + held.datagram_count)[0]]
    assert order == [[2], [8, 9, 10, 11], [1]]
    assert plan.pass_index == 1


def test_while_nacks_are_gathered_no_pass_begins() -> None:
    plan = schedule()
    _windows, sequence = drain(plan)
    ask(plan, {2: K, 5: 1}, sequence)
    assert plan.poll_window(4, sequence, surplus(0), wrap=False) is None
    assert plan.pending
    assert [window.slices.tolist() for window in drain(plan, sequence)[0]] == [[5], [2]]


def test_one_pass_serves_the_union_of_all_wants_in_order() -> None:
    plan = schedule(20)
    _windows, sequence = drain(plan)
    for start, stop in ((0, 6), (3, 9), (15, 17)):
        ask(plan, dict.fromkeys(range(start, stop), K), sequence)
    windows, _sequence = drain(plan, sequence, size=32)
    assert [window.slices.tolist() for window in windows] == [[*range(9), 15, 16]]
    assert plan.pass_index == 1


def test_whole_requests_start_at_the_first_source_symbol_and_move_the_fresh_ones_on() -> None:
    plan = schedule()
    _windows, sequence = drain(plan, extra=2)
    ask(plan, {1: K}, sequence)
    windows, sequence = drain(plan, sequence, extra=4)
    assert windows[0].positions.tolist() == [0]
    assert windows[0].counts.tolist() == [K + 4]
    ask(plan, {1: 1}, sequence)
    windows, _sequence = drain(plan, sequence)
    assert windows[0].positions.tolist() == [K + 4]


def answers(plan: Schedule, need: int, count: int, sequence: int) -> list[npt.NDArray[np.int64]]:
    """Ask for as many symbols of the only slice, again and again; returns the ESIs of each answer."""
    found = []
    symbols = plan.partition.last_symbols
    for _answer in range(count):
        ask(plan, {0: need}, sequence)
        (window,), sequence = drain(plan, sequence)
        positions = window.positions[0] + np.arange(window.counts[0])
        esis = plan.partition.esi(positions, np.full(len(positions), symbols))
        assert window.source_count == np.count_nonzero(esis < plan.partition.source_symbols)
        found.append(esis)
    return found


def test_all_points_are_used_before_any_is_used_again() -> None:
    plan = schedule(1)
    _windows, sequence = drain(plan)
    esis = np.concatenate(answers(plan, 7, 36, sequence))
    assert esis[: 255 - K].tolist() == list(range(K, 255))
    assert esis[255 - K :].tolist() == list(range(len(esis) - 255 + K))


@pytest.mark.parametrize(("need", "last"), [(1, K), (2, K), (7, K), (2, 3)])
def test_once_all_points_were_used_an_answer_reaches_whoever_holds_a_run_of_them(need: int, last: int) -> None:
    plan = schedule(1, last=last)
    windows, sequence = drain(plan, extra=1000)
    assert windows[0].counts.tolist() == [last + 255 - K]
    found = answers(plan, need, 255, sequence)
    held = set(range(40))
    assert max(sum(set(esis.tolist()) <= held for esis in found[i : i + 4]) for i in range(len(found) - 4)) <= 2
    assert len(np.unique(np.concatenate(found))) == last + 255 - K, "in time, each is sent"


def test_once_all_points_were_used_more_go_out_than_are_lacking() -> None:
    """Who lacks 2 of 8 holds 6 of 255, and who lacks 100 of 128 holds 28: as large a share of an answer is not new."""
    partition = Partition(64 * 128, 64, 128)
    plan = Schedule(limits.OBJECT_IMAGE, partition, np.ones(1, np.bool_))
    drain(plan, extra=1000)
    assert [len(answers(plan, need, 1, need * 1000)[0]) for need in (1, 30, 100)] == [2, 49, 113]
    ask(plan, {0: 30}, limits.SEQUENCE_MAX)
    plan.release()
    assert plan.rolling_end(1000, surplus(3)) == 1000 + 49 + 3


def test_repairs_can_be_held_back_until_everything_went_out_once() -> None:
    plan = schedule()
    first = plan.poll_window(4, 0, surplus(0))
    assert first is not None
    ask(plan, {0: 1, 1: K}, first.datagram_count)
    plan.release()
    windows, sequence = [], first.datagram_count
    while (window := plan.poll_window(4, sequence, surplus(0), repairs_last=True)) is not None:
        windows.append(window.slices.tolist())
        sequence += window.datagram_count
    assert windows == [[4, 5, 6, 7], [8, 9], [0], [1]]


def test_a_slice_never_goes_out_with_more_than_its_points() -> None:
    plan = schedule(2, last=3)
    windows, _sequence = drain(plan, extra=1000)
    assert windows[0].counts.tolist() == [255, 3 + 255 - K]


def test_the_end_of_the_repairs_in_line_is_known_before_they_go_out() -> None:
    plan = schedule()
    _windows, sequence = drain(plan)
    ask(plan, {1: 1, 2: 1, 5: 3}, sequence)
    assert plan.rolling_end(sequence, surplus(2)) == sequence, "what is being gathered is not in line"
    plan.release()
    end = plan.rolling_end(sequence, surplus(2))
    windows, ends = drain(plan, sequence, size=2, extra=2)
    assert len(windows) == 2
    assert end == ends
    assert plan.rolling_end(ends, surplus(2)) == ends


def test_the_surplus_rule_is_told_what_is_whole() -> None:
    plan = schedule(3, last=2)
    told = []

    def rule(needed: int, whole: bool) -> int:
        told.append((needed, whole))
        return 0

    plan.poll_window(4, 0, rule)
    assert sorted(set(told)) == [(2, True), (K, True)]
    ask(plan, {1: 2}, 1000)
    told.clear()
    plan.poll_window(4, 1000, rule)
    assert told == [(2, False)]


def test_a_need_beyond_the_slice_means_all_of_it() -> None:
    plan = schedule(3, last=2)
    _windows, sequence = drain(plan)
    assert ask(plan, {0: 255, 2: 255}, sequence) == {0: K, 2: 2}


@pytest.mark.parametrize("slice_count", [0, 1])
def test_an_object_without_needs_has_no_window(slice_count: int) -> None:
    partition = Partition(64 * K * slice_count, 64, K)
    plan = Schedule(1, partition, np.zeros(slice_count, np.bool_))
    assert plan.poll_window(4, 0, surplus(0)) is None
    assert plan.first_pass_cursor == slice_count
    assert plan.needed_symbols == 0


def test_what_is_required_late_is_a_first_pass_like_any_other() -> None:
    plan = schedule(wanted=[])
    assert (plan.pending, plan.first_pass_cursor) == (False, 10)
    plan.require(np.arange(10) >= 4)
    assert plan.first_pass_cursor == 0
    windows, _sequence = drain(plan)
    assert [window.slices.tolist() for window in windows] == [[4, 5, 6, 7], [8, 9]]


def test_where_all_is_by_request_anything_may_be_asked_for_at_any_time() -> None:
    plan = schedule(wanted=[])
    assert ask(plan, {1: K, 8: K}, 0) == {1: K, 8: K}
    assert plan.first_pass_cursor == 10
    windows, _sequence = drain(plan, size=1)
    assert [window.slices.tolist() for window in windows] == [[1], [8]]


@pytest.mark.parametrize(
    ("symbol_size", "expected"), [(32, (32, 128)), (1440, (32, 128)), (8928, (8, 25)), (1 << 20, (1, 1))]
)
def test_windows_of_large_symbols_have_fewer_slices(symbol_size: int, expected: tuple[int, int]) -> None:
    assert window_slices(symbol_size) == expected
