"""Goal: what a network without cables says of its speed is not taken for what it carries.

Method: a cable of the lab, which says 10 Gbit/s whatever the machine carries, and a bridge that passes its ports' on.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.lab.network import DirectLink

LIST = """
import dataclasses, json
from ghostcast.net.interfaces import list_interfaces
found = list_interfaces()
print(json.dumps([dataclasses.asdict(interface) | {"link": interface.link_bytes_per_s} for interface in found]))
"""


def test_cables_and_bridges_of_the_lab_limit_nothing() -> None:
    with DirectLink() as link:
        inside = ("ip", "netns", "exec", link.sender.namespace)
        for command in (
            "link add name br0 type bridge",
            "link add name port0 type veth peer name port1",
            "link set port0 master br0 up",
            "link set port1 up",
            "address add 192.0.2.1/24 dev br0",
            "link set br0 up",
        ):
            subprocess.run([*inside, "ip", *command.split()], check=True)
        listed = subprocess.run(
            [*inside, sys.executable, "-c", LIST], check=True, capture_output=True, text=True
        ).stdout
    found = {interface["name"]: interface for interface in json.loads(listed)}
    assert found[link.sender.interface]["speed_bytes_per_s"] > 0
    assert found[link.sender.interface]["virtual"]
    assert found["br0"]["virtual"]
    assert found["br0"]["speed_bytes_per_s"] > 0
    assert {interface["link"] for interface in found.values()} == {0}
