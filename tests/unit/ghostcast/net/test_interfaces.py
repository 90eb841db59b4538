"""Goal: an interface is found by name or address, and the largest symbol fits its MTU.

Method: the loopback interface, which every machine has; made-up interfaces for the arithmetic.
"""

from __future__ import annotations

import dataclasses

import pytest

from ghostcast.net import interfaces
from ghostcast.net.interfaces import Interface, choose_interface, list_interfaces
from protocol import limits
from protocol.errors import UsageError


def made_up(name: str = "eth0", address: str = "192.0.2.1", mtu: int = 1500, up: bool = True) -> Interface:
    return Interface(name, address, mtu, 0, "", address.startswith("127."), up)


def test_loopback_is_found_by_address_and_by_name() -> None:
    by_address = choose_interface("127.0.0.1")
    assert by_address.loopback
    assert by_address.up
    assert choose_interface(by_address.name).name == by_address.name
    assert by_address in list_interfaces()


def test_an_unknown_interface_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"no interface 'nosuch0' .* \(127\.0\.0\.1\)"):
        choose_interface("nosuch0")


def test_without_a_wish_some_interface_that_is_up_is_taken_or_the_choice_is_told() -> None:
    try:
        assert choose_interface(None).up
    except UsageError as error:
        assert "--interface" in str(error)  # noqa: PT017 (a machine with several networks and no route)


@pytest.mark.parametrize(
    ("found", "routed", "chosen"),
    [
        ([made_up("lo", "127.0.0.1"), made_up("eth0"), made_up("eth1", "192.0.2.9")], "192.0.2.9", "eth1"),
        ([made_up("lo", "127.0.0.1"), made_up("eth0"), made_up("eth1", "192.0.2.9", up=False)], "192.0.2.9", "eth0"),
        ([made_up("lo", "127.0.0.1"), made_up("eth0")], None, "eth0"),
        ([made_up("lo", "127.0.0.1"), made_up("eth0", up=False)], None, "lo"),
    ],
)
def test_the_route_decides_then_the_only_one_then_loopback(
    found: list[Interface], routed: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interfaces, "list_interfaces", lambda: found)
    monkeypatch.setattr(interfaces, "_routed_address", lambda: routed)
    assert choose_interface(None).name == chosen


@pytest.mark.parametrize(
    ("found", "wish", "message"),
    [
        ([made_up("eth0"), made_up("eth1", "192.0.2.9")], None, "eth0 (192.0.2.1), eth1 (192.0.2.9)"),
        ([], None, "ip link set lo up"),
        ([made_up("eth0", up=False)], "eth0", "eth0 is down"),
        ([], "eth0", "choose one of none"),
    ],
)
def test_no_choice_is_told_with_the_way_out(
    found: list[Interface], wish: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interfaces, "list_interfaces", lambda: found)
    monkeypatch.setattr(interfaces, "_routed_address", lambda: None)
    with pytest.raises(UsageError) as caught:
        choose_interface(wish)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("mtu", "symbol_size"), [(1500, 1440), (9000, limits.SYMBOL_SIZE_MAX), (65_536, limits.SYMBOL_SIZE_MAX), (576, 512)]
)
def test_the_largest_symbol_fits_the_mtu(mtu: int, symbol_size: int) -> None:
    interface = made_up(mtu=mtu)
    assert interface.symbol_size_max == symbol_size
    assert symbol_size % limits.SYMBOL_SIZE_STEP == 0
    assert symbol_size + 32 + 28 <= mtu


def test_what_a_driver_says_without_a_cable_limits_nothing() -> None:
    cable = dataclasses.replace(made_up(), speed_bytes_per_s=10_000 * limits.MEGABIT)
    assert cable.link_bytes_per_s == cable.speed_bytes_per_s
    assert dataclasses.replace(cable, virtual=True).link_bytes_per_s == 0
    assert made_up().link_bytes_per_s == 0


def test_loopback_has_no_driver_and_an_unknown_interface_none_either() -> None:
    assert not choose_interface("127.0.0.1").virtual
    assert choose_interface("127.0.0.1").link_bytes_per_s == 0
    assert not interfaces.is_virtual("nosuch0")
