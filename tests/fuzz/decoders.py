"""Fuzz targets for whatever takes foreign bytes apart: datagrams, discovery, manifests, image files, frames, batches.

Each target is a function of bytes that must not raise. What it holds a decoder to is said in its docstring; whatever is
refused must be refused in the way that is meant for it, and what is accepted must be consistent.
"""

from __future__ import annotations

import copy
import functools
import os
import pathlib
import random
import socket
from typing import Any

import blake3
import msgspec
import numpy as np
import zstandard

from ghostcast.image import layout
from ghostcast.image.frame import FrameDecoder
from ghostcast.image.reader import ChunkError, ImageFile
from ghostcast.net.ingest import BatchReceiver
from ghostcast.net.sockets import SOL_UDP
from protocol import limits, messages, wire
from protocol.deficits import decode_deficits
from protocol.discovery import Discovery
from protocol.errors import ImageError
from protocol.manifest import FLAG_ZERO, Manifest
from tests import images
from tests.fuzz.reader import Reader

CANARY = 0xA5


def control(data: bytes) -> None:
    """A datagram is a message within its bounds, or one counter; a message encodes to itself."""
    reader = Reader(data)
    datagram = wire.control_datagram(7, reader.rest()) if reader.flag() else reader.rest()
    drops = wire.Drops()
    frame = wire.parse_control(datagram, drops)
    message = None if frame is None else messages.decode(frame.body, drops)
    assert drops.total() == (message is None)
    if message is None:
        return
    encoded = messages.encode(7, message)
    assert messages.decode(encoded[wire.CONTROL_BODY_OFFSET :], drops) == message
    if isinstance(message, messages.Nack | messages.RepairAdvice):
        _check_runs(message.items)


def deficits(data: bytes) -> None:
    """Runs of an object that the fuzzer chooses."""
    _check_runs(data)


def _check_runs(items: bytes) -> None:
    for slice_count in (0, 1, 1000, limits.SLICE_COUNT_MAX):
        decoded = decode_deficits(items, slice_count)
        if decoded is None:
            continue
        slices, counts = decoded
        assert len(slices) == len(counts) <= slice_count
        if len(slices):
            assert 0 <= slices[0] <= slices[-1] < slice_count
            assert (np.diff(slices) > 0).all()
            assert counts.min() >= 1
            assert counts.max() <= 255


