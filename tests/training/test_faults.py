"""Faults that really happen to a run: signals, dead ranks, broken numbers, full disks."""

import os
import signal
import time
from pathlib import Path

import pytest
from runs import assert_same_end, fit, start

SLOW = ("--checkpoint.every_steps=2", "--checkpoint.keep=3", "--console.every_steps=1")


def wait_for(path: Path, *ranks, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, "\n".join(rank.said for rank in ranks)
        time.sleep(0.01)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_the_step_on_every_rank(
    signum, code, world_size, golden_recipe, tmp_path
):
    steps = ("--trainer.max_steps=30", *SLOW)
    fit(golden_recipe, world_size, *steps, folder=tmp_path / "whole")
    started = start(golden_recipe, world_size, *steps, folder=tmp_path / "cut")
    wait_for(tmp_path / "cut" / "step-000002.ckpt", *started)
    # One rank gets it, and not the first.
    os.kill(started[-1].pid, signum)
    assert [rank.wait() for rank in started] == [code] * world_size, started[0].said
    newest = max((tmp_path / "cut").glob("step-*.ckpt"))
    step = int(newest.stem.split("-")[1])
    assert 2 <= step < 30
    assert f"stopped by {signal.Signals(signum).name} after step {step}" in started[0].said
    assert sum("plgolf: stopped by" in rank.said for rank in started) == 1
    assert not any("Traceback" in rank.said for rank in started)
    assert not (tmp_path / "cut" / "result.json").exists()
    fit(golden_recipe, world_size, *steps, "--resume=auto", folder=tmp_path / "cut")
    assert_same_end(tmp_path / "whole", tmp_path / "cut", 30)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_takes_the_others_down_by_name(victim, golden_recipe, tmp_path):
    started = start(golden_recipe, 2, "--trainer.max_steps=100000", *SLOW, folder=tmp_path / "run")
    wait_for(tmp_path / "run" / "step-000002.ckpt", *started)
    os.kill(started[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    assert started[1 - victim].wait(30) == 1
    assert time.monotonic() - killed < 15
    assert f"plgolf: error: rank {victim} is gone: its connection has closed\n" in started[1 - victim].said
    assert "Traceback" not in started[1 - victim].said
    fit(golden_recipe, 2, "--trainer.max_steps=20", "--resume=auto", folder=tmp_path / "run")
