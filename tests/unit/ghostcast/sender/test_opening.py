"""Goal: a session whose name somebody serves already does not begin, however long the engine took to be loaded.

Method: a rival on loopback that answers the question, real sockets, an engine that starts long after the answer.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ghostcast.image.reader import ImageFile
from ghostcast.net.interfaces import choose_interface
from ghostcast.sender.engine import Observer, SendEngine
from ghostcast.sender.layout import TransmitBuffer
from ghostcast.sender.opening import ANSWER_NS, Opening
from ghostcast.sender.options import SendOptions
from protocol import limits, messages, wire
from protocol.errors import UsageError
from protocol.messages import SessionState
from protocol.sender_events import StartRule
from tests.images import make_image
from tests.unit.receivers.test_engine import free_port


def options() -> SendOptions:
    return SendOptions("unit", choose_interface("127.0.0.1"), StartRule(max_wait_ns=1), port=free_port())


def announce(name: str) -> bytes:
    """Return the ANNOUNCE of another sender."""
    return messages.encode(
        77,
        messages.Announce(
            name=name,
            image_id=bytes(16),
            image_name="other",
            manifest_digest=bytes(32),
            manifest_size=100,
            stream_size=1000,
            raw_size=1000,
            symbol_size=1440,
            source_symbols=128,
            window_slices=32,
            group=0xEFC00001,
            port=7767,
            control_port=9,
            receivers_expected=0,
            state=SessionState.WAITING,
            join_spread_ms=0,
            report_interval_ms=1000,
        ),
    )


@pytest.mark.parametrize("name", ["unit", "another"])
def test_an_answer_that_came_before_the_engine_ran_is_heeded(tmp_path: Path, name: str) -> None:
    with ImageFile.open(make_image(tmp_path / "image", bytes(1000))) as image, Opening(chosen := options()) as opening:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rival:
            rival.sendto(announce(name), ("127.0.0.1", opening.control_port))
        time.sleep(1.5 * ANSWER_NS / limits.SECOND_NS)
        engine = SendEngine(image, chosen, 4711, opening)
        if name == "unit":
            with pytest.raises(UsageError, match=r"announced by another sender at 127\.0\.0\.1"):
                asyncio.run(engine.run(Observer()))
            assert engine.session is None
        else:
            session = asyncio.run(engine.run(Observer()))
            assert session.end_text == "no receiver joined in time"
        assert opening.control.fileno() == opening.discovery.fileno() == opening.data.fileno() == -1


@pytest.mark.parametrize("port", ["control", "discovery"])
def test_an_answer_among_other_words_is_heard_on_either_socket(port: str) -> None:
    with Opening(chosen := options()) as opening, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rival:
        rival.bind(("127.0.0.1", 0))
        to = ("127.0.0.1", opening.control_port)
        if port == "discovery":
            to = (limits.DISCOVERY_GROUP, chosen.port)
            rival.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for word in (b"", b"noise", bytes(limits.CONTROL_SIZE_MAX + 1), announce("another")):
            rival.sendto(word, to)
        assert opening.rival() is None
        rival.sendto(b"noise", to)
        rival.sendto(announce("unit"), to)
        assert opening.rival() == "127.0.0.1"


def test_an_answer_after_any_number_of_other_words_is_heard() -> None:
    with Opening(options()) as opening, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rival:
        to = ("127.0.0.1", opening.control_port)
        opening._answered_ns = time.monotonic_ns() + 20 * limits.SECOND_NS

        def talk() -> None:
            for count in range(2 * limits.INBOX_DATAGRAMS_MAX):
                rival.sendto(b"noise", to)
                if count % 64 == 0:
                    time.sleep(0.001)
            rival.sendto(announce("unit"), to)

        talking = threading.Thread(target=talk)
        talking.start()
        assert opening.rival() == "127.0.0.1"
        talking.join()


LOADED_WHEN_ASKED = """
import sys
from ghostcast.cli.main import main
from ghostcast.sender.opening import Opening

def asked(self, options):
    print(options.session_name, *sorted({"numpy", "asyncio", "blake3", "zstandard"} & set(sys.modules)))
    raise SystemExit

Opening.__init__ = asked
main()
"""


@pytest.mark.parametrize(("session", "said"), [("unit", "unit"), (None, "image.raw blake3 numpy zstandard")])
def test_what_takes_long_to_load_is_loaded_while_an_answer_is_on_its_way(
    tmp_path: Path, session: str | None, said: str
) -> None:
    """Where nobody told the session's name, the image has to be opened for it."""
    command = [sys.executable, "-c", LOADED_WHEN_ASKED, "send", str(make_image(tmp_path / "image", bytes(1000)))]
    command += ["--interface", "127.0.0.1", *(() if session is None else ("--session", session))]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == said.split()


def test_the_question_goes_out_at_once() -> None:
    chosen = options()
    with Opening(chosen) as opening:
        opening.discovery.settimeout(5)
        datagram, address = opening.discovery.recvfrom(2048)  # multicast brings our own word back
        frame = wire.parse_control(datagram, wire.Drops())
        assert frame is not None
        assert messages.decode(frame.body, wire.Drops()) == messages.Solicit("unit")
        assert address[1] == opening.control_port
    assert opening.control.fileno() == -1


def test_a_buffer_whose_memory_is_not_provided_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(buffer: TransmitBuffer, datagram_count: int) -> None:
        raise MemoryError

    monkeypatch.setattr(TransmitBuffer, "provide", refuse)
    with ImageFile.open(make_image(tmp_path / "image", bytes(1000))) as image:
        engine = SendEngine(image, options(), 4711)
        engine._provide_buffers([TransmitBuffer(2, 32) for _count in range(3)], 2)
        assert engine._free_buffers.qsize() == 3
        session = asyncio.run(engine.run(Observer()))
    assert session.end_text == "no receiver joined in time"
