"""What is done to one target, from the first look to the last flush: look, zero, write, flush, read back, fit.

Knows the target and the order of the steps; must not know the network. One object serves all sessions of a receiver:
when a sender is lost and comes back, the next session goes on from what is on the target. The ingest thread owns it;
what takes time is a job for the workers, whose result comes back through ``take``.

The invariant: ``session.flushed`` is called only when every chunk is right, the target is flushed, and, where that was
asked for, everything was read back and was equal.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ghostcast.image.fit import Fit
from ghostcast.image.readback import TargetReader, checked_chunks, describe_ranges, raw_bytes
from ghostcast.image.target import Target
from protocol.errors import GhostcastError, TargetError
from protocol.manifest import Manifest
from protocol.match import mismatches
from protocol.receiver_events import ReceiverState
from receivers.chunks import ChunkWriter, ObjectMemory, zero_chunks
from receivers.copy import Copy
from receivers.machine import read_machine
from receivers.reuse import Reuse, ReusePolicy, looks_blank
from receivers.scan import Compared, TargetScan
from receivers.workers import worker_count

if TYPE_CHECKING:
    from protocol.receiver_session import ReceiverSession
    from receivers.options import ReceiveOptions


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkChecked:
    """A chunk's frame was compared with its digest, and if it matched, the chunk was written."""

    chunk: int
    good: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """There is room for what comes, and what has to read as zeros does."""


