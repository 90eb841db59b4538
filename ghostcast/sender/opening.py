"""What a session begins with: its sockets, and the question whether anybody serves its name already.

The answer takes up to 60 ms, and so does loading what the session needs: so the question goes out first, and this
module must not import the engine, nor what that needs, nor numpy.
"""

from __future__ import annotations

import contextlib
import select
import time
from types import TracebackType
from typing import Self

from ghostcast.net import sockets
from ghostcast.sender.options import SendOptions
from protocol import limits, messages, wire

ANSWER_NS = 60 * limits.MILLISECOND_NS
"""How long after the question to listen for another sender of the same name; one that is there answers within 50 ms."""


class Opening:
    """The sockets of one session. A context manager that closes them."""

    def __init__(self, options: SendOptions) -> None:
        """Open the sockets and ask.

        Raises:
            UsageError: a socket cannot be opened.
        """
        with contextlib.ExitStack() as stack:
            self.control = stack.enter_context(sockets.open_control(options.interface, options.ttl))
            self.discovery = stack.enter_context(
                sockets.open_listener(options.interface, limits.DISCOVERY_GROUP, options.port, "discovery")
            )
            self.data = stack.enter_context(sockets.open_data_sender(options.interface, options.ttl))
            self._sockets = stack.pop_all()
        self.control_port: int = self.control.getsockname()[1]
        with contextlib.suppress(OSError):  # a network that refuses it is as good as one that loses it
            question = messages.encode(0, messages.Solicit(options.session_name))
            self.control.sendto(question, (limits.DISCOVERY_GROUP, options.port))
        self._name = options.session_name
        self._answered_ns = time.monotonic_ns() + ANSWER_NS

    def rival(self) -> str | None:
        """Return the address of another sender that serves this name, once it has had the time to say so.

        What came while the engine was being loaded waits in the sockets and is read at once: nobody else may have read
        from them.
        """
        sockets_by_number = {opened.fileno(): opened for opened in (self.control, self.discovery)}
        poll, drops = select.poll(), wire.Drops()
        for number in sockets_by_number:
            poll.register(number, select.POLLIN)
        late = 0
        while late < limits.INBOX_DATAGRAMS_MAX:
            left_ms = -(-(self._answered_ns - time.monotonic_ns()) // limits.MILLISECOND_NS)
            ready = poll.poll(max(0, left_ms))
            if not ready:
                break
            late += left_ms <= 0
            for number, _events in ready:
                with contextlib.suppress(OSError):  # of an ICMP error that somebody answered with
                    datagram, address = sockets_by_number[number].recvfrom(limits.CONTROL_SIZE_MAX + 1)
                    frame = wire.parse_control(datagram, drops)
                    message = None if frame is None else messages.decode(frame.body, drops)
                    if isinstance(message, messages.Announce) and message.name == self._name:
                        host: str = address[0]
                        return host
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sockets.close()
