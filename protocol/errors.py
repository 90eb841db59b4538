"""The one error tree. Each class carries the exit status that a command ends with when it is raised.

A message says what was expected, what was found, and what the person can do about it. A bad datagram is never an error
of this tree: it is a counter (see ``protocol.wire``).
"""

from __future__ import annotations

import enum


class ExitStatus(enum.IntEnum):
    """What a ``ghostcast`` command ends with; others script against these numbers."""

    VERIFIED = 0
    INTERNAL = 1
    USAGE = 2
    NOBODY_CAME = 3
    INCOMPLETE = 4
    TARGET = 5
    IMAGE = 6
    AUTHENTICATION = 7
    INTERRUPTED = 130


class GhostcastError(Exception):
    """Base of every error that a person should read as one sentence, without a traceback."""

    exit_status: ExitStatus = ExitStatus.INTERNAL


class UsageError(GhostcastError):
    """The command line asks for something that cannot be."""

    exit_status = ExitStatus.USAGE


class NobodyCameError(GhostcastError):
    """No session was announced, or no receiver joined, within the wait that was allowed."""

    exit_status = ExitStatus.NOBODY_CAME


class IncompleteError(GhostcastError):
    """The session ended before everything was verified: a receiver is missing, or the sender is gone."""

    exit_status = ExitStatus.INCOMPLETE


class TargetError(GhostcastError):
    """The target was refused, or failed while it was written."""

    exit_status = ExitStatus.TARGET


class ImageError(GhostcastError):
    """The image is damaged, lies about itself, or is not an image."""

    exit_status = ExitStatus.IMAGE


class AuthenticationError(GhostcastError):
    """The other side could not prove who it is."""

    exit_status = ExitStatus.AUTHENTICATION
