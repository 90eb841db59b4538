"""What fuzzing has found is tried again on every run, without the fuzzer; and the targets can see.

Goal: no input that once reached a new place in a decoder or a session machine makes it raise, or breaks what its target
holds it to. Method: the kept corpus of each target, then a few hundred made-up inputs; each planted fault is a decoder
with one check taken out, which the same inputs must find.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import zstandard

from ghostcast.image import reader
from ghostcast.image.frame import FrameDecoder
from ghostcast.net.ingest import BatchReceiver
from protocol import discovery, manifest, messages, wire
from protocol.deficits import DEFICIT, decode_deficits
from protocol.discovery import Discovery
from protocol.fleet import PeerState
from protocol.membership import Membership
from protocol.receiver_events import AllWritten, Outcome, ReceiverState
from protocol.receiver_session import ReceiverSession
from tests.fuzz import corpus, decoders, machines, seeds
from tests.fuzz.targets import TARGETS

MADE_UP = 60


def inputs(name: str) -> list[bytes]:
    """Return a target's seeds, what is kept of it, and as many made-up inputs as of every other."""
    rng = random.Random(name)
    return seeds.seeds(name) + corpus.load(name) + [rng.randbytes(rng.randrange(400)) for _ in range(MADE_UP)]


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_found_is_handled(name: str) -> None:
    for data in inputs(name):
        try:
            TARGETS[name](data)
        except BaseException:
            print(f"{name}: {data.hex()}")
            raise


@pytest.mark.parametrize("name", TARGETS)
def test_there_is_a_corpus_of_every_target(name: str) -> None:
    kept = corpus.load(name) + seeds.seeds(name)
    assert 3 <= len(kept) <= corpus.KEPT_MAX


def test_the_seeds_are_sessions_that_go_well() -> None:
    for data in seeds.receiver():
        assert machines.run_receiver(data).session.outcome is Outcome.VERIFIED
    session = machines.run_sender(seeds.sender()[0])
    assert [peer.state for peer in session.peers] == [PeerState.VERIFIED] * 2
    assert session.drops.total() == 0
    assert session.sent.nacks == 1


# --- planted faults ---------------------------------------------------------------------------------------------------


def overlapping_runs(items: bytes, slice_count: int) -> Any:
    """``decode_deficits`` without the check that runs ascend."""
    if len(items) % DEFICIT.itemsize:
        return None
    slices: list[int] = []
    counts: list[int] = []
    for offset in range(0, len(items), DEFICIT.itemsize):
        alone = decode_deficits(items[offset : offset + DEFICIT.itemsize], slice_count)
        if alone is None or len(alone[0]) > 1000:
            return None
        slices += alone[0].tolist()
        counts += alone[1].tolist()
    return np.array(slices, np.int64), np.array(counts, np.int64)


def uncounted(body: bytes, _drops: wire.Drops) -> Any:
    """``decode`` that refuses without a word."""
    return decode(body, wire.Drops())


decode = messages.decode


def fickle(search: Discovery, datagram: bytes, address: tuple[str, int], now: int) -> None:
    """``receive_datagram`` that believes whoever was heard last."""
    frame = wire.parse_control(datagram, wire.Drops())
    if frame is not None:
        search.found.pop(frame.session_id, None)
    receive_announce(search, datagram, address, now)


receive_announce = Discovery.receive_datagram


def short_frames(decoder: FrameDecoder, frame: bytes, target: memoryview) -> None:
    """``decode_into`` that is content with less than was asked for."""
    if target and zstandard.get_frame_parameters(frame).content_size > 0:
        with zstandard.ZstdDecompressor().stream_reader(frame) as stream:
            stream.readinto(target)


def hasty(session: ReceiverSession) -> None:
    """``_check_all_written`` that does not look whether anything is pending."""
    if session.manifest is not None and session.state is ReceiverState.RECEIVING:
        session.state = ReceiverState.FINISHING
        session._events.append(AllWritten())


def credulous(membership: Membership, index: int, _address: object, now: int) -> Any:
    """``heard`` that does not look who is speaking."""
    return membership._fleet.peers[index] if index < len(membership._fleet) else None


def handles(name: str, data: bytes) -> bool:
    try:
        TARGETS[name](data)
    except Exception:
        return False
    return True


def twice(receiver: BatchReceiver, *arguments: Any) -> list[bytes]:
    """``_other_datagrams`` that finds everything twice."""
    return other_datagrams(receiver, *arguments) * 2


other_datagrams = BatchReceiver._other_datagrams

PLANTED = [
    ("control", messages, "decode", uncounted),
    ("deficits", decoders, "decode_deficits", overlapping_runs),
    ("discovery", discovery, "_fits", lambda _announce: True),
    ("discovery", Discovery, "receive_datagram", fickle),
    ("frame", FrameDecoder, "decode_into", short_frames),
    ("manifest", manifest, "_check_zero_chunks", lambda *_arguments: None),
    ("image", reader, "_compare", lambda *_arguments: None),
    ("batch", BatchReceiver, "_other_datagrams", twice),
    ("receiver", ReceiverSession, "_check_all_written", hasty),
    ("sender", Membership, "heard", credulous),
]


def test_a_fault_is_planted_for_every_target() -> None:
    assert {name for name, *_fault in PLANTED} == set(TARGETS)


@pytest.mark.parametrize(("name", "owner", "attribute", "broken"), PLANTED)
def test_a_planted_fault_is_found_by_what_is_kept(
    name: str, owner: object, attribute: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(getattr(owner, attribute))
    tried = inputs(name)
    monkeypatch.setattr(owner, attribute, broken)
    assert any(not handles(name, data) for data in tried)
