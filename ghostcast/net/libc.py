"""System calls that Python does not offer, or not in batches: recvmmsg, sendmmsg, preadv over a vector, madvise.

Knows structure layouts and nothing of ghostcast. Every call releases the GIL. Where the C library lacks a call the name
is None, and the caller falls back. Layouts are those of 64-bit Linux; elsewhere the calls count as lacking.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

IOVEC = np.dtype([("base", np.uint64), ("length", np.uint64)])
"""struct iovec."""

MSGHDR = np.dtype(
    {
        "names": ["name", "name_length", "vector", "vector_length", "control", "control_length", "flags"],
        "formats": [np.uint64, np.uint32, np.uint64, np.uint64, np.uint64, np.uint64, np.int32],
        "offsets": [0, 8, 16, 24, 32, 40, 48],
        "itemsize": 56,
    }
)
"""struct msghdr."""

MMSGHDR = np.dtype({"names": ["header", "length"], "formats": [MSGHDR, np.uint32], "offsets": [0, 56], "itemsize": 64})
"""struct mmsghdr."""

_USABLE = sys.platform == "linux" and struct.calcsize("P") == 8
_LIBC: Any = ctypes.CDLL(None, use_errno=True) if _USABLE else None


def _function(name: str, *arguments: Any) -> Any:
    function = getattr(_LIBC, name, None) if _LIBC is not None else None
    if function is not None:
        function.argtypes = arguments
        function.restype = ctypes.c_ssize_t if name == "preadv" else ctypes.c_int
    return function


_recvmmsg = _function("recvmmsg", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg = _function("sendmmsg", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_preadv = _function("preadv", ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)

_madvise = _function("madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

HAVE_RECVMMSG = _recvmmsg is not None
HAVE_SENDMMSG = _sendmmsg is not None
HAVE_PREADV = _preadv is not None

_MADV_POPULATE_WRITE = 23
"""Linux 5.14; Python has no name for it."""

_MADV_NOHUGEPAGE = 15

_HUGE_PAGE_SIZE = 2 << 20

_PROVIDED_TOGETHER = _HUGE_PAGE_SIZE
"""While the kernel provides them, no thread of the process can map anything, nor begin."""

IOV_MAX = 1024
"""Most vectors one preadv takes (UIO_MAXIOV)."""


def address(array: npt.NDArray[Any]) -> int:
    """Return where an array's memory begins."""
    begin: int = array.__array_interface__["data"][0]
    return begin


def control_message(level: int, kind: int, data: bytes) -> npt.NDArray[np.uint8]:
    """Return one struct cmsghdr with its data, padded as CMSG_SPACE says: ``uint8[n]``."""
    packed = struct.pack("@Nii", struct.calcsize("@Nii") + len(data), level, kind) + data
    return np.frombuffer(packed + bytes(-len(packed) % struct.calcsize("N")), np.uint8).copy()


def recvmmsg(descriptor: int, headers: int, count: int, flags: int) -> int:
    """Receive up to ``count`` messages into the ``MMSGHDR`` array at address ``headers``; returns how many came.

    Raises:
        OSError: with its errno; BlockingIOError where nothing is waiting.
    """
    received: int = _recvmmsg(descriptor, headers, count, flags, None)
    if received < 0:
        _raise()
    return received


def sendmmsg(descriptor: int, headers: int, count: int, flags: int) -> int:
    """Send ``count`` messages from the ``MMSGHDR`` array at address ``headers``; returns how many went."""
    sent: int = _sendmmsg(descriptor, headers, count, flags)
    if sent < 0:
        _raise()
    return sent


def preadv(descriptor: int, vectors: int, count: int, offset: int) -> int:
    """Read into the ``IOVEC`` array at address ``vectors``; returns how many bytes were read."""
    read: int = _preadv(descriptor, vectors, count, offset)
    if read < 0:
        _raise()
    return read


def provide(memory: npt.NDArray[Any]) -> bool:
    """Have the kernel provide the pages of a contiguous array now, whatever is in them.

    Returns:
        False where the kernel does not know how: they come with the data.
    """
    begin = address(memory)
    end = begin + memory.nbytes
    begin -= begin % mmap.PAGESIZE
    if _madvise is None or not memory.nbytes:
        return False
    while begin < end:
        piece_end = min(begin - begin % _PROVIDED_TOGETHER + _PROVIDED_TOGETHER, end)
        if _madvise(begin, piece_end - begin, _MADV_POPULATE_WRITE) != 0:
            return False
        begin = piece_end
    return True


def fresh_pages(size: int) -> memoryview:
    """Return ``size`` bytes of zeros that begin on a page: on a huge one, where they fill half of one.

    The kernel holds on to small pages one by one while a write past the page cache is under way: a MiB of them takes it
    58 us of processor time, of a huge one 27 (measured).
    """
    whole, spare = size, 0
    if size >= _HUGE_PAGE_SIZE // 2:
        whole, spare = size + -size % _HUGE_PAGE_SIZE, _HUGE_PAGE_SIZE
    # Private: to fill shared memory, which is what Python asks for by itself, takes the kernel 1.4 times as long.
    pages = mmap.mmap(-1, whole + spare, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    begin = -address(np.frombuffer(pages, np.uint8)) % _HUGE_PAGE_SIZE if spare else 0
    if spare and _madvise is not None:
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE, begin, whole)
    return memoryview(pages)[begin : begin + size]


def use_small_pages(memory: npt.NDArray[Any]) -> None:
    """Have the kernel provide an array's memory page by page: for one of which little is used, here and there.

    Where numpy asks for huge pages, as it does for large arrays, the first byte of each has 2 MiB cleared.
    """
    begin, end = address(memory), address(memory) + memory.nbytes
    begin += -begin % mmap.PAGESIZE
    if _madvise is not None and begin < end:
        _madvise(begin, end - begin, _MADV_NOHUGEPAGE)


def _raise() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
