"""Goal: a pause between fetches is long where a stream is slow, and never so long that something is lost or held up.

Method: its function, called with figures; the thread at work is tested by whole sessions (``test_engine``).
"""

from __future__ import annotations

import random

import pytest

from protocol import limits
from receivers import gathering

FAST, SLOW = 1.25e9, 24e6
LARGE, SMALL = 64 << 20, 1 << 20
AIM = 1600


def pause_ms(
    datagrams: int,
    elapsed_ms: float,
    lacking: int = 1 << 20,
    size: int = LARGE,
    rate: float = SLOW,
    expected: float | None = None,
) -> float:
    pause = gathering.pause_after(
        datagrams,
        elapsed_ms / 1000,
        aim=AIM,
        lacking=lacking,
        buffer_size=size,
        told=rate,
        expected=rate if expected is None else expected,
    )
    return 1000 * pause.seconds


def test_it_brings_a_batch_at_the_rate_at_which_datagrams_came() -> None:
    assert pause_ms(1600, 20) == pytest.approx(20)
    assert pause_ms(400, 10) == pytest.approx(40)


def test_a_slow_stream_does_not_keep_control_messages_waiting_for_ever() -> None:
    assert pause_ms(100, 50) == 1000 * gathering.PAUSE_MAX_S


def test_a_fast_stream_is_fetched_on_and_on() -> None:
    assert pause_ms(1600, 0.9) == 0


@pytest.mark.parametrize("datagrams", [1, 500])
def test_a_clock_that_has_not_moved_is_borne(datagrams: int) -> None:
    assert pause_ms(datagrams, 0) == (6 if datagrams == 1 else 0)


@pytest.mark.parametrize("datagrams", [0, 1, gathering.TRICKLE])
def test_after_a_trickle_it_is_short(datagrams: int) -> None:
    assert pause_ms(datagrams, 50) == 1000 * gathering.PAUSE_TRICKLE_S


def test_the_last_datagrams_are_fetched_sooner_and_sooner() -> None:
    assert [pause_ms(400, 10, lacking) for lacking in (6400, 3200, 1600, 800, 0)] == pytest.approx([40, 20, 10, 6, 6])


def test_who_lacks_nothing_is_not_busy_with_what_others_get() -> None:
    assert pause_ms(100, 1, lacking=0, rate=150e6) == pytest.approx(6)
    assert pause_ms(800, 2, lacking=1, rate=600e6) == pytest.approx(4)  # a batch of it still fits the slots


@pytest.mark.parametrize("size", [LARGE, SMALL])
@pytest.mark.parametrize("rate", [SLOW, FAST])
@pytest.mark.parametrize("datagrams", [3, 50, 500])
def test_what_comes_meanwhile_fits_the_buffer_even_if_the_stream_is_suddenly_as_fast_as_it_may_be(
    size: int, rate: float, datagrams: int
) -> None:
    assert pause_ms(datagrams, 100, size=size, rate=rate) / 1000 * rate <= size / 4


@pytest.mark.parametrize("size", [LARGE, SMALL])
def test_where_less_is_expected_than_was_told_the_buffer_still_holds_what_was_told(size: int) -> None:
    pause = pause_ms(1000, 50, size=size, rate=FAST, expected=SLOW)
    assert pause >= 2 * pause_ms(1000, 50, size=size, rate=FAST)
    assert pause / 1000 * FAST <= 0.75 * size


def test_a_small_buffer_under_a_fast_stream_is_never_left_alone() -> None:
    assert pause_ms(500, 5, size=SMALL, rate=FAST) == 0


@pytest.mark.parametrize(
    ("before", "fetched", "overdue"),
    [
        pytest.param(400, 1600, False, id="the stream went on"),
        pytest.param(400, 900, False, id="it became slower"),
        pytest.param(400, 700, True, id="it stopped on the way"),
        pytest.param(400, 0, True, id="only control came"),
        pytest.param(3, 0, False, id="after a pause that is no longer than chance"),
    ],
)
def test_what_waited_for_the_end_of_a_long_pause_is_told(before: int, fetched: int, overdue: bool) -> None:
    pause = gathering.pause_after(before, 0.01, aim=AIM, lacking=1 << 20, buffer_size=LARGE, told=SLOW, expected=SLOW)
    assert pause.overdue(fetched) is overdue
    assert not gathering.Pause().overdue(0)


# --- what may come ----------------------------------------------------------------------------------------------------


def arrivals(*fetches: tuple[float, float]) -> gathering.Arrivals:
    """Fetches of so many bytes each, so many seconds apart."""
    seen = gathering.Arrivals()
    for size, elapsed_s in fetches:
        seen.add(int(size), elapsed_s)
    return seen


