"""What a receiving engine tells whoever watches: a terminal, a log of JSON lines, a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.discovery import Found
    from protocol.manifest import Manifest


class Observer:
    """What the engine tells whoever watches; every method is called on the loop's thread."""

    def searching(self) -> None:
        """Everything is loaded and open: a session that is announced from now on is heard."""

    def found(self, found: Found) -> None:
        """A session was chosen."""

    def welcomed(self, receiver_index: int) -> None:
        """The sender took this receiver in."""

    def manifest(self, manifest: Manifest) -> None:
        """The manifest arrived and the target fits it."""

    def sender_lost(self, text: str) -> None:
        """The sender is gone; it is looked for, and ``found`` follows if it comes back."""

    def warning(self, text: str) -> None:
        """Something is worse than it could be."""

    def progress(self) -> None:
        """A moment passed: look at ``ReceiveEngine`` again."""