@dataclasses.dataclass(frozen=True, slots=True)
class Flushed:
    """Everything written is on the disk."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fitted:
    """The disk was fitted to the size of the target."""

    notes: list[str]
    """What a person should know."""


TargetResult = ChunkChecked | Prepared | Flushed | Fitted | Compared
Job = Callable[[], TargetResult]


class TargetWork:
    """See the module's docstring."""

    def __init__(self, target: Target | TargetReader, options: ReceiveOptions, warn: Callable[[str], None]) -> None:
        """Touch nothing yet.

        Args:
            target: what is written, or, if it can only be read, compared.
            options: what a person chose.
            warn: tells a person something, from any thread.
        """
        self.target = target
        self.copy: Copy | None = None
        """What is known of the target, once the manifest is."""
        self.scan: TargetScan | None = None
        """What is being read back now, if anything."""
        self.wrong_ranges: list[tuple[int, int]] = []
        """Half-open raw ranges that were read back and are not the image's."""
        self._options = options
        self._warn = warn
        self._reader = target if isinstance(target, TargetReader) else None
        self._reuse: Reuse | None = None
        self._all_written = self._finishing = False
        self._session: ReceiverSession | None = None
        self._submit: Callable[[Job], None] = _no_session

    def look(self) -> bool:
        """Look at the target before a session is known; returns whether it certainly needs the whole image.

        Nobody has to wait, then, to be told so.
        """
        target, policy = self.target, self._options.reuse
        if not isinstance(target, Target):
            return False
        if target.initial_size and policy is not ReusePolicy.NEVER:
            self._reader = TargetReader(target.path, target.fileno(), size=target.size)
        blank = self._reader is None or looks_blank(self._reader, target.initial_size)
        return blank and policy is not ReusePolicy.ALWAYS

    def close(self) -> None:
        """Close what was opened here; the target stays its owner's."""
        if self._reader is not None and self._reader is not self.target:
            self._reader.close()
            self._reader = None

    # --- a session begins -----------------------------------------------------------------------------------------

    def join(self, session: ReceiverSession, submit: Callable[[Job], None]) -> None:
        """Work for a session from now on.

        Args:
            session: its machine.
            submit: hands a job to the workers.

        Raises:
            GhostcastError: the last flush, or what comes after it, failed while nobody waited for it any more.
        """
        self._session, self._submit = session, submit
        self._all_written = self._finishing = False
        self._reuse = self.scan = None
        if self.copy is not None:
            if self.copy.failure is not None:
                raise self.copy.failure
            self._go_on(self.copy)

    def take_manifest(self, manifest: Manifest) -> None:
        """The manifest is here: check the target against it, before anything is written.

        Raises:
            TargetError: the target does not suit the image.
        """
        target, copy = self.target, Copy(manifest)
        if isinstance(target, Target):
            self._hold_to_rule(manifest)
            target.require(manifest.target_size_min, raw_bytes(manifest, np.flatnonzero(manifest.transferred)))
            copy.fit = Fit(target, manifest, grow=self._options.grow)
            copy.fit.check()
            copy.writer = ChunkWriter(target, manifest, self._options.stages)
        self.copy = copy
        self._go_on(copy)

    def _hold_to_rule(self, manifest: Manifest) -> None:
        """Refuse an image that is meant for other machines, unless a person overruled that.

        Raises:
            TargetError: names what does not fit.
        """
        wrong = mismatches(manifest.match, read_machine(self.target.size))
        if not wrong:
            return
        text = f"the image's match rule does not fit this machine: {'; '.join(wrong)}"
        if not self._options.force:
            raise TargetError(f"{text}; receive --force takes it all the same")
        self._warn(f"{text}; taken all the same (--force)")

    def _go_on(self, copy: Copy) -> None:
        """The manifest is known, and so is what an earlier session left: find out what is lacking."""
        session, writer = self._session, copy.writer
        assert session is not None
        if writer is None or copy.finished:
            # There is nothing to receive: what is left is to look, or only to say so.
            session.manifest_known(copy.manifest, np.zeros(copy.manifest.chunk_count, np.bool_), copy.bytes_done)
            return
        if not copy.prepared:
            zeros, unused = zero_chunks(copy.manifest), self._options.unused

            def job() -> TargetResult:
                for step in itertools.islice(writer.preparing(zeros, unused), copy.prepared_count, None):
                    if session.state is ReceiverState.ENDED:
                        return Prepared()  # to nobody: a disk that is told to zero itself may take hours for the rest
                    step()
                    copy.prepared_count += 1
                copy.prepared = True
                return Prepared()

            self._submit(job)
        self._reuse = Reuse(copy, self._reader, self._options.reuse)
        session.manifest_known(copy.manifest, copy.wanted, copy.bytes_done, checking=self._reuse.checking)
        self._scan_on(self._reuse.scan)

    # --- chunks ---------------------------------------------------------------------------------------------------

    def chunk_job(self, memory: ObjectMemory, chunk: int) -> Job:
        """Return the job for a chunk that arrived: check and write it."""
        copy = self.copy
        assert copy is not None
        assert copy.writer is not None
        writer = copy.writer
        copy.touched[chunk] = True
        ranges = memory.assembly.ranges(*copy.manifest.stored_range(chunk))

        def job() -> TargetResult:
            good = writer.check_and_write(memory.pieces(ranges), chunk)
            copy.right[chunk] |= good  # noted here, for by now the session may be over
            return ChunkChecked(chunk, good)

        return job

    def all_written(self, now: int) -> None:
        """Every chunk is written or was there already."""
        self._all_written = True
        self._finish_when_ready(now)

    def take(self, result: Prepared | Flushed | Fitted | Compared, now: int) -> None:
        """A job is done.

        Raises:
            TargetError: what was read back is not what it should be.
        """
        assert self._session is not None
        match result:
            case Prepared():
                self._finish_when_ready(now)
            case Flushed():
                self._read_back("reading back", now)
            case Compared():
                self._take_compared(result, now)
            case Fitted():
                for note in result.notes:
                    self._warn(note)
                self._session.flushed(now)

    # --- reading --------------------------------------------------------------------------------------------------

    def _scan_on(self, scan: TargetScan | None) -> None:
        """Keep the workers busy with a scan; no more than that, or chunks that arrive would wait behind it."""
        self.scan = scan
        if scan is not None:
            for job in scan.take_jobs(worker_count()):
                self._submit(job)

    def _take_compared(self, compared: Compared, now: int) -> None:
        session, copy, reuse = self._session, self.copy, self._reuse
        assert session is not None
        assert copy is not None
        if reuse is not None:
            found = reuse.take(compared)
            self._scan_on(reuse.scan)
            if len(found):
                copy.right[session.chunks_found(found)] = True
            if not reuse.checking and session.reception.checking:
                session.check_ended(now)
            return
        scan = compared.scan
        if scan is not self.scan:
            return  # what is left of a look at the target that was cut short
        scan.take(compared)
        if copy.writer is None:
            session.reception.bytes_done = min(scan.bytes_done, copy.manifest.raw_size)
        self._scan_on(scan)
        if scan.over:
            self._read_back_ended(scan, now)

    def _read_back(self, title: str, now: int) -> None:
        """Compare everything on the target with the manifest."""
        copy, target = self.copy, self.target
        assert copy is not None
        if self._reader is None:
            assert isinstance(target, Target)
            self._reader = TargetReader(target.path, target.fileno(), size=target.size)
        chunks = checked_chunks(copy.manifest, target.size)
        scan = TargetScan(self._reader, copy.manifest, chunks, forgiving=False, title=title)
        self._scan_on(scan)
        if scan.over:
            self._read_back_ended(scan, now)

    def _read_back_ended(self, scan: TargetScan, now: int) -> None:
        copy, target = self.copy, self.target
        assert copy is not None
        assert self._session is not None
        self.scan = None
        self.wrong_ranges = ranges = scan.wrong_ranges
        if isinstance(target, TargetReader):
            ranges += target.surplus(copy.manifest)
            if ranges:
                raise TargetError(f"{target.path} does not hold the image: {describe_ranges(ranges)} differ")
            copy.finished = True
            self._session.flushed(now)
        elif ranges:
            raise TargetError(
                f"{target.path}: {describe_ranges(ranges)} read back differently from what was written: the disk, its "
                "cable or its controller is bad"
            )
        else:
            self._submit(_noting_failure(copy, self._fit_job(copy)))

    # --- the end --------------------------------------------------------------------------------------------------

    def _finish_when_ready(self, now: int) -> None:
        copy, target = self.copy, self.target
        if not self._all_written or self._finishing or copy is None:
            return
        assert self._session is not None
        # A worker notes that the zeros are there before its result is back, so this may be called twice.
        self._finishing = copy.finished or copy.writer is None or copy.prepared
        if copy.finished:
            self._session.flushed(now)
        elif not isinstance(target, Target):
            self._read_back("verifying", now)
        elif copy.prepared:
            # Whatever is left of a look at the target is of no use any more.
            self._reuse = None
            self._scan_on(None)
            read_back, fit, stages = self._options.read_back, self._fit_job(copy), self._options.stages

            def job() -> TargetResult:
                with stages("flush"):
                    target.finish(copy.manifest.raw_size)
                return Flushed() if read_back else fit()

            self._submit(_noting_failure(copy, job))

    @staticmethod
    def _fit_job(copy: Copy) -> Job:
        """Return the last thing to do to a target: after it, a disk of another size is no more the image's bytes."""

        def job() -> TargetResult:
            assert copy.fit is not None
            notes = copy.fit.apply()
            copy.finished = True  # noted here, for by now the session may be over
            return Fitted(notes)

        return job


def _noting_failure(copy: Copy, job: Job) -> Job:
    """Return a job whose failure is kept: by the time it fails, the session that would hear of it may be over."""

    def noting() -> TargetResult:
        try:
            return job()
        except GhostcastError as error:
            copy.failure = error
            raise

    return noting


def _no_session(job: Job) -> None:
    raise AssertionError("there is work for a target before a session")
