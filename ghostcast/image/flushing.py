"""Flushing a target while it is being written: the flush at the end, which everybody waits for, is short then.

A disk answers a write as soon as its cache has the bytes, and empties the cache when it is told to, or when it is full.
Told only at the end, it has seconds to do after the last byte came (measured, 1 GB at 250 MB/s: 1.0 to 1.5 s, and 0.1 s
where it was told on the way).

The invariant: a flush that failed is never forgotten, for the kernel says it once, and the next flush succeeds.
"""

from __future__ import annotations

import contextlib
import os
import threading

FLUSH_SIZE = 64 << 20
"""Bytes after which the next flush begins. For a mechanical disk and a journal, one is two seeks: a tenth of the time
that so much takes."""


class Flusher:
    """Flushes one open file in the background, one flush at a time. Safe for several threads at once."""

    def __init__(self, descriptor: int, flush_size: int) -> None:
        """Flush nothing yet.

        Args:
            descriptor: the file; it stays the caller's, and open until ``wait`` has returned.
            flush_size: bytes between the beginnings of two flushes, at least.
        """
        self.failure: OSError | None = None
        """Why a flush failed, if one did: what was written may be lost."""
        self._descriptor = descriptor
        self._flush_size = flush_size
        self._unflushed = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wrote(self, size: int) -> None:
        """Note that so many bytes more were written; does not wait."""
        with self._lock:
            self._unflushed += size
            if self._unflushed < self._flush_size or not hasattr(os, "fdatasync"):
                return
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(target=self._flush, name="flush", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads are allowed: it is flushed at the end
                thread.start()
                self._thread, self._unflushed = thread, 0

    def wait(self) -> None:
        """Wait for the end of the flush that is under way, if one is."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _flush(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self.failure = error
