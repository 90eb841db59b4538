"""Which image a person means: a path, or a name in the library.

The rule, everywhere the same: with ``--library`` it is a name. Without, what has a slash or ends in ``.img.zst`` is a
path; anything else is a name of the default library, or else a file in this directory. What could be both is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import UsageError

ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="A path, or NAME or NAME@VERSION in the library.", show_default=False)
]
LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        metavar="DIR",
        help="The directory of named images.",
        show_default="$GHOSTCAST_LIBRARY, /var/lib/ghostcast for root, ~/.local/share/ghostcast",
        readable=False,
    ),
]


def choose_image(text: str, library_directory: Path | None) -> Path:
    """Return the file of the image that ``text`` means.

    Raises:
        UsageError: no such name; or both a file here and a name in the library.
    """
    from ghostcast.image.library import Library, parse_reference

    library = Library(library_directory)
    if library_directory is not None:
        return library.require(text).path
    path = Path(text)
    if os.sep in text or parse_reference(text) is None:
        return path
    try:
        entry = library.find(text)
    except UsageError:  # somebody else's library cannot be read: then there is no name in it for us
        entry = None
    exists = os.path.lexists(path)
    if exists and entry is not None:
        raise UsageError(
            f"{text}: is a file here and an image in the library {library.directory}; write ./{text} for the file, or "
            f"--library {library.directory} for the image"
        )
    if not exists and entry is None:
        return library.require(text).path  # says what there is
    return path if entry is None else entry.path
