"""Which kernel computes repair symbols on this machine: ISA-L where a working copy is found, numpy otherwise.

Knows the choice and its reason; must not know how to tell a person (the commands do, once). ``GHOSTCAST_FEC`` set to
``isal`` or ``numpy`` takes the choice away: for benchmarks, and for ruling a library out.
"""

from __future__ import annotations

import dataclasses
import functools
import os

from ghostcast.fec.isal import IsalUnusableError, find_kernel
from protocol.errors import UsageError
from protocol.reed_solomon import Kernel, NumpyKernel

VARIABLE = "GHOSTCAST_FEC"


@dataclasses.dataclass(frozen=True, slots=True)
class KernelChoice:
    """A kernel, and why it was taken."""

    kernel: Kernel
    origin: str
    """Where the kernel comes from: the path of a library and its version, or ``numpy``."""
    slow_reason: str | None
    """Why the slow kernel had to be taken, as a sentence for people; None if it is fast, or slow by request."""


def choose_kernel(wish: str | None = None) -> KernelChoice:
    """Return the fastest kernel that works here, or the one that ``wish`` names: ``isal`` or ``numpy``.

    Raises ``UsageError`` for any other wish, and if ISA-L is wished for but none works.
    """
    if wish not in (None, "", "isal", "numpy"):
        raise UsageError(f"{VARIABLE} must be isal or numpy, not {wish!r}; unset it to have the faster one chosen")
    if wish == "numpy":
        return KernelChoice(NumpyKernel(), "numpy", None)
    try:
        isal = find_kernel()
    except IsalUnusableError as error:
        if wish == "isal":
            raise UsageError(f"{VARIABLE} asks for ISA-L, but none works: {error}") from error
        return KernelChoice(
            NumpyKernel(),
            "numpy",
            "repair symbols are computed by numpy, some 30 times slower than by ISA-L; install the package libisal2"
            f" or pyeclib ({error})",
        )
    version = "before 2.31" if isal.version == (0, 0, 0) else ".".join(map(str, isal.version))
    return KernelChoice(isal, f"{isal.library} ({version})", None)


@functools.cache
def kernel_choice() -> KernelChoice:
    """Return what ``choose_kernel`` chose for this process, with the wish from ``GHOSTCAST_FEC``; chosen once."""
    return choose_kernel(os.environ.get(VARIABLE))


def load_kernel() -> Kernel:
    """Return the kernel of ``kernel_choice``."""
    return kernel_choice().kernel
