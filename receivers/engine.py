"""The receiving engine: one receiver, from the first ANNOUNCE heard to DONE confirmed.

This is the *loop* thread, which runs the control plane (asyncio). Of each session the *ingest* thread (``ingest``) owns
the machine and the data, and sends its control datagrams; what takes time is done by the *workers*. Threads pass
datagrams, outcomes and results; nothing else is shared but pinned slices and the control socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import socket
import time
from collections.abc import Callable

import blake3

from ghostcast.fec.kernel import load_kernel
from ghostcast.image.readback import TargetReader, raw_bytes
from ghostcast.image.target import Target
from ghostcast.net import sockets
from ghostcast.net.control import ControlEndpoint
from protocol import limits
from protocol.discovery import Discovery, Found, Successor
from protocol.errors import GhostcastError, NobodyCameError, UsageError
from protocol.manifest import Manifest
from protocol.receiver_events import Identity, Outcome
from protocol.receiver_session import ReceiverSession
from receivers.chunks import Pool
from receivers.copy import Copy
from receivers.ingest import Ingest
from receivers.observer import Observer
from receivers.options import ReceiveOptions
from receivers.target_work import TargetWork

PROGRESS_INTERVAL_S = 0.25
SOLICIT_INTERVAL_NS = limits.SECOND_NS


class ReceiveEngine:
    """One run of ``receive``. Create it, ``await run()``, read the session machine afterwards."""

    def __init__(self, target: Target | TargetReader, options: ReceiveOptions) -> None:
        """Open nothing yet.

        Args:
            target: checked and open; it stays the caller's to close. One that is only read is compared with the image
                that the session announces, takes part without a byte of it, and counts as verified if it is equal.
            options: see there.
        """
        self.target = target
        self.options = options
        self.observer = Observer()
        self.found: Found | None = None
        self.session: ReceiverSession | None = None
        self.error: GhostcastError | None = None
        """Why this receiver itself gave up, if it did."""
        self.started_ns: int | None = None
        self.ended_ns: int | None = None
        self.pool: Pool | None = None
        self.work = TargetWork(target, options, self._warn)
        self.session_count = 0
        """Sessions that this receiver took part in; more than one where a sender came back."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wants_all = False
        self._successor: Successor | None = None
        self._interrupted = False
        self._wake_loop = asyncio.Event()

    # --- from the loop's thread -----------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Give up as soon as possible and tell the sender."""
        self._interrupted = True
        self._wake_loop.set()

    @property
    def interrupted(self) -> bool:
        """Whether the run was ended by hand."""
        return self._interrupted

    @property
    def seconds(self) -> float:
        """Time since the first data could have come, until the end."""
        if self.started_ns is None:
            return 0.0
        return ((self.ended_ns or time.monotonic_ns()) - self.started_ns) / limits.SECOND_NS

    def _warn(self, text: str) -> None:
        """Tell a person something, from any thread."""
        self._tell_from_thread(lambda observer: observer.warning(text))

    def _tell_from_thread(self, call: Callable[[Observer], None]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._tell, functools.partial(call, self.observer))

    def _wake_from_thread(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._wake_loop.set)

    @property
    def copy(self) -> Copy | None:
        """What is known of the target, once the manifest is; kept when a sender is lost and comes back."""
        return self.work.copy

    @property
    def manifest(self) -> Manifest | None:
        """The image's, once it is known and the target suits it."""
        return None if self.copy is None else self.copy.manifest

    @property
    def outcome(self) -> Outcome | None:
        """How it ended: verified, too, where the copy is complete and only the confirmation is missing."""
        outcome = self.session.outcome if self.session is not None else None
        if outcome is Outcome.SENDER_GONE and self.copy is not None and self.copy.finished:
            return Outcome.VERIFIED
        return outcome

    @property
    def chunks_written(self) -> int:
        """Chunks that were received and written."""
        return 0 if self.copy is None else len(self.copy.written)

    @property
    def chunks_reused(self) -> int:
        """Chunks that the target held already."""
        return 0 if self.copy is None else self.copy.reused_count

    @property
    def bytes_written(self) -> int:
        """Raw bytes of the chunks that were received and written."""
        return 0 if self.copy is None else raw_bytes(self.copy.manifest, self.copy.written)

    async def run(self, observer: Observer) -> None:
        """Find the session, receive the image, confirm it, telling ``observer`` about it.

        A sender that is lost on the way is waited for as long as the options say; what is on the target by then stays.

        Raises:
            NobodyCameError: no session was announced in time.
            UsageError: several sessions are announced and none was named, or a socket cannot be opened.
        """
        self.observer = observer
        self._loop = asyncio.get_running_loop()
        self.pool = Pool(self.options.pool_size)
        interface, port = self.options.interface, self.options.port
        async with contextlib.AsyncExitStack() as stack:
            control_socket = sockets.open_control(interface, self.options.ttl)
            control = await ControlEndpoint.open(control_socket, self._wake_loop.set)
            stack.push_async_callback(control.close)
            listener = sockets.open_listener(interface, limits.DISCOVERY_GROUP, port, "discovery")
            discovery = await ControlEndpoint.open(listener, self._wake_loop.set)
            stack.push_async_callback(discovery.close)
            stack.callback(self.work.close)
            self._wants_all = await asyncio.to_thread(self.work.look)
            load_kernel()  # now, while nobody waits: the JOIN would go out later by as long as that takes
            self._tell(self.observer.searching)
            found = await self._find(control, discovery)
            while found is not None:
                self.found, self._successor = found, Successor(found)
                self._tell(functools.partial(self.observer.found, found))
                self.session_count += 1
                await self._take_part(found, control_socket, control, discovery)
                found = await self._find_again(control, discovery)

    async def _find(self, control: ControlEndpoint, discovery: ControlEndpoint) -> Found | None:
        """Return the session to join, or None if interrupted first."""
        begun = time.monotonic_ns()
        search = Discovery(self.options.session_name, begun, random.Random(int.from_bytes(os.urandom(8))))
        deadline = None if self.options.max_wait_ns is None else begun + self.options.max_wait_ns
        while not self._interrupted:
            now = time.monotonic_ns()
            for datagram, address in control.take() + discovery.take():
                search.receive_datagram(datagram, address, now)
            choice = search.poll_choice(now)
            if len(choice) == 1:
                return choice[0]
            if choice:
                names = ", ".join(sorted(repr(found.announce.name) for found in choice))
                raise UsageError(f"several sessions are announced: {names}; choose one with --session")
            if deadline is not None and now >= deadline:
                name = "" if self.options.session_name is None else f" named {self.options.session_name!r}"
                waited = (now - begun) // limits.SECOND_NS
                raise NobodyCameError(
                    f"no session{name} was announced within {waited} s on {self.options.interface.name}; is the sender "
                    "running, on the same network and --port, and does the switch pass multicast?"
                )
            if (solicit := search.poll_transmit(now)) is not None:
                await control.send(solicit, (limits.DISCOVERY_GROUP, self.options.port))
            due = search.next_timeout() if deadline is None else min(search.next_timeout(), deadline)
            self._tell(self.observer.progress)
            await self._sleep(min(max(due - time.monotonic_ns(), 0) / limits.SECOND_NS, PROGRESS_INTERVAL_S))
        return None

    async def _find_again(self, control: ControlEndpoint, discovery: ControlEndpoint) -> Found | None:
        """Return the session to go on with after the sender was lost, or None where it is over."""
        session, successor = self.session, self._successor
        assert session is not None
        assert successor is not None
        if not session.sender_lost or self._interrupted:
            return None
        successor.lost = True
        deadline = time.monotonic_ns() + (self.options.max_wait_ns or 0)
        if successor.found is None and time.monotonic_ns() < deadline:
            self._tell(functools.partial(self.observer.sender_lost, session.outcome_text))
        due = 0
        while successor.found is None and not self._interrupted and (now := time.monotonic_ns()) < deadline:
            if now >= due:
                due = now + SOLICIT_INTERVAL_NS
                await control.send(successor.poll_transmit(), (limits.DISCOVERY_GROUP, self.options.port))
            self._tell(self.observer.progress)
            await self._sleep(min(deadline - now, due - now) / limits.SECOND_NS)
            for datagram, address in control.take() + discovery.take():
                successor.receive_datagram(datagram, address)
        return None if self._interrupted else successor.found

    async def _take_part(
        self, found: Found, control_socket: socket.socket, control: ControlEndpoint, discovery: ControlEndpoint
    ) -> None:
        group = sockets.group_address(found.announce.group)
        if group is None:
            raise UsageError("the session announces a data group that is no multicast address: refused")
        assert self._loop is not None
        assert self._successor is not None
        assert self.pool is not None
        data_socket = sockets.open_listener(
            self.options.interface, group, found.announce.port, "data", source=found.sender_host
        )
        with contextlib.closing(data_socket):
            buffer = sockets.enlarge_receive_buffer(data_socket)
            if buffer.advice is not None:
                self._tell(functools.partial(self.observer.warning, buffer.advice))
            self.session = ReceiverSession(
                found,
                self._identity(found),
                pool_size=self.options.pool_size,
                rng=random.Random(int.from_bytes(os.urandom(8))),
                now=time.monotonic_ns(),
            )
            ingest = Ingest(
                self.session,
                self._successor,
                self.work,
                self.pool,
                self.options,
                data_socket,
                control_socket,
                buffer.granted,
                tell=self._tell_from_thread,
                on_end=self._wake_from_thread,
            )
            with contextlib.closing(ingest):
                self.started_ns = self.started_ns or time.monotonic_ns()
                self.ended_ns = None
                ingest.start()
                try:
                    await self._serve(found, control, discovery, ingest)
                finally:
                    # Nothing that the thread uses may be closed before it has ended, whatever ended the loop.
                    if ingest.ended_ns is None:
                        self.interrupt()
                        ingest.interrupt()
                    await asyncio.to_thread(ingest.join)
                    self.ended_ns, self.error = ingest.ended_ns, ingest.error
                if ingest.crash is not None:
                    raise ingest.crash
        self._tell(self.observer.progress)

    async def _serve(self, found: Found, control: ControlEndpoint, discovery: ControlEndpoint, ingest: Ingest) -> None:
        """Carry control datagrams from the network to the ingest thread until that thread ends."""
        loop = asyncio.get_running_loop()
        progress_due = loop.time()
        assert self._successor is not None
        while ingest.ended_ns is None:
            arrived = [datagram for datagram, address in control.take() if address == found.control_address]
            for datagram, address in discovery.take():
                if address[0] == found.sender_host:
                    arrived.append(datagram)
                self._successor.receive_datagram(datagram, address)
            if arrived:
                ingest.deliver(arrived)
            if self._interrupted:
                ingest.interrupt()
            if loop.time() >= progress_due:
                progress_due = loop.time() + PROGRESS_INTERVAL_S
                self._tell(self.observer.progress)
            await self._sleep(PROGRESS_INTERVAL_S)

    @staticmethod
    def _tell(call: Callable[[], None]) -> None:
        """Call an observer; a terminal or a log that is gone must not end the session."""
        with contextlib.suppress(OSError):
            call()

    async def _sleep(self, seconds: float) -> None:
        handle = asyncio.get_running_loop().call_later(seconds, self._wake_loop.set)
        await self._wake_loop.wait()
        handle.cancel()
        self._wake_loop.clear()

    def _identity(self, found: Found) -> Identity:
        host = socket.gethostname()[: limits.HOST_LENGTH_MAX]
        interface = self.options.interface
        target = os.path.realpath(self.target.path)
        # Stable across restarts, different for every target: a machine's network card and what it writes to.
        name = "\0".join((interface.hardware_address, host, interface.address, target))
        return Identity(
            receiver_id=_receiver_id(name),
            incarnation=int.from_bytes(os.urandom(4)),
            host=host,
            target=target[-limits.REASON_LENGTH_MAX :],
            target_size=-1 if self.target.size is None else self.target.size,
            link_rate=interface.link_bytes_per_s,
            wants_all=self._wants_all and self.copy is None,
        )


def _receiver_id(name: str) -> bytes:
    """Return a receiver id made from a name."""
    return blake3.blake3(name.encode("utf-8", "surrogateescape")).digest(length=limits.RECEIVER_ID_SIZE)
