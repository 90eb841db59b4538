"""``--match``: the rule which machines an image is for, as people write it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from ghostcast.cli.size import parse_size
from protocol.match import ANY_MACHINE, MatchRule

MatchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--match",
        metavar="FACT=VALUE",
        help="Which machines the image is for; repeatable. Facts: architecture, vendor and product (with * and ?, "
        "several mean any of them), memory and disk (at least so much). Receivers that differ refuse it.",
    ),
]

_PATTERNS = {"architecture": "architectures", "vendor": "vendors", "product": "products"}
_SIZES = {"memory": "memory_size_min", "disk": "disk_size_min"}


def apply_match(rule: MatchRule, texts: list[str]) -> MatchRule:
    """Return a rule with what the options say.

    A fact that is named replaces what the rule had, ``FACT=`` takes it away; ``none`` takes the whole rule away, before
    whatever else is said.

    Raises:
        typer.BadParameter: not a fact, not a size, or too many patterns.
    """
    changes: dict[str, tuple[str, ...] | int] = {}
    for text in texts:
        if text == "none":
            rule = ANY_MACHINE
            continue
        fact, equals, value = text.partition("=")
        if not equals or fact not in _PATTERNS | _SIZES:
            known = ", ".join(_PATTERNS | _SIZES)
            raise typer.BadParameter(
                f"{text!r} is not of the form FACT=VALUE, with a fact of: {known}", param_hint="--match"
            )
        if fact in _SIZES:
            changes[_SIZES[fact]] = parse_size(value) if value else 0
        else:
            before = changes.get(_PATTERNS[fact], ())
            assert isinstance(before, tuple)
            changes[_PATTERNS[fact]] = (*before, value) if value else ()
    try:
        changed = msgspec.structs.replace(rule, **changes)
        return msgspec.convert(msgspec.to_builtins(changed), MatchRule)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(f"the rule is out of bounds: {error}", param_hint="--match") from error
