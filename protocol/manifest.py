"""The manifest: what an image is made of, chunk by chunk. Parsed once, checked whole, then trusted.

Knows the manifest's bytes and their meaning; must not know where they came from. The invariant: a ``Manifest`` that
exists is consistent: its tables have one row a chunk, its sizes add up, and nothing in it points outside the image.

On the wire and in the file a manifest is one msgpack map (``docs/IMAGE-FORMAT.md``). The per-chunk columns are packed
little-endian byte strings, so that a million chunks decode with four copies instead of a million objects.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated

import blake3
import msgspec
import numpy as np
import numpy.typing as npt

from protocol import limits
from protocol.disk import Disk, check_disk
from protocol.errors import ImageError
from protocol.match import ANY_MACHINE, MatchRule

FORMAT_VERSION = 1

FLAG_ZERO = 0x01
"""The chunk's raw bytes are all zero: never requested; the receiver punches or zeroes its range."""

FLAG_UNUSED = 0x02
"""No file system uses the chunk: never requested, and its range on the target is left alone.

Blocks that nothing uses within other chunks are zeros there, and written as such: what a digest covers is what a
restored target holds."""

FLAGS_KNOWN = FLAG_ZERO | FLAG_UNUSED

_Name = Annotated[str, msgspec.Meta(max_length=limits.NAME_LENGTH_MAX)]
_Text = Annotated[str, msgspec.Meta(max_length=limits.LABEL_LENGTH_MAX)]


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the raw bytes came from; for people, never used to decide what is written."""

    kind: _Text = ""
    """``file``, ``block device`` or ``stream``."""
    path: _Text = ""
    host: _Text = ""
    architecture: _Text = ""
    sector_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    """Logical sector size of the source in bytes, 0 where it has none."""
    labels: Annotated[dict[_Text, _Text], msgspec.Meta(max_length=limits.LABEL_COUNT_MAX)] = msgspec.field(
        default_factory=dict
    )


class _Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """The msgpack map as it is stored; ``Manifest`` is its checked form."""

    format: int
    image_id: Annotated[bytes, msgspec.Meta(min_length=limits.IMAGE_ID_SIZE, max_length=limits.IMAGE_ID_SIZE)]
    name: _Name
    created: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    raw_size: Annotated[int, msgspec.Meta(ge=0, le=limits.RAW_SIZE_MAX)]
    chunk_size: Annotated[int, msgspec.Meta(ge=limits.CHUNK_SIZE_MIN, le=limits.CHUNK_SIZE_MAX)]
    source: Source
    stored_sizes: bytes
    stored_digests: bytes
    raw_digests: bytes
    flags: bytes
    match: MatchRule | None = None
    disk: Disk | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
    """A checked manifest. Chunk ``c`` holds raw bytes ``[c * chunk_size, min((c + 1) * chunk_size, raw_size))``."""

    image_id: bytes
    """16 random bytes, made when the image was."""
    name: str
    created: int
    """Seconds since 1970-01-01 UTC."""
    raw_size: int
    chunk_size: int
    source: Source
    stored_sizes: npt.NDArray[np.uint32]
    """``uint32[chunk_count]``: size of each chunk's zstd frame."""
    stored_digests: npt.NDArray[np.uint8]
    """``uint8[chunk_count, 32]``: BLAKE3-256 of each frame; checked before a frame is decompressed."""
    raw_digests: npt.NDArray[np.uint8]
    """``uint8[chunk_count, 32]``: BLAKE3-256 of each chunk's raw bytes; serves resume and read-back."""
    flags: npt.NDArray[np.uint8]
    """``uint8[chunk_count]``: ``FLAG_*``."""
    match: MatchRule = ANY_MACHINE
    """Which machines the image is meant for; every receiver holds itself to it."""
    disk: Disk | None = None
    """Partitions and file systems; None for images of bytes that nobody looked into."""

    @property
    def target_size_min(self) -> int:
        """Size in bytes of the smallest target that takes the image."""
        return self.raw_size if self.disk is None else self.disk.smallest_size

    @property
    def second_table_size(self) -> int:
        """Bytes at the disk's end that its second partition table takes, written anew where the target ends."""
        return 0 if self.disk is None else self.disk.table_reserve

    @property
    def chunk_count(self) -> int:
        """How many chunks the image has."""
        return len(self.stored_sizes)

    @functools.cached_property
    def stored_offsets(self) -> npt.NDArray[np.int64]:
        """``int64[chunk_count + 1]``: where each frame starts in the stream; the last entry is the stream's size."""
        offsets = np.zeros(self.chunk_count + 1, np.int64)
        np.cumsum(self.stored_sizes, dtype=np.int64, out=offsets[1:])
        return offsets

    @property
    def stream_size(self) -> int:
        """Size of the stream: all frames back to back."""
        return int(self.stored_offsets[-1])

    @functools.cached_property
    def transferred(self) -> npt.NDArray[np.bool_]:
        """``bool[chunk_count]``: chunks whose bytes a blank target needs; zero and unused chunks are not among them."""
        needed: npt.NDArray[np.bool_] = (self.flags & (FLAG_ZERO | FLAG_UNUSED)) == 0
        return needed

    def raw_range(self, chunk_index: int) -> tuple[int, int]:
        """Return the half-open range of raw bytes that a chunk holds."""
        start = chunk_index * self.chunk_size
        return start, min(start + self.chunk_size, self.raw_size)

    def stored_range(self, chunk_index: int) -> tuple[int, int]:
        """Return the half-open range of the stream that holds a chunk's frame."""
        return int(self.stored_offsets[chunk_index]), int(self.stored_offsets[chunk_index + 1])

    def encode(self) -> bytes:
        """Return the manifest's canonical bytes; their digest identifies the image on the wire."""
        return msgspec.msgpack.encode(
            _Document(
                format=FORMAT_VERSION,
                image_id=self.image_id,
                name=self.name,
                created=self.created,
                raw_size=self.raw_size,
                chunk_size=self.chunk_size,
                source=self.source,
                stored_sizes=self.stored_sizes.astype("<u4").tobytes(),
                stored_digests=self.stored_digests.tobytes(),
                raw_digests=self.raw_digests.tobytes(),
                flags=self.flags.tobytes(),
                match=self.match or None,
                disk=self.disk,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Parse and check a manifest from foreign bytes.

        Raises:
            ImageError: too large, not msgpack, a field missing or out of range, or tables that contradict one another.
        """
        if len(data) > limits.MANIFEST_SIZE_MAX:
            raise ImageError(f"the manifest has {len(data)} bytes; at most {limits.MANIFEST_SIZE_MAX} are accepted")
        try:
            document = msgspec.msgpack.decode(data, type=_Document)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ImageError(f"the manifest cannot be read: {error}") from error
        if document.format != FORMAT_VERSION:
            raise ImageError(
                f"the manifest has format {document.format}; this version reads format {FORMAT_VERSION}: "
                "use the ghostcast version that made the image, or a newer one"
            )
        return cls._from_document(document)

    @classmethod
    def _from_document(cls, document: _Document) -> Manifest:
        chunk_size = document.chunk_size
        if chunk_size % limits.CHUNK_SIZE_STEP:
            raise ImageError(f"chunk size {chunk_size} is not a multiple of {limits.CHUNK_SIZE_STEP}")
        chunk_count = -(-document.raw_size // chunk_size)
        columns = {
            "stored_sizes": (document.stored_sizes, 4),
            "stored_digests": (document.stored_digests, limits.DIGEST_SIZE),
            "raw_digests": (document.raw_digests, limits.DIGEST_SIZE),
            "flags": (document.flags, 1),
        }
        for column, (data, width) in columns.items():
            if len(data) != chunk_count * width:
                raise ImageError(
                    f"the manifest contradicts itself: {document.raw_size} raw bytes make {chunk_count} chunks of "
                    f"{chunk_size}, but its column {column} has {len(data)} bytes instead of {chunk_count * width}"
                )
        stored_sizes = np.frombuffer(document.stored_sizes, "<u4").astype(np.uint32)
        flags = np.frombuffer(document.flags, np.uint8)
        if document.disk is not None:
            transferred = (flags & (FLAG_ZERO | FLAG_UNUSED)) == 0
            check_disk(document.disk, document.raw_size, chunk_size, transferred)
        if chunk_count:
            if int(stored_sizes.min()) == 0:
                raise ImageError(f"the manifest gives chunk {int(stored_sizes.argmin())} a frame of no bytes")
            if int(stored_sizes.max()) > limits.stored_size_max(chunk_size):
                raise ImageError(
                    f"the manifest gives chunk {int(stored_sizes.argmax())} a frame of {int(stored_sizes.max())} "
                    f"bytes; no chunk of {chunk_size} compresses to more than {limits.stored_size_max(chunk_size)}"
                )
            if int((flags & ~np.uint8(FLAGS_KNOWN)).max()):
                raise ImageError("the manifest has chunk flags that this version does not know: use a newer ghostcast")
            raw_digests = np.frombuffer(document.raw_digests, np.uint8).reshape(chunk_count, limits.DIGEST_SIZE)
            _check_zero_chunks(document.raw_size, chunk_size, flags, raw_digests)
        return cls(
            image_id=document.image_id,
            name=document.name,
            created=document.created,
            raw_size=document.raw_size,
            chunk_size=chunk_size,
            source=document.source,
            stored_sizes=stored_sizes,
            stored_digests=np.frombuffer(document.stored_digests, np.uint8).reshape(chunk_count, limits.DIGEST_SIZE),
            raw_digests=np.frombuffer(document.raw_digests, np.uint8).reshape(chunk_count, limits.DIGEST_SIZE),
            flags=flags,
            match=document.match or ANY_MACHINE,
            disk=document.disk,
        )


def _check_zero_chunks(
    raw_size: int, chunk_size: int, flags: npt.NDArray[np.uint8], raw_digests: npt.NDArray[np.uint8]
) -> None:
    """Refuse a zero flag on a chunk that has another digest than zeros have: such a chunk is never requested or read.

    Without this check a flag that lies would put zeros on thousands of disks, and every one of them would report them
    verified. Cost: two hashes of at most one chunk each, and one comparison of 32 bytes a chunk.
    """
    if bool((flags == FLAGS_KNOWN).any()):
        chunk_index = int((flags == FLAGS_KNOWN).argmax())
        raise ImageError(f"the manifest calls chunk {chunk_index} both zero and unused; a chunk is at most one of them")
    last_index = len(flags) - 1
    last_size = raw_size - last_index * chunk_size
    lying = (flags & FLAG_ZERO).astype(np.bool_)
    for chunks, size in ((slice(0, last_index), chunk_size), (slice(last_index, None), last_size)):
        if lying[chunks].any():
            zero_digest = np.frombuffer(blake3.blake3(bytes(size)).digest(), np.uint8)
            lying[chunks] &= (raw_digests[chunks] != zero_digest).any(axis=1)
    if lying.any():
        raise ImageError(
            f"the manifest calls chunk {int(lying.argmax())} zero, but gives it another digest than zeros have"
        )


def manifest_digest(data: bytes) -> bytes:
    """Return the BLAKE3-256 of a manifest's bytes: what ANNOUNCE carries and the receiver checks before parsing."""
    return blake3.blake3(data).digest()
