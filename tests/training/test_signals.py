"""Signals: which ones end a run with a checkpoint, and which are left to whoever ignores them."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from runs import start

from plgolf.training.checkpoints.run_checkpoint import checkpoints
from plgolf.training.timing.signals import StopSignals

MANY_STEPS = ("--trainer.max_steps=1000000", "--checkpoint.every_steps=2", "--checkpoint.keep=2")


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def newest_step(folder: Path) -> int:
    return int(checkpoints(folder)[0].stem.split("-")[1])


def test_sighup_ends_a_run_with_a_checkpoint(golden_recipe, tmp_path):
    [run] = start(golden_recipe, 1, *MANY_STEPS, "--checkpoint.every_seconds=1000", folder=tmp_path)
    wait_for(tmp_path / "step-000002.ckpt")
    os.kill(run.pid, signal.SIGHUP)
    assert run.wait() == 128 + signal.SIGHUP, run.said
    assert f"stopped by SIGHUP after step {newest_step(tmp_path)}" in run.said


@pytest.mark.parametrize("style", ["lines", "bar"])
@pytest.mark.slow
def test_a_closed_terminal_ends_a_run_with_a_checkpoint(style, golden_recipe, tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "plgolf", "fit", "-c", str(golden_recipe), f"--console={style}"]
    command += ["--trainer.max_steps=1000000", "--checkpoint.every_steps=100", "--console.every_steps=1"]
    run = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (no threads hold locks)
    )
    os.close(theirs)
    end = time.monotonic() + 120
    while not checkpoints(tmp_path / "run"):
        assert time.monotonic() < end
        os.read(ours, 65536)
    os.close(ours)
    assert run.wait(60) == 128 + signal.SIGHUP
    assert newest_step(tmp_path / "run") % 100, "the last checkpoint is of the step that the signal came in"


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = StopSignals()
    try:
        signals.install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signals.restore()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, before)
