"""Real processes for tests, forked from one that has imported everything: ranks, victims of signals."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["plgolf.training.command.cli", "golden_run", "runs"])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Rank:
    """A process that calls a function of this test suite with its output in files."""

    def __init__(
        self, function: Callable[..., Any], *args: Any, folder: Path, rank: int = 0, env=None, cwd=None
    ):
        self.stdout, self.stderr = (folder / f"rank{rank}.{name}" for name in ("out", "err"))
        self.process: BaseProcess = SERVER.Process(
            target=_run,
            args=(function, args, str(self.stdout), str(self.stderr), str(cwd or os.getcwd()), env or {}),
            daemon=True,  # Killed with the tests.
        )
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self, timeout: float = 120) -> int:
        """Returns the exit code, negative for the signal that killed it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            pytest.fail(f"still running after {timeout} s\n{self.said}")
        return self.process.exitcode

    @property
    def said(self) -> str:
        return "".join(p.read_text() for p in (self.stdout, self.stderr) if p.exists())


def _run(function, args, stdout, stderr, cwd, env) -> None:
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = (os.fdopen(d, "w", buffering=1, closefd=False) for d in (1, 2))
    os.chdir(cwd)
    os.environ.update(env)
    import torch

    torch.set_num_threads(1)
    try:
        status = function(*args)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0)


def ranks(function: Callable[..., Any], world_size: int, *args: Any, folder: Path) -> list[Rank]:
    """Starts a function as every rank of a run, as torchrun would."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    if world_size == 1:
        return [Rank(function, *args, folder=folder)]
    return [
        Rank(
            function,
            *args,
            folder=folder,
            rank=rank,
            env={
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "GROUP_RANK": "0",
                "TORCHELASTIC_RUN_ID": "test",
            },
        )
        for rank in range(world_size)
    ]


def succeed(started: list[Rank], timeout: float = 120) -> None:
    """Waits for all ranks and shows what they said if one fails."""
    codes = [rank.wait(timeout) for rank in started]
    assert codes == [0] * len(codes), "\n".join(rank.said for rank in started)
