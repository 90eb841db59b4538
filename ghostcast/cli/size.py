"""Sizes, rates and shares as people write them. The only place that knows their units; inside, bytes and bytes/s.

Sizes are binary whatever the spelling (``1M`` = ``1MiB`` = 1048576), because chunks and disks are powers of two. Rates
are decimal bits (``800Mbit`` = 800 million bits a second), because links are sold so, unless bytes are spelt out
(``100MB/s``, ``100MiB/s``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from fractions import Fraction

_PREFIXES = ("", "k", "m", "g", "t", "p")
_NUMBER = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-z/]*)\s*", re.IGNORECASE)
_SIZE_UNIT = re.compile(r"(?:([kmgtp])i?)?b?", re.IGNORECASE)
_BIT_RATE_UNIT = re.compile(r"([kmgtp]?)(?:bits?(?:/s)?|b(?:/s)?|bps)?", re.IGNORECASE)
_BYTE_RATE_UNIT = re.compile(r"([kmgtpKMGTP]?)(i?)B(?:/s|ps)?")


def parse_size(text: str | int) -> int:
    """Return the bytes that ``text`` means: ``4096``, ``256k``, ``1MiB``, ``1.5G``; an option's default may be an int.

    Raises:
        typer.BadParameter: not a size, or not a whole number of bytes.
    """
    match = _NUMBER.fullmatch(str(text))
    unit = _SIZE_UNIT.fullmatch(match[2]) if match else None
    if match is None or unit is None:
        raise typer.BadParameter(f"{text!r} is not a size; write bytes, or a number with k, M, G or T, such as 1MiB")
    size = _exact(match[1]) * 1024 ** _PREFIXES.index((unit[1] or "").lower())
    if size.denominator != 1:
        raise typer.BadParameter(f"{text!r} is not a whole number of bytes")
    return int(size)


def parse_rate(text: str) -> int:
    """Return the bytes per second that ``text`` means: ``800Mbit``, ``1.5Gbit/s``, ``100MB/s``, ``100MiB/s``.

    Raises:
        typer.BadParameter: not a rate, without a unit, or less than one byte a second.
    """
    match = _NUMBER.fullmatch(text)
    if match is None or not match[2]:
        raise typer.BadParameter(f"{text!r} is not a rate; write a number with a unit, such as 800Mbit or 100MB/s")
    if unit := _BYTE_RATE_UNIT.fullmatch(match[2]):
        factor = (1024 if unit[2] else 1000) ** _PREFIXES.index(unit[1].lower())
        rate = _exact(match[1]) * factor
    elif unit := _BIT_RATE_UNIT.fullmatch(match[2]):
        rate = _exact(match[1]) * 1000 ** _PREFIXES.index(unit[1].lower()) / 8
    else:
        raise typer.BadParameter(f"{text!r} is not a rate; units are kbit, Mbit, Gbit, MB/s and MiB/s")
    if rate < 1:
        raise typer.BadParameter(f"{text!r} is less than one byte a second")
    return int(rate)


def _exact(number: str) -> Fraction:
    from fractions import Fraction  # 2 ms of a command's start, for those who give a size or a rate

    return Fraction(number)


def parse_share(text: str | float) -> float:
    """Return the share that ``1%`` or ``0.01`` means."""
    number = str(text).strip()
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a share; write 1% or 0.01") from error
    if not 0 <= share <= 0.5:
        raise typer.BadParameter(f"{text!r} is not a share from 0% to 50%")
    return share


def format_size(size: int) -> str:
    """Return a size as people read it, such as ``1.5 GiB``."""
    return _format(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_rate(rate_bytes_per_s: float) -> str:
    """Return a rate as people read it, such as ``940 Mbit/s``."""
    return _format(rate_bytes_per_s * 8, 1000, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"))


def _format(value: float, step: int, units: tuple[str, ...]) -> str:
    index = 0
    while value >= step and index < len(units) - 1:
        value /= step
        index += 1
    # Three digits; whole units below the first step.
    digits = 0 if index == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {units[index]}"