def discovery(data: bytes) -> None:
    """What is remembered is bounded, one address serves a session, and a choice is something that was announced."""
    reader = Reader(data)
    search = Discovery(reader.choice((None, "lab", "")), 0, random.Random(1))
    now = 0
    while reader.more:
        now += reader.number() * limits.MILLISECOND_NS
        address = (f"192.0.2.{reader.below(3)}", 1 + reader.below(3))
        hosts = {session_id: found.sender_host for session_id, found in search.found.items()}
        if reader.flag():
            announce = _announce(reader)
            search.receive_datagram(messages.encode(reader.below(4), announce), address, now)
        else:
            search.receive_datagram(wire.control_datagram(reader.below(4), reader.take(reader.byte())), address, now)
        assert len(search.found) <= limits.SESSIONS_HEARD_MAX
        for session_id, found in search.found.items():
            assert hosts.get(session_id, found.sender_host) == found.sender_host, "a session went to another address"
        assert search.next_timeout() is not None
        search.poll_transmit(now)
        for found in search.poll_choice(now):
            assert found.session_id in search.found
            assert search.name is None or found.announce.name == search.name
            slices = -(-found.announce.stream_size // (found.announce.symbol_size * found.announce.source_symbols))
            assert slices <= limits.SLICE_COUNT_MAX


def _announce(reader: Reader) -> messages.Announce:
    return messages.Announce(
        name=reader.choice(("lab", "other", "")),
        image_id=bytes([reader.below(2)]) * 16,
        image_name="image",
        manifest_digest=bytes(32),
        manifest_size=1 + reader.number() % limits.MANIFEST_SIZE_MAX,
        stream_size=reader.number() % (1 << 61),
        raw_size=reader.number() % (1 << 60),
        symbol_size=64 * (1 + reader.below(100)),
        source_symbols=1 + reader.below(254),
        window_slices=1 + reader.below(256),
        group=reader.number() % (1 << 32),
        port=1 + reader.below(65535),
        control_port=1 + reader.below(65535),
        receivers_expected=reader.below(limits.RECEIVERS_MAX),
        state=messages.SessionState(reader.below(3)),
        join_spread_ms=reader.below(10_000),
        report_interval_ms=10 + reader.below(60_000),
    )


@functools.cache
def _document() -> dict[str, Any]:
    """Return the fields of a good manifest, to be spoilt."""
    chunk, rest = bytes(range(256)) * 16, b"the end"
    frames = [zstandard.compress(part) for part in (chunk, bytes(4096), rest)]
    tail = images.assemble([chunk, bytes(4096), rest], frames)
    manifest_frame = tail[sum(map(len, frames)) : -layout.seek_table_size(4)]
    document: dict[str, Any] = msgspec.msgpack.decode(layout.decode_manifest_frame(manifest_frame))
    volume = {"number": 1, "start": 512, "size": 4096, "used_size": 4096, "needed_size": 4096, "content": "ext4"}
    document["disk"] = {"table": "dos", "sector_size": 512, "smallest_size": 8199, "free_size": 1, "volumes": [volume]}
    document["match"] = {"architectures": ["x86_64"], "disk_size_min": 1}
    return document


def manifest(data: bytes) -> None:
    """Foreign bytes are no manifest, or a consistent one that encodes to one with the same meaning."""
    reader = Reader(data)
    if reader.flag():
        encoded = reader.rest()
    else:
        document = copy.deepcopy(_document())
        for _ in range(1 + reader.below(4)):
            _spoil_field(document, reader)
        encoded = msgspec.msgpack.encode(document)
    try:
        decoded = Manifest.decode(encoded)
    except ImageError:
        return
    _check_manifest(decoded)
    again = Manifest.decode(decoded.encode())
    assert again.encode() == decoded.encode()


def _spoil_field(document: dict[str, Any], reader: Reader) -> None:
    field = reader.choice(sorted(document) or ["format"])
    kind = reader.below(5)
    value = document.get(field)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict) and reader.flag():
        _spoil_field(value, reader)
    elif kind == 0:
        document.pop(field, None)
    elif kind == 1:
        document[field] = min(reader.number(), (1 << 64) - 1)
    elif kind == 2 and isinstance(value, bytes):
        spoilt = bytearray(value)
        for _ in range(1 + reader.below(4)):
            if spoilt:
                spoilt[reader.below(len(spoilt))] = reader.byte()
        document[field] = bytes(spoilt)
    elif kind == 3 and isinstance(value, bytes):
        document[field] = value[: reader.below(len(value) + 1)] + reader.take(reader.below(80))
    else:
        document[field] = reader.take(reader.below(40))


