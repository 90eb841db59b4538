"""Goal: groups stay where they belong, and each kind of socket hears and says what it should.

Method: hypothesis for the arithmetic of groups; real sockets on loopback.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis import strategies as st

from ghostcast.net import sockets
from ghostcast.net.interfaces import Interface, choose_interface
from protocol import limits
from protocol.errors import UsageError
from tests.unit.ghostcast.net.link import FAST, PATIENCE_S, Link

SCOPE = ipaddress.IPv4Network(f"{limits.DATA_GROUP_BASE}/{32 - limits.DATA_GROUP_BITS}")


@hypothesis.given(st.one_of(st.integers(0, 2**32 - 1), st.integers(-300, 300).map(lambda near: near % 2**32)))
def test_every_session_has_a_data_group_that_switches_carry(session_id: int) -> None:
    group = sockets.data_group(session_id)
    assert ipaddress.IPv4Address(group) in SCOPE
    assert int(group.rsplit(".", 1)[1]) not in (0, 255)
    assert sockets.group_address(sockets.group_number(group)) == group == sockets.check_group(group)


def test_data_groups_differ_between_sessions() -> None:
    assert len({sockets.data_group(session_id) for session_id in range(1, 4000)}) > 3900


@pytest.mark.parametrize("group", ["192.0.2.1", "240.0.0.1", "0.0.0.0", "ff02::1", "lab", "", "239.1.2", "239.1.2.256"])
def test_what_is_no_group_is_refused(group: str) -> None:
    with pytest.raises(UsageError, match=r"--group .* 239\.0\.0\.0/8"):
        sockets.check_group(group)


@pytest.mark.parametrize("number", [0, 1, 0x7F000001, 0xC0000201, 0xF0000000, 0xFFFFFFFF])
def test_a_number_that_is_no_group_is_none(number: int) -> None:
    assert sockets.group_address(number) is None


def test_advice_is_given_only_where_the_kernel_capped_the_buffer() -> None:
    assert sockets.ReceiveBuffer(sockets.RECEIVE_BUFFER_SIZE).advice is None
    advice = sockets.ReceiveBuffer(212_992).advice
    assert advice is not None
    assert "208 KiB" in advice
    assert f"sysctl -w net.core.rmem_max={sockets.RECEIVE_BUFFER_SIZE}" in advice


def test_the_receive_buffer_grows_as_far_as_the_kernel_lets_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        before = opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert sockets.enlarge_receive_buffer(opened).granted >= before // 2


def loopback() -> Interface:
    return choose_interface("127.0.0.1")


def test_several_listeners_hear_the_same_group_and_port() -> None:
    group = sockets.data_group(4711)
    with sockets.open_listener(loopback(), group, 0, "data") as first:
        port = first.getsockname()[1]
        with (
            sockets.open_listener(loopback(), group, port, "data") as second,
            sockets.open_control(loopback(), 0) as control,
        ):
            control.sendto(b"to all", (group, port))
            assert [_heard(first), _heard(second)] == [b"to all", b"to all"]


def test_a_listener_hears_its_source_alone() -> None:
    group = sockets.data_group(4712)
    with sockets.open_listener(loopback(), group, 0, "data", source="127.0.0.1") as listener:
        port = listener.getsockname()[1]
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
            sockets.open_control(loopback(), 0) as friend,
        ):
            stranger.bind(("127.0.0.2", 0))
            stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            stranger.sendto(b"stranger", (group, port))
            friend.sendto(b"friend", (group, port))
            assert _heard(listener) == b"friend"


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot listen on 239\.1\.2\.3:{port} for data: .* --port"):
            sockets.open_listener(loopback(), "239.1.2.3", port, "data")


def test_a_group_that_cannot_be_joined_is_told() -> None:
    nowhere = Interface("eth9", "192.0.2.77", 1500, 0, "", False, True)
    with pytest.raises(UsageError, match=r"cannot join group 239\.1\.2\.3 on eth9 .* multicast on"):
        sockets.open_listener(nowhere, "239.1.2.3", 0, "data")


@pytest.mark.parametrize("open_one", [sockets.open_control, sockets.open_data_sender], ids=["control", "data"])
def test_a_socket_that_cannot_be_prepared_is_closed(open_one: Callable[[Interface, int], socket.socket]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r".*"):
        open_one(loopback(), 256)  # no such TTL: the last option that is set
    assert set(os.listdir("/proc/self/fd")) == before


def test_drops_and_backlog_are_what_the_kernel_counts() -> None:
    link = Link()
    try:
        state = sockets.socket_state(link.listener)
        assert (state.dropped, state.backlog) == (0, 0.0)
        link.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        link.sender.offload = False
        link.sender.send_rows(link.rows(200), lambda: FAST)
        state = sockets.socket_state(link.listener)
        assert state.dropped > 0
        assert 0.2 < state.backlog <= 1
        left = 200 - state.dropped
        assert len(link.fetch(left).sequences) == left
        assert sockets.socket_state(link.listener).backlog < 0.2
    finally:
        link.close()


def _heard(opened: socket.socket) -> bytes:
    assert select.select([opened], [], [], PATIENCE_S)[0]
    return opened.recv(2000)
