"""What came out of a run: times per receiver, traffic, control messages over time, and who did not end well."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ghostcast.simulation.recorder import INTERVAL_NS, INTERVALS_PER_S
from ghostcast.simulation.scenario import Scenario
from protocol import limits
from protocol.wire import DATA_HEADER_SIZE

FloatArray = npt.NDArray[np.float64]

INTERVAL_S = INTERVAL_NS / limits.SECOND_NS


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One run. Seconds count from the moment at which the sender began to send; NaN: it never happened."""

    scenario: Scenario
    raw_size: int
    stream_size: int
    joining_s: float
    """From the beginning until the sender began to send: discovery, JOIN, WELCOME."""
    ended_s: float
    """When the sender said that it was over."""
    data_s: FloatArray
    """``float64[receivers]``: when each held enough symbols of every slice."""
    durable_s: FloatArray
    """``float64[receivers]``: when each had written and flushed everything."""
    confirmed_s: FloatArray
    """``float64[receivers]``: when the sender had each one's DONE."""
    states: list[str]
    """How each ended: ``verified``, ``failed``, ``sender_gone``, ``dead``, ``left_out``, ``refused``."""
    reasons: list[str]
    """Why, where it is not verified."""
    needed_symbols: int
    """Source symbols of the image and of its manifest that a blank receiver needs."""
    source_symbols: int
    """Source symbols sent, repeats included."""
    repair_symbols: int
    """Repair symbols sent."""
    passes: int
    nacks: int
    """NACKs that the sender took in."""
    control: dict[str, npt.NDArray[np.int64]]
    """Message → ``int64[intervals]``: how many of them reached the sender in each 100 ms, from the beginning on."""
    multicast: dict[str, int]
    """Control messages that the sender multicast."""
    ingest_dropped: int
    """Control messages that found the sender's queue full."""
    sent: FloatArray
    """``float64[intervals]``: data datagrams that left the sender in each 100 ms, from the beginning on."""
    rate: FloatArray
    """``float64[intervals]``: the sender's pace, bytes per second; 0 where nothing was sent."""
    loss: FloatArray
    """``float64[receivers]``: share of the data datagrams that each did not get, as it measured."""

    # --- traffic --------------------------------------------------------------------------------------------------

    @property
    def sent_symbols(self) -> int:
        """All symbols sent."""
        return self.source_symbols + self.repair_symbols

    @property
    def overhead(self) -> float:
        """Symbols sent per symbol needed; 1 is the least."""
        return self.sent_symbols / max(1, self.needed_symbols)

    @property
    def wire_bytes(self) -> int:
        """Bytes of all data datagrams, headers of UDP and below not counted."""
        return self.sent_symbols * (self.scenario.symbol_size + DATA_HEADER_SIZE)

    # --- control --------------------------------------------------------------------------------------------------

    @property
    def control_per_interval(self) -> npt.NDArray[np.int64]:
        """``int64[intervals]``: control messages of all sorts that reached the sender in each 100 ms."""
        total = np.zeros(len(self.sent), np.int64)
        for row in self.control.values():
            total += row
        return total

    @property
    def control_peak_per_s(self) -> int:
        """The most control messages that reached the sender within any 100 ms, as a rate."""
        return int(self.control_per_interval.max(initial=0)) * INTERVALS_PER_S

    @property
    def control_total(self) -> int:
        """All control messages that reached the sender."""
        return int(self.control_per_interval.sum())

    # --- time -----------------------------------------------------------------------------------------------------

    @property
    def data_last_s(self) -> float:
        """When the last receiver that ended well held all its symbols."""
        return _last(self.data_s)

    @property
    def durable_last_s(self) -> float:
        """When the last copy was written and flushed."""
        return _last(self.durable_s)

    @property
    def ideal_s(self) -> float:
        """What the symbols that were sent take at the fixed rate; at the sender's link's, where it was to find one."""
        return self.wire_bytes / (self.scenario.rate or self.scenario.rate_ceiling)

    @property
    def verified(self) -> int:
        """How many ended verified."""
        return self.states.count("verified")

    def laggards(self, count: int) -> list[int]:
        """Return the receivers that were last to be durable, the last one first; those that never were come first."""
        order = np.argsort(np.where(np.isnan(self.durable_s), np.inf, self.durable_s), kind="stable")[::-1]
        found: list[int] = order[:count].tolist()
        return found

    def to_json(self, *, series: bool = True) -> dict[str, Any]:
        """Return everything as what JSON can hold; ``series`` adds the numbers over time."""
        scenario = self.scenario
        values: dict[str, Any] = {
            "seed": scenario.seed,
            "receivers": {
                "count": scenario.receivers,
                "states": {state: self.states.count(state) for state in sorted(set(self.states))},
                "loss_mean": _number(float(np.nanmean(self.loss)) if not np.isnan(self.loss).all() else float("nan")),
            },
            "image": {"raw_bytes": self.raw_size, "stored_bytes": self.stream_size},
            "seconds": {
                "joining": _number(self.joining_s),
                "data": _percentiles(self.data_s),
                "durable": _percentiles(self.durable_s),
                "confirmed": _percentiles(self.confirmed_s),
                "ended": _number(self.ended_s),
                "ideal": _number(self.ideal_s),
            },
            "symbols": {
                "needed": self.needed_symbols,
                "source": self.source_symbols,
                "repair": self.repair_symbols,
                "per_needed": round(self.overhead, 5),
            },
            "wire_bytes": self.wire_bytes,
            "passes": self.passes,
            "control": {
                "total": self.control_total,
                "peak_per_s": self.control_peak_per_s,
                "by_message": {name: int(row.sum()) for name, row in self.control.items()},
                "multicast": self.multicast,
                "dropped_at_sender": self.ingest_dropped,
                "nacks": self.nacks,
            },
            "laggards": [
                {"receiver": index, "state": self.states[index], "durable_s": _number(float(self.durable_s[index]))}
                for index in self.laggards(10)
            ],
        }
        if series:
            values["series"] = {
                "interval_s": INTERVAL_S,
                "begins_s": _number(-self.joining_s),
                "control_messages": self.control_per_interval.tolist(),
                "datagrams": [int(value) for value in self.sent],
                "rate_bytes_per_s": [int(value) for value in self.rate],
            }
        return values


def _last(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def _percentiles(values: FloatArray) -> dict[str, float | None]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {"first": None, "median": None, "p99": None, "last": None}
    first, median, late, last = np.percentile(known, (0, 50, 99, 100)).tolist()
    return {"first": _number(first), "median": _number(median), "p99": _number(late), "last": _number(last)}
