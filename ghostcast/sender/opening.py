"""What a session begins with: its sockets, and the question whether anybody serves its name already.

The answer takes up to 60 ms, and so does loading what the session needs: so the question goes out first, and this
module must not import the engine, nor what that needs, nor numpy.
"""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Self

from ghostcast.net import sockets
from ghostcast.sender.options import SendOptions
from protocol import limits, messages


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
        self.asked_ns = time.monotonic_ns()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sockets.close()