def test_at_first_the_rate_that_was_told_may_come() -> None:
    assert arrivals().expected(FAST) == FAST
    assert arrivals((1000, 0.02)).expected(FAST) == FAST


def test_where_much_less_comes_than_was_told_pauses_are_as_long_as_for_that() -> None:
    seen = arrivals(*[(SLOW * 0.05, 0.05)] * 12)
    assert seen.expected(FAST) == pytest.approx(gathering.SURGE * SLOW)
    assert seen.expected(SLOW) == SLOW, "it cannot be more than was told"


def test_the_most_that_came_lately_counts_and_is_forgotten() -> None:
    quiet, burst = (SLOW * 0.05, 0.05), (0.1 * FAST * 0.05, 0.05)
    assert arrivals(*[quiet] * 12, burst, *[quiet] * 5).expected(FAST) == pytest.approx(gathering.SURGE * 0.1 * FAST)
    assert arrivals(*[quiet] * 12, burst, *[quiet] * 100).expected(FAST) == pytest.approx(gathering.SURGE * SLOW)


def test_two_fetches_at_once_are_no_burst() -> None:
    """What the second one brings came while the first was taken in."""
    fetches = [(SLOW * 0.05, 0.05), (1440 * 32, 0.0001)] * 20
    assert arrivals(*fetches).expected(FAST) < 2 * gathering.SURGE * SLOW


def test_only_a_fetch_that_goes_on_with_the_last_one_says_how_fast_it_comes() -> None:
    """Control, the manifest, nothing, the image, a datagram of control between, the manifest once more for others."""
    manifest, image = limits.OBJECT_MANIFEST, limits.OBJECT_IMAGE
    succession = gathering.Succession()
    brought = [None, manifest, manifest, None, None, image, image, image, None, image, image, manifest, image, image]
    assert [succession.goes_on(newest) for newest in brought] == [
        False, False, True, False, False, False, True, True, False, False, True, False, False, True,
    ]  # fmt: skip


def test_what_does_not_go_on_is_looked_for_again_soon() -> None:
    """The image's first 300 datagrams came in the last of 7 ms: at 6 Gbit/s, a pause by that would bring 16 MB."""
    assert pause_ms(300, 7, rate=7.5e8) > 20
    assert pause_ms(0, 7, rate=7.5e8) == gathering.PAUSE_TRICKLE_S * 1000


def test_what_brings_no_data_says_nothing_of_a_rate() -> None:
    """Where the stream rests, control comes twice in 100 ms; after the pause, the second one is alone."""
    seen = arrivals(*[(SLOW * 0.05, 0.05)] * 12, *[(0, 0.006)] * 1000)
    assert seen.expected(FAST) == pytest.approx(gathering.SURGE * SLOW)
    assert arrivals(*[(0, 0.006)] * 1000).expected(FAST) == FAST


def test_a_clock_that_stands_still_says_nothing() -> None:
    assert arrivals(*[(1000, 0.0)] * 100).expected(FAST) == FAST


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_fetched_there_is_a_pause(seed: int) -> None:
    rng, seen = random.Random(seed), gathering.Arrivals()
    for fetch in range(2000):
        resting = fetch // 200 % 2
        datagrams = 0 if resting else rng.choice((0, 1, 40, 1600))
        elapsed_s = rng.choice((0.0, 1e-6, 0.006, 0.1, 1e6))
        seen.add(datagrams * 1472, elapsed_s)
        told = rng.choice((1e4, SLOW, FAST))
        pause = gathering.pause_after(
            datagrams,
            elapsed_s,
            aim=AIM,
            lacking=rng.choice((0, 1, 1 << 20)),
            buffer_size=rng.choice((SMALL, LARGE)),
            told=told,
            expected=seen.expected(told),
        )
        assert 0 <= pause.seconds <= gathering.PAUSE_MAX_S


def test_what_lay_there_since_before_nothing_was_fetched_is_known_until_all_of_it_was() -> None:
    backlog = gathering.Backlog()
    assert not backlog.take(more=True)
    backlog.leave()
    backlog.leave()
    assert backlog.take(more=True)
    assert backlog.take(more=True)
    assert backlog.take(more=False), "the rest of it"
    assert not backlog.take(more=True)


def test_what_comes_after_a_fetch_that_found_nothing_did_not_lie_there() -> None:
    backlog = gathering.Backlog()
    backlog.leave()
    backlog.take(more=False)
    assert not backlog.take(more=False)
