"""A receiver machine on its own, and a sender played by hand: headers, messages, and a clock that the test moves."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from protocol import limits, messages, wire
from protocol.deficits import decode_deficits
from protocol.discovery import Found
from protocol.manifest import Manifest, Source
from protocol.messages import SessionState
from protocol.receiver_events import ExtentReady, Identity
from protocol.receiver_session import ReceiverSession
from protocol.symbols import DATA_HEADER

K = 4
SYMBOL = 64
CHUNKS = 5
SESSION_ID = 77
MS = limits.MILLISECOND_NS
IMAGE, MANIFEST = limits.OBJECT_IMAGE, limits.OBJECT_MANIFEST


def manifest() -> Manifest:
    """Five chunks of one slice each."""
    return Manifest(
        bytes(16), "image", 0, CHUNKS * 4096, 4096, Source(), np.full(CHUNKS, K * SYMBOL, np.uint32),
        np.zeros((CHUNKS, 32), np.uint8), np.zeros((CHUNKS, 32), np.uint8), np.zeros(CHUNKS, np.uint8),
    )  # fmt: skip


class Desk:
    """A receiver machine, its clock, and a sender played by hand."""

    def __init__(self, *, pool_slices: int = 100, join_spread_ms: int = 0) -> None:
        self.now = limits.SECOND_NS
        announce = messages.Announce(
            "lab", bytes(16), "image", bytes(range(32)), 100, CHUNKS * K * SYMBOL, CHUNKS * 4096, SYMBOL, K, 4, 1, 2,
            3, 0, SessionState.WAITING, join_spread_ms, 1000,
        )  # fmt: skip
        self.identity = Identity(bytes(range(16)), 9, "host", "/dev/x", -1)
        self.session = ReceiverSession(
            Found(SESSION_ID, announce, "10.0.0.1"),
            self.identity,
            pool_size=pool_slices * K * SYMBOL,
            rng=random.Random(1),
            now=self.now,
        )
        self.sequence = 0
        self.state = SessionState.SENDING
        self.cursor = 0
        self.manifest_sent = False
        self.pass_index = 0
        self.receivers = 1
        self.report_interval_ms = 100
        self.feedback_scale = 1
        self.grtt_us = 10_000

    def tell(self, message: messages.Message, session_id: int = SESSION_ID) -> None:
        self.session.receive_datagram(messages.encode(session_id, message), self.now)

    def welcome(self, index: int = 3) -> None:
        self.tell(messages.Welcome(self.identity.receiver_id, self.identity.incarnation, index, 5))

    def status(self) -> None:
        self.tell(
            messages.Status(
                self.sequence, self.state, self.cursor, self.manifest_sent, self.pass_index,
            )
        )  # fmt: skip
        self.advise()

    def advise(self, rate: int = 1, tolerated_ppm: int = 5000, report_below: int = 0, since: int = 0) -> None:
        self.tell(
            messages.FeedbackAdvice(
                self.grtt_us, self.receivers, self.feedback_scale, self.report_interval_ms, rate, tolerated_ppm,
                report_below, since,
            )
        )  # fmt: skip

    def window(
        self, object_id: int, slices: list[int], esis: list[int], lose: tuple[tuple[int, int], ...] = ()
    ) -> list[npt.NDArray[np.int64]]:
        """Send one interleaved window; ``lose`` names (slice, ESI) that do not arrive."""
        pairs = [(s, esi) for esi in esis for s in slices]
        headers = np.zeros(len(pairs), DATA_HEADER)
        headers["magic"], headers["version"], headers["kind"] = wire.MAGIC, wire.VERSION, wire.KIND_DATA
        headers["session"] = SESSION_ID
        headers["sequence"] = (self.sequence + np.arange(len(pairs))) & 0xFFFFFFFF
        headers["slice"] = [s for s, _esi in pairs]
        headers["esi"] = [esi for _s, esi in pairs]
        headers["object"] = object_id
        headers["window_left"] = len(pairs) - 1 - np.arange(len(pairs))
        self.sequence += len(pairs)
        kept = np.array([pair not in lose for pair in pairs])
        return [placement.rows for placement in self.session.receive_symbols(headers[kept], self.now)]

    def send_manifest(self) -> None:
        self.window(MANIFEST, [0], [0, 1])
        self.manifest_sent = True
        (ready,) = self.events(ExtentReady)
        assert ready == ExtentReady(MANIFEST, 0)
        self.session.extent_checked(MANIFEST, 0, good=True)
        self.session.manifest_known(manifest(), np.ones(CHUNKS, np.bool_), 0)

    def pass_time(self, ns: int) -> None:
        until = self.now + ns
        while (due := self.session.next_timeout()) is not None and due <= until:
            self.now = max(due, self.now)
            self.session.handle_timeout(self.now)
        self.now = until

    def said(self, kind: type[messages.Message]) -> list[messages.AnyMessage]:
        found = []
        while (datagram := self.session.poll_transmit()) is not None:
            frame = wire.parse_control(datagram, wire.Drops())
            assert frame is not None
            message = messages.decode(frame.body, wire.Drops())
            if isinstance(message, kind):
                found.append(message)
        return found

    def needs(self) -> dict[int, int]:
        """Return what the NACKs since the last call asked for."""
        asked: dict[int, int] = {}
        for nack in self.said(messages.Nack):
            assert isinstance(nack, messages.Nack)
            decoded = decode_deficits(nack.items, 1 << 32)
            assert decoded is not None
            asked |= dict(zip(decoded[0].tolist(), decoded[1].tolist(), strict=True))
        return asked

    def events(self, kind: type[object] = object) -> list[object]:
        found = []
        while (event := self.session.poll_event()) is not None:
            if isinstance(event, kind):
                found.append(event)
        return found

    def read_manifest(self) -> None:
        """Be welcome, and have the manifest come and match, when all of the image was sent before."""
        self.welcome()
        self.cursor = CHUNKS
        self.window(MANIFEST, [0], [0, 1])
        self.manifest_sent = True
        self.events()
        self.session.extent_checked(MANIFEST, 0, good=True)


def ready_desk() -> Desk:
    desk = Desk()
    desk.welcome()
    desk.send_manifest()
    desk.said(messages.Message)
    desk.events()
    return desk


def check_begun() -> Desk:
    """Return a receiver that looks through its target while the sender has nothing to send."""
    desk = Desk()
    desk.read_manifest()
    desk.session.manifest_known(manifest(), np.ones(CHUNKS, np.bool_), 0, checking=True)
    desk.status()
    desk.pass_time(200 * MS)
    assert desk.needs() == {}
    return desk