def _check_manifest(decoded: Manifest) -> None:
    count = decoded.chunk_count
    assert len(decoded.flags) == len(decoded.stored_digests) == len(decoded.raw_digests) == count
    assert count == -(-decoded.raw_size // decoded.chunk_size)
    assert decoded.stored_offsets[0] == 0
    assert (np.diff(decoded.stored_offsets) > 0).all()
    if decoded.disk is not None:
        assert 0 < decoded.disk.smallest_size <= decoded.raw_size
        assert all(volume.end <= decoded.raw_size for volume in decoded.disk.volumes)
    assert limits.CHUNK_SIZE_MIN <= decoded.chunk_size <= limits.CHUNK_SIZE_MAX
    if count:
        assert decoded.raw_range(0)[0] == 0
        start, stop = decoded.raw_range(count - 1)
        assert start < stop == decoded.raw_size
        for chunk in np.flatnonzero(decoded.flags & FLAG_ZERO)[:3].tolist():
            start, stop = decoded.raw_range(chunk)
            assert blake3.blake3(bytes(stop - start)).digest() == decoded.raw_digests[chunk].tobytes()
        assert int(decoded.stored_sizes.max()) <= limits.stored_size_max(decoded.chunk_size)


def image(data: bytes) -> None:
    """An image that opens agrees with itself and its file; a chunk is what its digests say, or a ChunkError."""
    reader = Reader(data)
    kind = reader.below(3)
    content = reader.rest() if kind == 0 else _built_image(reader)
    if kind == 2:
        content = _damaged(content, reader)
    descriptor = os.memfd_create("image")
    try:
        os.write(descriptor, content)
        try:
            opened = ImageFile.open(pathlib.Path(f"/proc/self/fd/{descriptor}"))
        except ImageError:
            return
        with opened:
            _check_opened(opened, len(content))
    finally:
        os.close(descriptor)


def _check_opened(opened: ImageFile, size: int) -> None:
    described, decoder = opened.manifest, FrameDecoder()
    _check_manifest(described)
    tail = layout.MANIFEST_FRAME_OVERHEAD + len(opened.manifest_bytes)
    assert described.stream_size + tail + layout.seek_table_size(described.chunk_count + 1) == size
    for chunk in range(min(described.chunk_count, 20)):
        start, stop = described.raw_range(chunk)
        try:
            raw = opened.read_chunk(chunk, decoder)
        except ChunkError:
            continue
        assert len(raw) == stop - start
        assert blake3.blake3(raw).digest() == described.raw_digests[chunk].tobytes()


def _built_image(reader: Reader) -> bytes:
    """Return an image made of parts of which some lie, with digests and sizes around them that do not."""
    raws, frames = [], []
    for index in range(reader.below(4)):
        raw = bytes(4096) if reader.flag() else ((reader.take(16) + b"x") * 4096)[:4096]
        raw = raw[:4096] if index or reader.flag() else raw[: 1 + reader.below(4096)]
        raws.insert(0, raw)
        lie = reader.below(5)
        if lie == 0:
            frame = zstandard.compress(raw + reader.take(8))
        elif lie == 1:
            frame = zstandard.ZstdCompressor(write_content_size=False).compress(raw)
        elif lie == 2:
            frame = reader.take(1 + reader.below(60)) or b"?"
        elif lie == 3:
            frame = _damaged(zstandard.ZstdCompressor(write_checksum=True).compress(raw), reader) or b"?"
        else:
            frame = zstandard.ZstdCompressor(write_checksum=True).compress(raw)
        frames.insert(0, frame)
    changes: dict[str, Any] = {}
    for _ in range(reader.below(3)):
        name = reader.choice(("raw_size", "chunk_size", "stored_sizes", "flags", "raw_digests", "stored_digests"))
        if name in ("raw_size", "chunk_size"):
            changes[name] = reader.number() % limits.RAW_SIZE_MAX
        elif name in ("raw_digests", "stored_digests"):
            changes[name] = images.digests([reader.take(4) for _ in raws])
        else:
            kind = np.uint32 if name == "stored_sizes" else np.uint8
            changes[name] = np.array([reader.number() % (np.iinfo(kind).max + 1) for _ in raws], kind)
    return _assembled(raws, frames, changes, reader)


def _assembled(raws: list[bytes], frames: list[bytes], changes: dict[str, Any], reader: Reader) -> bytes:
    """Return the file; its seek table repeats the manifest's lies, or tells the truth."""
    honest = images.assemble(raws, frames)
    tail_size = len(honest) - sum(map(len, frames))
    table_start = len(honest) - layout.seek_table_size(len(frames) + 1)
    manifest_frame = honest[len(honest) - tail_size : table_start]
    entries = np.frombuffer(honest, "<u4", 2 * len(frames) + 2, table_start + layout.FRAME_HEADER.size).reshape(-1, 2)
    if changes:
        document = msgspec.msgpack.decode(layout.decode_manifest_frame(manifest_frame))
        document |= {name: value if isinstance(value, int) else value.tobytes() for name, value in changes.items()}
        manifest_frame = layout.encode_manifest_frame(msgspec.msgpack.encode(document))
        entries = entries.copy()
        entries[-1, 0] = len(manifest_frame)
        if "stored_sizes" in changes and reader.flag():
            entries[:-1, 0] = changes["stored_sizes"]
    return b"".join(frames) + manifest_frame + layout.encode_seek_table(entries)


def _damaged(content: bytes, reader: Reader) -> bytes:
    spoilt = bytearray(content)
    for _ in range(1 + reader.below(4)):
        if not spoilt:
            break
        # Half of the damage goes to the end, where everything that an image says of itself is.
        place = reader.below(len(spoilt)) if reader.flag() else max(0, len(spoilt) - 1 - reader.below(80))
        kind = reader.below(3)
        if kind == 0:
            spoilt[place] ^= 1 << reader.below(8)
        elif kind == 1:
            del spoilt[place:]
        else:
            spoilt[place : place + reader.below(4)] = reader.take(reader.below(8))
    return bytes(spoilt)


def frame(data: bytes) -> None:
    """A frame fills exactly the memory it is given, or is refused; nothing beside that memory is touched."""
    reader = Reader(data)
    raw_size = reader.number() % 70_000 or 1  # there is no empty chunk
    content = reader.rest()
    decoder = FrameDecoder()
    memory = bytearray([CANARY]) * (raw_size + 128)
    try:
        decoder.decode_into(content, memoryview(memory)[64 : 64 + raw_size])
        filled = True
    except ImageError:
        filled = False
    assert memory[:64] == memory[64 + raw_size :] == bytearray([CANARY]) * 64
    if filled:
        with zstandard.ZstdDecompressor().stream_reader(content) as stream:
            assert stream.read(raw_size + 1) == memory[64 : 64 + raw_size], "filled with something else"
    try:
        decoded = decoder.decode(content, raw_size)
    except ImageError:
        return
    assert filled, "one of the two decoders accepts what the other refuses"
    assert decoded == memory[64 : 64 + raw_size]


@functools.cache
def _batch_receiver(symbol_size: int, offload: bool) -> BatchReceiver:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        receiver = BatchReceiver(unused, symbol_size, unused)
    receiver._lay_out(offload=offload)
    return receiver


def batch(data: bytes) -> None:
    """Whatever lengths and segment sizes a kernel reports, every byte is seen at most once, as header or as control."""
    reader = Reader(data)
    symbol_size = reader.choice((64, 1024, 1440, 8928))
    receiver = _batch_receiver(symbol_size, reader.flag())
    size = wire.DATA_HEADER_SIZE + symbol_size
    count, offload = 1 + reader.below(8), receiver.offload
    receiver._memory[:count, :128] = 0
    for slot in range(count):
        length = reader.choice((size, 3 * size, size - 1, size + 1, 2 * size + 7, 0, reader.below(1500)))
        length = min(length, receiver._slot_size)
        receiver._messages["length"][slot] = length
        receiver._control["level"][slot] = SOL_UDP if reader.flag() else 0
        receiver._control["value"][slot] = reader.choice((size, 0, -1, 1, size - 1, reader.below(70_000)))
        receiver._messages["header"]["control_length"][slot] = 32 if reader.flag() else 0
        written = np.frombuffer(reader.take(48), np.uint8)
        receiver._memory[slot, : len(written)] = written
    receiver._receive = lambda: count  # type: ignore[method-assign]
    receiver._buffers_seen = 0
    fetched = receiver.fetch()
    assert fetched is not None
    assert fetched.messages == count
    assert receiver.offload == offload
    lengths = receiver._messages["length"][:count].astype(np.int64)
    assert (fetched.counts * size <= lengths).all()
    assert len(fetched.headers) == int(fetched.counts.sum())
    assert len(fetched.control) <= 8 * receiver.slot_count
    assert sum(map(len, fetched.control)) <= int(lengths.sum())
    rows = np.arange(len(fetched.headers))
    buffer = np.zeros((max(1, len(rows)), symbol_size), np.uint8)
    receiver.scatter(fetched, None, rows, buffer)
    chosen = rows[:: 1 + reader.below(3)]
    receiver.scatter(fetched, chosen, np.zeros(len(chosen), np.int64), buffer)
