"""Goal: rules that would drop our datagrams are suspected, with the command that lets them in, and others are not.

Method: listings as nft and iptables print them, one trap each.
"""

from __future__ import annotations

from typing import Any

import pytest

from ghostcast.measure.finding import Grade
from ghostcast.measure.firewall import Fate, Imagined, judge_iptables, judge_nft, suspicions

GROUP = Imagined("the multicast groups", "eth0", "239.255.71.67", 7767)
UNICAST = Imagined("this host, any port", "eth0", "10.0.0.5", None)

Rule = tuple[dict[str, Any], ...]
ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, field: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": field}}, right, op)


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


def listing(
    *rules: Rule, policy: str = "accept", hook: str = "input", others: dict[str, list[Rule]] | None = None
) -> Any:
    base = {"family": "inet", "table": "t", "name": "in", "hook": hook, "policy": policy}
    entries: list[dict[str, Any]] = [{"metainfo": {}}, {"chain": base}]
    entries += [{"rule": {"family": "inet", "table": "t", "chain": "in", "expr": list(rule)}} for rule in rules]
    for name, chain in (others or {}).items():
        entries.append({"chain": {"family": "inet", "table": "t", "name": name}})
        entries += [{"rule": {"family": "inet", "table": "t", "chain": name, "expr": list(rule)}} for rule in chain]
    return {"nftables": entries}


UDP = meta("l4proto", "udp")
PORT = payload("udp", "dport", 7767)
ESTABLISHED: Rule = (match({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT)


@pytest.mark.parametrize(
    ("rules", "fate"),
    [
        (listing(), None),
        (listing(policy="drop"), Fate.DROPPED),
        (listing(policy="drop", hook="forward"), None),
        (listing(ESTABLISHED, policy="drop"), Fate.DROPPED),
        (listing(ESTABLISHED, (PORT, ACCEPT), policy="drop"), None),
        (listing((payload("udp", "dport", {"set": [53, {"range": [7000, 8000]}]}), ACCEPT), policy="drop"), None),
        (listing((payload("udp", "dport", 53), ACCEPT), policy="drop"), Fate.DROPPED),
        (listing((payload("udp", "dport", 53), DROP)), None),
        (listing((payload("tcp", "dport", 7767), DROP)), None),
        (listing((UDP, DROP)), Fate.DROPPED),
        (listing((UDP, {"reject": {}})), Fate.DROPPED),
        (listing((payload("ip", "daddr", {"prefix": {"addr": "239.0.0.0", "len": 8}}), DROP)), Fate.DROPPED),
        (listing((payload("ip", "daddr", {"range": ["224.0.0.1", "224.0.0.9"]}), DROP)), None),
        (listing((payload("ip", "daddr", "239.255.71.67"), DROP)), Fate.DROPPED),
        (listing((payload("ip", "daddr", "@some-set"), DROP)), Fate.PERHAPS),
        (listing((meta("iifname", "eth1"), DROP)), None),
        (listing((meta("iifname", "eth*"), DROP)), Fate.DROPPED),
        (listing((meta("iifname", "lo", "!="), DROP)), Fate.DROPPED),
        (listing((meta("iifname", "lo"), ACCEPT), policy="drop"), Fate.DROPPED),
        (listing((meta("pkttype", "multicast"), DROP)), Fate.DROPPED),
        (listing((payload("ip", "saddr", "10.0.0.9"), DROP)), Fate.PERHAPS),
        (listing((payload("ip", "saddr", "10.0.0.9"), ACCEPT), policy="drop"), Fate.DROPPED),
        (listing((payload("ip", "saddr", "10.0.0.9"), DROP), (PORT, ACCEPT), policy="drop"), Fate.PERHAPS),
        (listing((UDP, {"counter": {}}, ACCEPT), (DROP,)), None),
        (listing(({"jump": {"target": "more"}},), policy="drop", others={"more": [(PORT, ACCEPT)]}), None),
        (listing(({"goto": {"target": "more"}},), others={"more": [(UDP, DROP)]}), Fate.DROPPED),
        (listing(({"jump": {"target": "in"}},)), None),  # a chain that jumps to itself ends
        (listing((UDP, {"xt": {"type": "match", "name": "comment"}}, DROP)), Fate.PERHAPS),
    ],
)
def test_nft(rules: dict[str, Any], fate: Fate | None) -> None:
    found = judge_nft(rules, GROUP)
    assert [place.fate for place in found] == ([fate] if fate else [])
    for place in found:
        assert place.insert == "nft insert rule inet t in iifname eth0 udp dport 7767 accept"


def test_a_port_that_cannot_be_known_is_not_let_in_by_number() -> None:
    (place,) = judge_nft(listing((PORT, ACCEPT), policy="drop"), UNICAST)
    assert place.fate is Fate.DROPPED
    assert place.insert == "nft insert rule inet t in iifname eth0 meta l4proto udp accept"
    assert judge_nft(listing((UDP, ACCEPT), policy="drop"), UNICAST) == []


@pytest.mark.parametrize(
    ("rules", "fate"),
    [
        ("-P INPUT ACCEPT", None),
        ("-P INPUT DROP", Fate.DROPPED),
        ("-P INPUT DROP\n-A INPUT -p udp -m udp --dport 7767 -j ACCEPT", None),
        ("-P INPUT DROP\n-A INPUT -p udp -m udp --dport 7000:8000 -j ACCEPT", None),
        ("-P INPUT DROP\n-A INPUT -p tcp -m tcp --dport 7767 -j ACCEPT", Fate.DROPPED),
        ("-P INPUT DROP\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", Fate.DROPPED),
        ("-P INPUT ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited", Fate.DROPPED),
        ("-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT ! -i lo -j DROP", Fate.DROPPED),
        ("-P INPUT ACCEPT\n-A INPUT -d 224.0.0.0/4 -j DROP", Fate.DROPPED),
        ("-P INPUT ACCEPT\n-A INPUT -s 10.0.0.9/32 -j DROP", Fate.PERHAPS),
        ("-P INPUT ACCEPT\n-A INPUT -j ufw-before-input", Fate.PERHAPS),
        ("-P INPUT ACCEPT\n-A INPUT -p udp -j LOG\n-A INPUT -i eth+ -p udp -j ACCEPT\n-A INPUT -j DROP", None),
    ],
)
def test_iptables(rules: str, fate: Fate | None) -> None:
    found = judge_iptables(rules, GROUP)
    assert [place.fate for place in found] == ([fate] if fate else [])


def test_what_came_through_is_no_fault() -> None:
    rules, both = listing((UDP, DROP)), [GROUP, UNICAST]
    certain = suspicions(rules, None, both, {True: False, False: False})
    assert [check.grade for check in certain] == [Grade.FAULT, Grade.FAULT]
    assert "drops UDP port 7767 to the multicast groups" in certain[0].text
    disproved = suspicions(rules, "-P INPUT DROP", both, {True: True, False: True})
    assert {check.grade for check in disproved} == {Grade.WARNING}
    assert suspicions(None, None, both, {True: False, False: False}) == []
