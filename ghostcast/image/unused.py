"""What becomes of the ranges of a target that no file system of the image uses.

Imports nothing heavy: the command line offers the choice in its help.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghostcast.image.target import Target


class Unused(enum.StrEnum):
    """A person's choice."""

    KEEP = "keep"
    """Leave what is there: the fastest; deleted files of the disk's last owner stay readable to who looks for them."""
    ZERO = "zero"
    """Make them zeros."""
    DISCARD = "discard"
    """Tell the device that nobody needs them (TRIM), where it can be told; a file gets a hole."""


def treat_unused(target: Target, choice: Unused, offset: int, length: int) -> None:
    """Do with one range of the target as was chosen.

    Raises:
        TargetError: the device failed.
    """
    if choice is Unused.ZERO:
        target.zero(offset, length)
    elif choice is Unused.DISCARD:
        target.discard(offset, length)
