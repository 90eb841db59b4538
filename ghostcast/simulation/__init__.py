"""Whole fleets on a virtual clock: the real state machines, a network and disks that exist only as numbers.

    from ghostcast.simulation import GilbertElliott, Member, Scenario, Way, simulate

    member = Member(link=Way(loss=(GilbertElliott(0.01, burst_length=20),), delay_ns=100_000))
    result = simulate(Scenario(receivers=1000, member=member, seed=7))
    result.overhead, result.data_last_s, result.control_peak_per_s

Everything random comes from ``Scenario.seed``; the same scenario gives the same ``Result``.
"""

from ghostcast.simulation.clock import StuckError
from ghostcast.simulation.disk import Disk
from ghostcast.simulation.invariants import InvariantError
from ghostcast.simulation.link import Queue, Way
from ghostcast.simulation.loss import Bernoulli, Bursts, GilbertElliott
from ghostcast.simulation.result import Result
from ghostcast.simulation.scenario import Member, Scenario
from ghostcast.simulation.world import Machines, Progress, simulate

__all__ = [
    "Bernoulli",
    "Bursts",
    "Disk",
    "GilbertElliott",
    "InvariantError",
    "Machines",
    "Member",
    "Progress",
    "Queue",
    "Result",
    "Scenario",
    "StuckError",
    "Way",
    "simulate",
]
