"""A sender's machine on a desk: messages by hand, a clock that the test moves, and what came out, read."""

from __future__ import annotations

import numpy as np

from protocol import limits, messages, wire
from protocol.deficits import DEFICIT
from protocol.sender_events import EventKind, SessionParameters, StartRule
from protocol.sender_session import SenderSession

K = 8
SYMBOL = 64
SLICES = 20
SESSION_ID = 77
DIGEST = bytes(range(32))
MS = limits.MILLISECOND_NS


def parameters(start: StartRule, **changes: object) -> SessionParameters:
    fields: dict[str, object] = {
        "session_id": SESSION_ID, "name": "lab", "image_id": bytes(16), "image_name": "image",
        "manifest_digest": DIGEST, "manifest_size": 100, "stream_size": SLICES * K * SYMBOL, "raw_size": 1_000_000,
        "target_size_min": 1_000_000,
        "symbol_size": SYMBOL, "group": 1, "port": 7767, "control_port": 4000, "start": start, "rate": 1e6,
        "repair_symbols": 0, "source_symbols": K, "window_slices": 4,
    }  # fmt: skip
    return SessionParameters(**fields | changes)  # type: ignore[arg-type]  # fields by name, checked where they go


class Desk:
    """A sender machine, its clock and its outgoing mail."""

    def __init__(self, start: StartRule | None = None, **changes: object) -> None:
        self.now = limits.SECOND_NS
        rule = StartRule(receivers=1) if start is None else start
        self.session = SenderSession(parameters(rule, **changes), np.ones(SLICES, np.bool_), self.now)
        self.sends_at_once = True
        """Whether what is handed out has left the next time that the machine is driven; otherwise the test says so."""

    def tell(self, message: messages.Message, who: int = 0, session_id: int = SESSION_ID) -> None:
        self._send()
        self.session.receive_datagram(messages.encode(session_id, message), (f"10.0.0.{who}", 5000), self.now)

    def join(self, who: int = 0, incarnation: int = 1, size: int = -1, link: int = 0) -> None:
        self.tell(messages.Join(bytes([who] * 16), incarnation, f"host{who}", "/dev/x", size, link), who)

    def pass_time(self, ns: int) -> None:
        until = self.now + ns
        self._send()
        while (due := self.session.next_timeout()) is not None and due <= until:
            self.now = max(due, self.now)
            self.session.handle_timeout(self.now)
        self.now = until

    def _send(self) -> None:
        if self.sends_at_once:
            self.session.sent_below = self.session.sequence

    def mail(self) -> list[tuple[object, messages.AnyMessage]]:
        found = []
        while (transmit := self.session.poll_transmit()) is not None:
            frame = wire.parse_control(transmit.datagram, wire.Drops())
            assert frame is not None
            message = messages.decode(frame.body, wire.Drops())
            assert message is not None
            found.append((transmit.destination, message))
        return found

    def said(self, kind: type[messages.Message]) -> list[messages.AnyMessage]:
        return [message for _destination, message in self.mail() if isinstance(message, kind)]

    def events(self) -> list[EventKind]:
        found = []
        while (event := self.session.poll_event()) is not None:
            found.append(event.kind)
        return found

    def send_all(self) -> None:
        while self.session.poll_window(self.now) is not None:
            pass

    def nack(self, needs: list[tuple[int, int, int]], who: int = 0, sequence: int | None = None) -> None:
        items = np.array(needs, DEFICIT).tobytes()
        at = self.session.sequence if sequence is None else sequence
        self.tell(messages.Nack(who, limits.OBJECT_IMAGE, at, 0, 0, 0, items, 0), who)

    def done(self, who: int = 0, digest: bytes = DIGEST) -> None:
        self.tell(messages.Done(who, digest, 1, 0, 0), who)

    def report(self, who: int = 0, loss_ppm: int = 0) -> None:
        self.tell(messages.Report(who, 0, 0, 0, 0, 0, loss_ppm, 0, 0, 0, 0, False), who)
