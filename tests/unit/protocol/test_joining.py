"""Goal: a receiver says JOIN until it is welcome, in the way that its sender and its network need.

Method: the machine alone, by ``receiver_desk``.
"""

from __future__ import annotations

import pytest

from protocol import limits, messages
from protocol.receiver_events import ReceiverState, Welcomed
from tests.unit.protocol.receiver_desk import Desk


def test_it_joins_until_it_is_welcome() -> None:
    desk = Desk()
    desk.pass_time(0)
    desk.pass_time(7 * limits.SECOND_NS)
    joins = desk.said(messages.Join)
    assert 4 <= len(joins) <= 8
    assert joins[0] == messages.Join(bytes(range(16)), 9, "host", "/dev/x", -1, 0)
    desk.tell(messages.Welcome(bytes(16), 9, 3, 0))
    desk.tell(messages.Welcome(bytes(range(16)), 8, 3, 0))
    assert desk.session.receiver_index is None
    desk.welcome()
    desk.welcome()
    assert desk.events(Welcomed) == [Welcomed(3)]
    assert desk.session.state is ReceiverState.MANIFEST
    desk.pass_time(5 * limits.SECOND_NS)
    assert desk.said(messages.Join) == []


@pytest.mark.parametrize(("join_spread_ms", "told"), [(0, True), (249, True), (250, False), (2000, False)])
def test_a_small_fleet_that_is_not_answered_also_joins_by_way_of_the_group(join_spread_ms: int, told: bool) -> None:
    """A host that does not know the sender's link address yet keeps back what goes to the sender alone."""
    desk = Desk(join_spread_ms=join_spread_ms)
    desk.pass_time(join_spread_ms * limits.MILLISECOND_NS)
    joins = []
    for _second in range(10):
        desk.pass_time(limits.SECOND_NS)
        while (datagram := desk.session.poll_transmit()) is not None:
            joins.append(datagram)
    in_group = []
    while (datagram := desk.session.poll_group_transmit()) is not None:
        in_group.append(datagram)
    assert len(joins) > 1
    assert in_group == (joins[1:] if told else [])


@pytest.mark.parametrize(
    ("join_spread_ms", "repeat_ms"), [(0, 50), (14, 50), (90, 90), (249, 150), (250, 150), (2000, 150)]
)
def test_a_join_that_is_not_answered_is_repeated_the_sooner_the_smaller_the_fleet(
    join_spread_ms: int, repeat_ms: int
) -> None:
    """All wait for the last of sixteen; of thousands, the sender hears others meanwhile."""
    desk = Desk(join_spread_ms=join_spread_ms)
    while not (said := desk.said(messages.Join)):
        desk.pass_time(limits.MILLISECOND_NS)
    assert len(said) == 1
    first = desk.now
    while not desk.said(messages.Join):
        desk.pass_time(limits.MILLISECOND_NS)
    assert repeat_ms / 2 <= (desk.now - first) / limits.MILLISECOND_NS <= 1.5 * repeat_ms + 1


def test_who_has_no_welcome_when_sending_begins_does_not_wait_for_its_turn() -> None:
    """What a fast stream pushes out of the pool meanwhile would have to come again."""
    desk = Desk()
    desk.pass_time(3 * limits.SECOND_NS)
    desk.said(messages.Join)
    desk.status()
    desk.pass_time(limits.JOIN_RETRY_NS)
    assert len(desk.said(messages.Join)) in (1, 2)
    for _status in range(3):
        desk.status()
    assert desk.said(messages.Join) == [], "once, however often the sender speaks"
