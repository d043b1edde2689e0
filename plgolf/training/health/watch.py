"""The connections between ranks by which each learns that another is gone."""

import os
import secrets
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from subprocess import Popen, TimeoutExpired
from typing import Any

from lightning.pytorch import Trainer

from plgolf.errors import RunError
from plgolf.training.health.peers import BEAT_SECONDS, GRACE_SECONDS

_MEET_SECONDS = 300.0
"""Time for all ranks to open their data and connect."""


def watch_peers(trainer: Trainer, timeout_seconds: float) -> "Watch":
    """Connects this rank with the others.

    Args:
        trainer: a trainer with several ranks.
        timeout_seconds: a rank that is silent this long is gone.

    Raises:
        RunError: the ranks cannot meet.
    """
    try:
        peers = _meet(trainer)
    except OSError as error:
        reason = f"rank {trainer.global_rank} and the others cannot meet: {error}"
        raise RunError(f"{reason} (does a firewall keep ranks from the ports of rank 0?)") from error
    return Watch(trainer.global_rank, peers, _take_children(trainer), timeout_seconds)


class Watch:
    """Connections of one rank: from rank 0 to all others, or from another rank to rank 0."""

    def __init__(
        self,
        rank: int,
        peers: dict[int, socket.socket],
        children: dict[int, "Popen[bytes]"],
        timeout_seconds: float,
    ) -> None:
        self.rank, self.timeout_seconds = rank, timeout_seconds
        self.verdict, self.speaks = "", True
        """Why the run ends, and whether this rank prints it."""
        self.concluded, self.main_is_ending = threading.Event(), threading.Event()
        self._peers, self._children = peers, children
        self._left, self._lock = threading.Event(), threading.Lock()
        self._listeners = [
            threading.Thread(target=self._listen, args=peer, name=f"peer-{peer[0]}", daemon=True)
            for peer in peers.items()
        ]
        for thread in (*self._listeners, threading.Thread(target=self._beat, name="peer-beat", daemon=True)):
            thread.start()

    def _beat(self) -> None:
        while not self._left.wait(BEAT_SECONDS):
            self._tell("beat")
            # A collective may raise an error in the main thread, or wait forever.
            if self.concluded.is_set() and not self.main_is_ending.wait(GRACE_SECONDS):
                for child in self._children.values():
                    child.kill()
                if self.speaks:
                    sys.stderr.write(f"plgolf: error: {self.verdict}\n")
                    sys.stderr.flush()
                os._exit(1)

    def _listen(self, rank: int, peer: socket.socket) -> None:
        peer.settimeout(self.timeout_seconds)
        try:
            for line in peer.makefile(encoding="utf-8", errors="replace"):
                word, _, text = line.strip().partition(" ")
                if word == "left":
                    return
                if word in ("gone", "said"):
                    self.conclude(text, said=word == "said")
            reason = self._end_of(rank)
        except TimeoutError:
            reason = f"nothing was heard of it for {self.timeout_seconds:g} seconds"
        except OSError:
            reason = self._end_of(rank)
        self.conclude(f"rank {rank} is gone: {reason}")

    def _end_of(self, rank: int) -> str:
        if rank in self._children:
            with suppress(TimeoutExpired):
                code = self._children[rank].wait(BEAT_SECONDS)
                return f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"
        return "its connection has closed"

    def conclude(self, verdict: str, *, said: bool = False) -> None:
        """Tells every rank why the run ends; if ``said``, the rank that it is about prints its own error."""
        with self._lock:
            if self.verdict or self._left.is_set():
                return  # The first verdict counts.
            self.verdict = " ".join(verdict.split())
        self.speaks = not said and (self.rank == 0 or self.verdict.startswith("rank 0 "))
        self._tell(f"{'said' if said else 'gone'} {self.verdict}")
        self.concluded.set()

    def _tell(self, line: str) -> None:
        for peer in self._peers.values():
            with suppress(OSError):  # Its listener sees it, too.
                peer.sendall(f"{line}\n".encode(errors="replace"))

    def leave(self) -> None:
        """Closes the connections; rank 0, which passes messages on, waits for the others first."""
        self._left.set()
        self._tell("left")
        end = time.monotonic() + GRACE_SECONDS
        for thread in self._listeners if self.rank == 0 else ():
            thread.join(max(0.0, end - time.monotonic()))
        for peer in self._peers.values():
            peer.close()


def _meet(trainer: Trainer) -> dict[int, socket.socket]:
    """Connects every rank to rank 0, with a secret word that only ranks know."""
    environment: Any = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=dual) as server:
            server.settimeout(_MEET_SECONDS)
            word = secrets.token_hex(16)
            trainer.strategy.broadcast((server.getsockname()[1], word))
            return _accept(server, word, trainer.world_size - 1)
    port, word = trainer.strategy.broadcast((0, ""))
    peer = socket.create_connection((environment.main_address, port), timeout=_MEET_SECONDS)
    peer.sendall(f"{word} {trainer.global_rank:08}".encode())
    return {0: peer}


def _accept(server: socket.socket, word: str, count: int) -> dict[int, socket.socket]:
    peers: dict[int, socket.socket] = {}
    while len(peers) < count:
        try:
            peer, _ = server.accept()
        except TimeoutError as error:
            missing = min(set(range(1, count + 1)) - set(peers))
            raise RunError(f"rank {missing} has not come within {_MEET_SECONDS:g} seconds") from error
        peer.settimeout(GRACE_SECONDS)
        hello = b""
        with suppress(OSError):
            hello = peer.recv(len(word) + 9, socket.MSG_WAITALL)
        if hello[:-9].decode(errors="replace") == word:
            peers[int(hello[-8:])] = peer
        else:
            peer.close()
    return peers


def _take_children(trainer: Trainer) -> dict[int, "Popen[bytes]"]:
    """Takes over the processes that this one has launched, by rank.

    Lightning's own observer looks at them every five seconds; if one ended with another code than 0, it ends
    all of them and this process with SIGKILL, without a message.
    """
    processes = getattr(trainer.strategy.launcher, "procs", [])
    children = {trainer.global_rank + index: process for index, process in enumerate(processes, 1)}
    processes.clear()
    return children
