"""A made-up image, and every symbol of it: what a simulated sender has, and what a copy is compared with."""

from __future__ import annotations

import dataclasses

import blake3
import numpy as np
import numpy.typing as npt

from ghostcast.fec.kernel import load_kernel
from protocol import limits
from protocol.manifest import FLAG_UNUSED, FLAG_ZERO, Manifest, Source
from protocol.partition import Partition
from protocol.reed_solomon import Code, Codec, SymbolRows

ZERO_DIGEST = np.frombuffer(blake3.blake3(bytes(limits.CHUNK_SIZE_MIN)).digest(), np.uint8)


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """A made-up image: a manifest, and the stream that it describes."""

    manifest: Manifest
    manifest_bytes: bytes
    stream: bytes

    def frame(self, chunk: int) -> bytes:
        """Return the stored bytes of a chunk."""
        start, stop = self.manifest.stored_range(chunk)
        return self.stream[start:stop]

    def transferred(self) -> dict[int, bytes]:
        """Return what a blank target ends up with, chunk by chunk."""
        return {chunk: self.frame(chunk) for chunk in np.flatnonzero(self.manifest.transferred).tolist()}


def make_image(
    seed: int, chunk_count: int = 24, *, frame_size: tuple[int, int] = (200, 2500), zero: float = 0.1
) -> Image:
    """Return an image of ``chunk_count`` chunks, of which about a share of ``zero`` is zero or unused."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(frame_size[0], frame_size[1] + 1, chunk_count).astype(np.uint32)
    stream = rng.bytes(int(sizes.sum()))
    flags = np.where(rng.random(chunk_count) < zero, rng.choice([FLAG_ZERO, FLAG_UNUSED], chunk_count), 0)
    ends = np.cumsum(sizes)
    digests = [
        blake3.blake3(stream[end - size : end]).digest()
        for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)
    ]
    raw_digests = rng.integers(0, 256, (chunk_count, 32), np.uint8)
    raw_digests[flags == FLAG_ZERO] = ZERO_DIGEST
    manifest = Manifest(
        image_id=rng.bytes(limits.IMAGE_ID_SIZE),
        name=f"image-{seed}",
        created=0,
        raw_size=chunk_count * limits.CHUNK_SIZE_MIN,
        chunk_size=limits.CHUNK_SIZE_MIN,
        source=Source(),
        stored_sizes=sizes,
        stored_digests=np.frombuffer(b"".join(digests), np.uint8).reshape(chunk_count, 32),
        raw_digests=raw_digests,
        flags=flags.astype(np.uint8),
    )
    return Image(manifest, manifest.encode(), stream)


class ObjectSymbols:
    """Every symbol of an object by slice and ESI, computed once a slice."""

    def __init__(self, data: bytes, partition: Partition) -> None:
        self.partition = partition
        self._data = data
        self._codec = Codec(Code(partition.source_symbols), load_kernel())
        self._slices: dict[int, npt.NDArray[np.uint8]] = {}

    def take(self, slices: npt.NDArray[np.int64], esis: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the payloads of symbols, row for row."""
        rows = np.empty((len(slices), self.partition.symbol_size), np.uint8)
        for slice_index in sorted(set(slices.tolist())):
            mask = slices == slice_index
            rows[mask] = self._slice(slice_index)[esis[mask]]
        return rows

    def _slice(self, slice_index: int) -> npt.NDArray[np.uint8]:
        if slice_index not in self._slices:
            partition = self.partition
            start, stop = partition.slice_range(slice_index)
            table = np.zeros((limits.CODE_LENGTH, partition.symbol_size), np.uint8)
            table.reshape(-1)[: stop - start] = np.frombuffer(self._data, np.uint8, stop - start, start)
            symbols = SymbolRows(table)
            k = partition.source_symbols
            self._codec.encode(symbols.take(np.arange(k)), symbols.take(np.arange(k, limits.CODE_LENGTH)))
            self._slices[slice_index] = table
        return self._slices[slice_index]
