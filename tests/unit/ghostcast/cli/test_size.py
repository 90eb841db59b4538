"""Goal: sizes, rates and shares mean what people mean by them, and what means nothing is refused with a way out.

Method: tables of spellings.
"""

from __future__ import annotations

import pytest
import typer

from ghostcast.cli.size import format_rate, format_size, parse_rate, parse_share, parse_size

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512B", 512),
        ("256k", 256 * KIB),
        ("256K", 256 * KIB),
        ("256KiB", 256 * KIB),
        ("256kb", 256 * KIB),
        ("1M", MIB),
        ("1Mi", MIB),
        ("1MiB", MIB),
        ("1 MiB", MIB),
        (" 1mib ", MIB),
        ("1.5GiB", 3 * GIB // 2),
        ("0.5k", 512),
        ("2T", 2048 * GIB),
        ("1P", 1 << 50),
        (4096, 4096),
    ],
)
def test_sizes_are_binary(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "M", "1X", "-1", "1e3", "1,5M", "1MM", "1iB", "1Mbit", "\u0661k", "1k1", "9" * 16, "1.3B", "0.1k", "inf"],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate_bytes_per_s"),
    [
        ("800Mbit", 100_000_000),
        ("800 Mbit/s", 100_000_000),
        ("800mbit", 100_000_000),
        ("800Mbits", 100_000_000),
        ("800Mbps", 100_000_000),
        ("800M", 100_000_000),
        ("800Mb", 100_000_000),
        ("1.5Gbit", 187_500_000),
        ("10G", 1_250_000_000),
        ("56kbit/s", 7000),
        ("64bit", 8),
        ("100MB/s", 100_000_000),
        ("100MB", 100_000_000),
        ("100MBps", 100_000_000),
        ("100MiB/s", 100 * MIB),
        ("4KiB/s", 4096),
        ("5B/s", 5),
    ],
)
def test_rates_are_decimal_bits_unless_bytes_are_spelt_out(text: str, rate_bytes_per_s: int) -> None:
    assert parse_rate(text) == rate_bytes_per_s


@pytest.mark.parametrize("text", ["", "800", "fast", "Mbit", "-1Mbit", "1Mbyte", "1Mib", "1bit", "0Mbit", "1MB/m"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_rate(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (15 * MIB + 1, "15.0 MiB"),
        (300 * GIB, "300 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_sizes_are_shown_with_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text


def test_rates_are_shown_in_bits() -> None:
    assert format_rate(0) == "0 bit/s"
    assert format_rate(117_500_000) == "940 Mbit/s"
    assert format_rate(1_250_000_000) == "10.0 Gbit/s"
    assert parse_rate(format_rate(1_250_000_000)) == 1_250_000_000


@pytest.mark.parametrize(
    ("text", "share"),
    [("1%", 0.01), ("0.01", 0.01), (" 50% ", 0.5), ("0", 0.0), ("0%", 0.0), (0.25, 0.25), ("2.5%", 0.025)],
)
def test_a_share_is_a_part_of_one_or_a_percentage(text: str | float, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "1 percent", "51%", "0.51", "-1%", "1%%", "nan", "inf", "nan%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a share"):
        parse_share(text)
