"""A heartbeat between the processes of a run, which finds a link or a host that is gone.

Collectives cannot tell a dead link from a main process that decodes or evaluates for hours, so they
wait for a day. The heartbeat is a thread of its own with a TCP connection between the main process
and each other one. Both ends send a byte every few seconds, whatever the training does meanwhile.
"""

import json
import os
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runtime.base.command import fail
from runtime.base.errors import SkdEdgeError, UserError

VARIABLE = "SKD_EDGE_HEARTBEAT_SECONDS"
_SILENCE = 40.0  # seconds without a byte, after which the other end is lost
_BEATS = 8  # in that time
_START_SECONDS = 60.0  # for all processes to connect
# A process that ends by an error closes its connection, and the collectives notice it, too. The
# main thread, which can clean up, has this time to say so itself.
_GRACE = 5.0
_BEAT, _GOODBYE = b".", b"!"
_STOPPED = 1
ADVICE = "the last checkpoint is kept, start all processes again with --resume"


class LostProcessError(SkdEdgeError):
    """Another process of the run has ended or cannot be reached, so this one cannot go on."""


class LastWords:
    """Makes sure that one thread of a process alone says why the process ends."""

    def __init__(self) -> None:
        self._said = threading.Lock()

    def take(self) -> bool:
        """Whether the caller is the first; the first one ends the process."""
        return self._said.acquire(blocking=False)


@dataclass
class _Peer:
    """The other end of a connection: what users call it, and when it was last heard."""

    name: str
    connection: socket.socket
    heard: float
    gone: float | None = None  # when its connection ended without a goodbye


def silence_seconds() -> float:
    """After how many seconds without a byte another process is lost.

    Raises:
        UserError: the environment variable is no number above 0.
    """
    text = os.environ.get(VARIABLE, str(_SILENCE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{VARIABLE}: received {text!r}, expected seconds above 0")
    return seconds


class Heartbeat:
    """The thread that beats and listens, from `start` to `stop`."""

    def __init__(self, peers: list[_Peer], *, silence: float, lost: Callable[[str], None]) -> None:
        self._peers = peers
        self._silence = silence
        self._lost = lost
        self._stopping = threading.Event()
        self._polite = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        for peer in self._peers:
            peer.connection.setblocking(False)
            peer.heard = time.monotonic()
        self._thread.start()

    def stop(self, *, goodbye: bool) -> None:
        """Ends the thread. Without a `goodbye` the others take this process for lost."""
        self._polite = goodbye
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        interval = self._silence / _BEATS
        last = time.monotonic()
        while self._peers and not self._stopping.is_set():
            self._send(_BEAT)
            self._listen(interval)
            now = time.monotonic()
            if now - last > self._silence / 2:  # this process itself was stopped meanwhile
                for peer in self._peers:
                    peer.heard = now
            last = now
            self._judge(now)
        if self._polite:
            self._send(_GOODBYE)
        for peer in self._peers:
            peer.connection.close()

    def _send(self, word: bytes) -> None:
        for peer in self._peers:
            # A full buffer means that nothing arrives any more, which is found by the silence.
            with suppress(OSError):
                peer.connection.send(word)

    def _listen(self, seconds: float) -> None:
        """Reads what arrives within `seconds`, or until the thread is to end."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stopping.is_set():
            open_ends = {p.connection: p for p in self._peers if p.gone is None}
            if not open_ends:
                self._stopping.wait(left)
                return
            ready, _, _ = select.select(list(open_ends), [], [], min(left, 0.1))
            for connection in ready:
                self._read(open_ends[connection])

    def _read(self, peer: _Peer) -> None:
        now = time.monotonic()
        try:
            words = peer.connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        if _GOODBYE in words:
            peer.connection.close()
            self._peers.remove(peer)
        elif words:
            peer.heard = now
        else:
            peer.gone = now

    def _judge(self, now: float) -> None:
        for peer in self._peers:
            if peer.gone is not None and now - peer.gone > _GRACE:
                self._lost(f"{peer.name} has ended; {ADVICE}")
            elif peer.gone is None and now - peer.heard > self._silence:
                self._lost(
                    f"nothing was heard from {peer.name} for {self._silence:g} s: its host or the "
                    f"link to it is down; {ADVICE}"
                )


def ender(words: LastWords) -> Callable[[str], None]:
    """What ends this process from the heartbeat's thread, with one line on stderr.

    The main thread may wait in a collective that nothing can interrupt.
    """

    def end(message: str) -> None:
        if not words.take():
            return  # the main thread is saying it
        fail(message, _STOPPED)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(_STOPPED)

    return end


def open_heartbeat(
    rank: int, world_size: int, share: Callable[[Any], Any], lost: Callable[[str], None]
) -> Heartbeat:
    """Connects the processes of a run, and starts their heartbeats; all call it together.

    Args:
        rank: of this process; 0 is the main one.
        world_size: the number of processes.
        share: gives the main process's value in all of them.
        lost: called by the thread with a sentence when another process is lost.

    Raises:
        LostProcessError: the processes cannot connect.
        UserError: the environment asks for an impossible number of seconds.
    """
    silence = silence_seconds()
    host = socket.gethostname()
    if rank == 0:
        with _listener() as listener:
            token = secrets.token_hex(16)
            share((listener.getsockname()[1], token, host))
            peers = _accepted(listener, token, world_size - 1)
    else:
        port, token, main_host = share(None)
        peers = [_connected(port, token, main_host, json.dumps([token, rank, host]))]
    heartbeat = Heartbeat(peers, silence=silence, lost=lost)
    heartbeat.start()
    return heartbeat


def _listener() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # IPv6 may be switched off
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _connected(port: int, token: str, main_host: str, hello: str) -> _Peer:
    address = os.environ.get("MASTER_ADDR", "localhost")  # torchrun's: the main process's host
    try:
        connection = socket.create_connection((address, port), timeout=_START_SECONDS)
        connection.sendall(hello.encode() + b"\n")
        answer, reason = connection.recv(1), "it has closed the connection"
    except OSError as error:
        answer, reason = b"", str(error)
    if answer != _BEAT:  # with which the main process takes this one for its own
        raise LostProcessError(
            f"the heartbeat cannot reach process 0 at {address}:{port} ({reason}); let the hosts "
            "of a run reach each other on all TCP ports"
        )
    return _Peer(f"process 0 on {main_host}", connection, time.monotonic())


def _accepted(listener: socket.socket, token: str, count: int) -> list[_Peer]:
    """The connections of `count` other processes, which know the token."""
    peers: list[_Peer] = []
    end = time.monotonic() + _START_SECONDS
    while len(peers) < count:
        try:
            listener.settimeout(max(0.01, end - time.monotonic()))
            connection, _ = listener.accept()
        except OSError as error:
            raise LostProcessError(
                f"{count - len(peers)} of {count} other processes did not reach the heartbeat "
                f"within {_START_SECONDS:g} s ({error}); let the hosts of a run reach each other "
                "on all TCP ports"
            ) from error
        connection.settimeout(max(0.01, end - time.monotonic()))
        try:
            with connection.makefile("r", encoding="utf-8") as stream:
                said, rank, host = json.loads(stream.readline(4096))
        except (OSError, ValueError):
            connection.close()
            continue
        if said != token:  # somebody else's program that knocks on all ports
            connection.close()
            continue
        connection.sendall(_BEAT)
        peers.append(_Peer(f"process {int(rank)} on {host}", connection, time.monotonic()))
    return peers
