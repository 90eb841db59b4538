"""Would this host's packet filter drop our datagrams? A suspicion, from rules as nft and iptables list them.

Pure: listings in, suspicions out. Rules are followed as the kernel does, for one imagined datagram; a condition that is
not understood makes what follows from it a "perhaps". The echo tests have the last word.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import shlex
from typing import Any

from ghostcast.measure.finding import Check, Grade

JUMPS_MAX = 8

IPTABLES_CHAIN = ("ip", "filter", "INPUT")
"""The chain that iptables keeps in nftables; iptables itself lists it better."""


class Fate(enum.Enum):
    """What becomes of a datagram."""

    PASSES = "passes"
    PERHAPS = "perhaps"
    """A rule that is not understood may drop it."""
    DROPPED = "dropped"


@dataclasses.dataclass(frozen=True, slots=True)
class Imagined:
    """An incoming datagram that is only thought of."""

    what: str
    """For people: ``the discovery group``."""
    interface: str
    address: str
    """Where it goes."""
    port: int | None
    """None: some port that cannot be known."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """A base chain, or an iptables chain, that drops."""

    fate: Fate
    chain: str
    insert: str
    """The command that lets the datagram in."""


def judge_nft(listing: dict[str, Any], datagram: Imagined) -> list[_Place]:
    """Return the base chains of ``nft -j list ruleset`` that would, or may, drop an incoming datagram."""
    chains: dict[tuple[str, str, str], dict[str, Any]] = {}
    rules: dict[tuple[str, str, str], list[list[Any]]] = {}
    for entry in listing.get("nftables", []):
        if chain := entry.get("chain"):
            chains[chain["family"], chain["table"], chain["name"]] = chain
        elif rule := entry.get("rule"):
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule.get("expr", []))
    found = []
    for key, chain in chains.items():
        family, table, name = key
        if chain.get("hook") != "input" or family not in ("ip", "inet") or key == IPTABLES_CHAIN:
            continue
        fate = _walk(key, rules, datagram, 0)
        if fate is None:
            fate = Fate.DROPPED if chain.get("policy") == "drop" else Fate.PASSES
        if fate is not Fate.PASSES:
            match = f"iifname {datagram.interface} meta l4proto udp"
            if datagram.port is not None:
                match = f"iifname {datagram.interface} udp dport {datagram.port}"
            found.append(
                _Place(fate, f"{family} {table} {name}", f"nft insert rule {family} {table} {name} {match} accept")
            )
    return found


def _walk(
    key: tuple[str, str, str], rules: dict[tuple[str, str, str], list[list[Any]]], datagram: Imagined, depth: int
) -> Fate | None:
    """Follow a chain; None if it says nothing about the datagram."""
    doubt = False
    for expressions in rules.get(key, []):
        matches: bool | None = True
        verdict: Fate | None = None
        for expression in expressions:
            if not isinstance(expression, dict):
                continue
            if "match" in expression:
                one = _nft_matches(expression["match"], datagram)
                matches = False if one is False or matches is False else None if None in (one, matches) else True
            elif "xt" in expression or "vmap" in expression:
                matches = None if matches else matches
            elif "accept" in expression:
                verdict = Fate.PASSES
            elif "drop" in expression or "reject" in expression:
                verdict = Fate.DROPPED
            elif (target := expression.get("jump") or expression.get("goto")) and depth < JUMPS_MAX:
                verdict = _walk((key[0], key[1], target["target"]), rules, datagram, depth + 1)
        if matches is False or verdict is None:
            continue
        if verdict is Fate.PERHAPS or (matches is None and verdict is Fate.DROPPED):
            doubt = True
        elif matches is True:
            return Fate.PERHAPS if doubt else verdict
    return Fate.PERHAPS if doubt else None


def _nft_matches(match: dict[str, Any], datagram: Imagined) -> bool | None:
    """Return whether a condition holds; None if that cannot be told."""
    left, right = match.get("left"), match.get("right")
    held: bool | None = None
    if not isinstance(left, dict):
        return None
    if payload := left.get("payload"):
        protocol, field = payload.get("protocol"), payload.get("field")
        if protocol in ("tcp", "icmp", "icmpv6", "igmp", "ip6", "sctp", "dccp"):
            held = False if match.get("op") != "!=" else None
        elif (protocol, field) in (("udp", "dport"), ("th", "dport")):
            held = None if datagram.port is None else _contains_number(right, datagram.port)
        elif (protocol, field) == ("ip", "daddr"):
            held = _contains_address(right, datagram.address)
        elif (protocol, field) == ("ip", "protocol"):
            held = _contains_name(right, "udp")
    elif meta := left.get("meta"):
        values = {
            "iifname": datagram.interface,
            "iif": datagram.interface,
            "l4proto": "udp",
            "nfproto": "ipv4",
            "protocol": "ip",
            "pkttype": "multicast" if ipaddress.IPv4Address(datagram.address).is_multicast else "host",
        }
        key = meta.get("key")
        held = _contains_name(right, values[key]) if key in values else None
    elif (conntrack := left.get("ct")) and conntrack.get("key") == "state":
        held = _contains_name(right, "new")  # multicast is nobody's answer
    elif "fib" in left:
        return None
    return (not held if match.get("op") == "!=" else held) if held is not None else None


def _elements(right: Any) -> list[Any]:
    if isinstance(right, dict) and "set" in right:
        return list(right["set"]) if isinstance(right["set"], list) else [right["set"]]
    return right if isinstance(right, list) else [right]


def _contains_number(right: Any, number: int) -> bool | None:
    for element in _elements(right):
        if isinstance(element, dict) and "range" in element:
            low, high = element["range"]
            if isinstance(low, int) and isinstance(high, int) and low <= number <= high:
                return True
        elif isinstance(element, int):
            if element == number:
                return True
        else:
            return None  # a named set, a service's name
    return False


def _contains_address(right: Any, address: str) -> bool | None:
    wanted = ipaddress.IPv4Address(address)
    for element in _elements(right):
        try:
            if isinstance(element, dict) and "prefix" in element:
                prefix = element["prefix"]
                if wanted in ipaddress.ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False):
                    return True
            elif isinstance(element, dict) and "range" in element:
                low, high = (ipaddress.IPv4Address(end) for end in element["range"])
                if low <= wanted <= high:
                    return True
            elif isinstance(element, str):
                if wanted == ipaddress.IPv4Address(element):
                    return True
            else:
                return None
        except ValueError:
            return None
    return False


def _contains_name(right: Any, name: str) -> bool | None:
    for element in _elements(right):
        if not isinstance(element, str) or element.startswith("@"):
            return None
        if element == name or (element.endswith("*") and name.startswith(element[:-1])):
            return True
    return False


def judge_iptables(listing: str, datagram: Imagined) -> list[_Place]:
    """Return whether ``iptables -S INPUT`` would, or may, drop an incoming datagram."""
    policy, doubt, fate = Fate.PASSES, False, None
    for line in listing.splitlines():
        words = shlex.split(line)
        if words[:2] == ["-P", "INPUT"]:
            policy = Fate.DROPPED if words[2] == "DROP" else Fate.PASSES
        elif words[:2] == ["-A", "INPUT"] and fate is None:
            matches, target = _iptables_matches(words[2:], datagram)
            if matches is False:
                continue
            verdict = {"ACCEPT": Fate.PASSES, "DROP": Fate.DROPPED, "REJECT": Fate.DROPPED}.get(target)
            if target in ("LOG", "NFLOG", "MARK", ""):
                continue
            if verdict is None or (matches is None and verdict is Fate.DROPPED):
                doubt = True
            elif matches is True:
                fate = verdict
    fate = fate or policy
    if fate is Fate.PASSES and not doubt:
        return []
    port = "" if datagram.port is None else f" --dport {datagram.port}"
    command = f"iptables -I INPUT -i {datagram.interface} -p udp{port} -j ACCEPT"
    return [_Place(Fate.PERHAPS if doubt else fate, "iptables INPUT", command)]


def _iptables_matches(words: list[str], datagram: Imagined) -> tuple[bool | None, str]:
    """Return whether a rule's conditions hold (None: cannot be told), and its target."""
    matches: bool | None = True
    target, negated = "", False
    position = 0

    def both(one: bool | None) -> bool | None:
        if one is not None and negated:
            one = not one
        return False if False in (matches, one) else None if None in (matches, one) else True

    while position < len(words):
        word = words[position]
        value = words[position + 1] if position + 1 < len(words) else ""
        if word == "!":
            negated, position = True, position + 1
            continue
        if word in ("-j", "-g"):
            target = value
            break
        if word == "-p":
            matches = both(value in ("udp", "all"))
        elif word == "-i":
            matches = both(
                value == datagram.interface or (value.endswith("+") and datagram.interface.startswith(value[:-1]))
            )
        elif word == "--dport":
            low, _, high = value.partition(":")
            known = datagram.port is not None and low.isdigit()
            matches = both(int(low) <= (datagram.port or 0) <= int(high or low) if known else None)
        elif word == "-d":
            matches = both(ipaddress.IPv4Address(datagram.address) in ipaddress.ip_network(value, strict=False))
        elif word in ("--ctstate", "--state"):
            matches = both("NEW" in value.split(","))
        elif word != "-m":
            matches = both(None)
        negated, position = False, position + 2
    return matches, target


def suspicions(
    nft: dict[str, Any] | None, iptables: str | None, datagrams: list[Imagined], came: dict[bool, bool]
) -> list[Check]:
    """Return what the packet filter may do to our datagrams.

    Args:
        nft: what ``nft -j list ruleset`` said, None where it could not be asked.
        iptables: what ``iptables -S INPUT`` said, None where it could not be asked.
        datagrams: those that a clone needs.
        came: whether any unicast (False), any multicast (True) passed the same filter: then only conditions on who
            sends are left, and nothing is certain.
    """
    found: dict[str, Check] = {}
    for datagram in datagrams:
        places = judge_nft(nft, datagram) if nft is not None else []
        places += judge_iptables(iptables, datagram) if iptables is not None else []
        multicast = ipaddress.IPv4Address(datagram.address).is_multicast
        for place in places:
            certain = place.fate is Fate.DROPPED and not came[multicast]
            port = "" if datagram.port is None else f" port {datagram.port}"
            does = "drops" if certain else "may drop"
            text = f"the packet filter ({place.chain}) {does} UDP{port} to {datagram.what}"
            grade = Grade.FAULT if certain else Grade.WARNING
            found.setdefault(place.insert, Check("firewall", grade, text, place.insert))
    return list(found.values())
