"""Every limit and default of the protocol, each with its unit, its reason and its source.

Sizes are bytes, instants and durations nanoseconds, rates bytes per second. What a person may change on the command
line has ``DEFAULT`` in its name; everything else is part of the protocol or protects memory.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MICROSECOND_NS = 1_000
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000

# --- image -----------------------------------------------------------------------------------------------------------

CHUNK_SIZE_DEFAULT = MIB  # 2.68:1 on a /usr tree at level 3; 256 KiB gives 2.59, 4 MiB 2.75 (measured)
CHUNK_SIZE_MIN = 4 * KIB  # one page: a smaller write would make the disk read before it writes
CHUNK_SIZE_MAX = 16 * MIB  # a worker holds one chunk twice; this bounds the memory of a worker to 32 MiB
CHUNK_SIZE_STEP = 4 * KIB  # chunks start on page boundaries, so that writes stay aligned on 4096-byte sectors
RAW_SIZE_MAX = 1 << 60  # 1 EiB; far below where offsets would overflow a signed 64-bit file offset
MANIFEST_SIZE_MAX = 128 * MIB  # 1.9 million chunks: 1.8 TiB at 1 MiB chunks, 29 TiB at 16 MiB
STORED_OVERHEAD_MAX = 1 * KIB  # zstd's bound is size + size/256 + a header; see ``stored_size_max``
NAME_LENGTH_MAX = 128  # characters; image and session names
LABEL_COUNT_MAX = 64
LABEL_LENGTH_MAX = 1024

DIGEST_SIZE = 32  # BLAKE3-256
IMAGE_ID_SIZE = 16


def stored_size_max(raw_chunk_size: int) -> int:
    """Return the most bytes that a zstd frame of ``raw_chunk_size`` raw bytes may take (zstd's bound, rounded up)."""
    return raw_chunk_size + (raw_chunk_size >> 8) + STORED_OVERHEAD_MAX


# --- slices and symbols ----------------------------------------------------------------------------------------------

SOURCE_SYMBOLS_DEFAULT = 128  # k: 127 repair symbols left in GF(2^8); research table: k=200 saves 1 %, leaves 55
CODE_LENGTH = 255  # n: the non-zero points of GF(2^8)
SYMBOL_SIZE_STEP = 32  # keeps every symbol row SIMD-aligned in the buffers
SYMBOL_SIZE_MIN = 64
SYMBOL_SIZE_MAX = 8928  # fits MTU 9000 with the 32-byte header and 28 bytes of IP and UDP
