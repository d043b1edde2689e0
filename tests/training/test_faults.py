"""Faults that really happen to a run: signals, dead ranks, broken numbers, full disks, vanishing files."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from golden_data import GOLDEN
from golden_run import golden_data, golden_module, trainer
from processes import Rank, ranks, succeed
from runs import assert_same_end, fit, start

from plgolf.data.shards import find_shards
from plgolf.errors import RunError
from plgolf.training import GolfModule, RunCheckpoint
from plgolf.training.checkpoints.files import CheckpointFiles, read_checkpoint
from plgolf.training.checkpoints.run_checkpoint import checkpoints, find_checkpoint

ENDLESS = ("--trainer.max_steps=1000000", "--checkpoint.every_steps=2", "--checkpoint.keep=3")


def wait_for(path: Path, *started: Rank, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, "\n".join(rank.said for rank in started)
        time.sleep(0.01)


def newest_step(folder: Path) -> int:
    return int(checkpoints(folder)[0].stem.split("-")[1])


# Signals


@pytest.fixture(scope="module")
def whole(tmp_path_factory, golden_recipe_file) -> dict[int, Path]:
    """Runs of 30 steps that nothing happens to, by number of ranks."""
    runs = {n: tmp_path_factory.mktemp(f"whole{n}") for n in (1, 2)}
    for world_size, folder in runs.items():
        fit(golden_recipe_file, world_size, "--trainer.max_steps=30", folder=folder)
    return runs


@pytest.mark.parametrize(
    ("world_size", "signum", "code"),
    [
        (1, signal.SIGINT, 130),
        pytest.param(1, signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_run_after_the_step_on_every_rank(
    world_size, signum, code, whole, golden_recipe, tmp_path
):
    steps = ("--trainer.max_steps=30", *ENDLESS[1:])
    started = start(golden_recipe, world_size, *steps, folder=tmp_path)
    wait_for(tmp_path / "step-000002.ckpt", *started)
    os.kill(started[-1].pid, signum)  # One rank gets it, and not the first.
    assert [rank.wait() for rank in started] == [code] * world_size, started[0].said
    step = newest_step(tmp_path)
    assert 2 <= step < 30
    assert f"stopped by {signal.Signals(signum).name} after step {step}" in started[0].said
    assert sum("plgolf: stopped by" in rank.said for rank in started) == 1
    assert not any("Traceback" in rank.said for rank in started)
    assert not (tmp_path / "result.json").exists()
    fit(golden_recipe, world_size, *steps, "--resume=auto", folder=tmp_path)
    assert_same_end(whole[world_size], tmp_path, 30)


def test_a_second_interrupt_ends_the_process_at_once(golden_recipe, tmp_path):
    [run] = start(golden_recipe, 1, *ENDLESS, "--data.val_every_steps=1", folder=tmp_path)
    wait_for(tmp_path / "step-000002.ckpt", run)
    # Frozen, so that both arrive before its next step ends.
    for signum in (signal.SIGSTOP, signal.SIGINT, signal.SIGCONT):
        os.kill(run.pid, signum)
    while "SIGINT: the run ends" not in run.said:
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGINT)
    assert run.wait() == 130


def test_ctrl_c_ends_the_process_at_once_after_sigterm_too():
    code = """
import os, signal, time
from plgolf.training.timing.signals import StopSignals
signals = StopSignals()
signals.install()
for signum in (signal.SIGTERM, signal.SIGTERM):
    os.kill(os.getpid(), signum)
assert signals.received == signal.SIGTERM
os.kill(os.getpid(), signal.SIGINT)
time.sleep(9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr.count("SIGTERM: the run ends after this step") == 1


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.slow
def test_a_signal_within_validation_ends_the_run_after_it(world_size, whole, golden_recipe, tmp_path):
    """Also in the last one, after which there would be the export alone: resuming does just that."""
    signalling = {"class_path": "runs.SignalInValidation"}
    steps = ("--trainer.max_steps=30", f"--trainer.callbacks+={json.dumps(signalling)}")
    started = start(golden_recipe, world_size, *steps, folder=tmp_path)
    assert [rank.wait() for rank in started] == [143] * world_size, started[0].said
    assert newest_step(tmp_path) == 30 and not (tmp_path / "result.json").exists()
    fit(golden_recipe, world_size, "--trainer.max_steps=30", "--resume=auto", folder=tmp_path)
    assert_same_end(whole[world_size], tmp_path, 30)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("when", "expected_step"), [("Export", 30), ("AtStart", 0)])
@pytest.mark.slow
def test_a_signal_outside_of_steps_is_answered_too(
    when, expected_step, world_size, whole, golden_recipe, tmp_path
):
    """Within the export, which is whole then; or before the first step, after which the run ends."""
    name = {"Export": "runs.SignalInExport", "AtStart": "runs.SignalAtStart"}[when]
    signalling = f"--trainer.callbacks+={json.dumps({'class_path': name})}"
    steps = ("--trainer.max_steps=30", "--trainer.num_sanity_val_steps=1")
    started = start(golden_recipe, world_size, *steps, signalling, folder=tmp_path)
    assert [rank.wait() for rank in started] == [143] * world_size, started[0].said
    assert f"stopped by SIGTERM after step {expected_step}" in started[0].said
    assert (tmp_path / "result.json").exists() == (when == "Export")
    fit(golden_recipe, world_size, *steps, "--resume=auto", folder=tmp_path)
    assert_same_end(whole[world_size], tmp_path, 30)


# Ranks that die


@pytest.mark.parametrize(
    ("victim", "world_size"), [(0, 2), (1, 2), pytest.param(2, 4, marks=pytest.mark.slow)]
)
def test_a_rank_that_is_killed_takes_the_others_down_by_name(victim, world_size, golden_recipe, tmp_path):
    started = start(golden_recipe, world_size, *ENDLESS, "--data.micro_batch_sequences=4", folder=tmp_path)
    wait_for(tmp_path / "step-000002.ckpt", *started)
    started[victim].process.kill()
    killed = time.monotonic()
    others = [rank for index, rank in enumerate(started) if index != victim]
    assert [rank.wait(30) for rank in others] == [1] * len(others)
    assert time.monotonic() - killed < 30
    said = "".join(rank.said for rank in others)
    assert said.count(f"plgolf: error: rank {victim} is gone: its connection has closed\n") == 1
    assert "Traceback" not in said
    assert read_checkpoint(str(checkpoints(tmp_path)[0]))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_freezes_takes_the_others_down_by_name(victim, golden_recipe, tmp_path):
    started = start(golden_recipe, 2, *ENDLESS, "--peers.timeout_seconds=3", folder=tmp_path)
    wait_for(tmp_path / "step-000002.ckpt", *started)
    os.kill(started[victim].pid, signal.SIGSTOP)
    stopped = time.monotonic()
    assert started[1 - victim].wait(40) == 1
    assert time.monotonic() - stopped < 20
    expected = f"plgolf: error: rank {victim} is gone: nothing was heard of it for 3 seconds\n"
    assert expected in started[1 - victim].said
    started[victim].process.kill()


@pytest.mark.slow
def test_lightnings_own_launcher_names_the_dead_rank_too(golden_recipe, tmp_path):
    command = [sys.executable, "-m", "plgolf", "fit", "-c", str(golden_recipe), *ENDLESS]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.default_root_dir=run"]
    run = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    wait_for(tmp_path / "run" / "step-000002.ckpt")
    [child] = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    said = run.communicate(timeout=30)[1]
    assert run.returncode == 1
    assert said == "plgolf: error: rank 1 is gone: killed by SIGKILL\n"


# Numbers that are none


class Broken(GolfModule):
    """The golden model, whose loss or gradient breaks at a step, on one rank and in one micro-batch."""

    step, rank, micro_batch, what = 3, 0, 1, "loss"
    next_micro_batch = 0

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        self.next_micro_batch = 0

    def micro_batch_loss(self, batch):
        loss, index = super().micro_batch_loss(batch), self.next_micro_batch
        self.next_micro_batch += 1
        here = self.trainer.global_step + 1, self.global_rank, index
        if here != (self.step, self.rank, self.micro_batch):
            return loss
        if self.what == "loss":
            return loss * math.nan
        return _InfGradient.apply(loss, self.gpt.blocks[2].mlp.up_proj.weight)


class _InfGradient(torch.autograd.Function):
    """A loss that is fine, with a gradient that is not."""

    @staticmethod
    def forward(ctx, loss, weight):
        ctx.save_for_backward(weight)
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        [weight] = ctx.saved_tensors
        return gradient, torch.full_like(weight, math.inf)


def broken_fit(folder: Path, world_size: int, rank: int, what: str, nonfinite: str, steps: int = 6) -> None:
    module = golden_module(newton_schulz_dtype="float32")
    module.__class__ = Broken
    module.rank, module.what, module.nonfinite = rank, what, nonfinite
    save = RunCheckpoint(every_steps=1, keep=99)
    many = {"devices": world_size, "strategy": "ddp"} if world_size > 1 else {}
    run = trainer(folder, save, max_steps=steps, enable_checkpointing=True, **many)
    data = golden_data(global_batch_tokens=16 * 64, micro_batch_sequences=4)
    try:
        run.fit(module, data)
    except RunError as error:
        (folder / f"error{run.global_rank}").write_text(str(error))


def test_a_loss_that_is_no_number_stops_the_run_before_a_checkpoint(tmp_path):
    succeed(ranks(broken_fit, 2, tmp_path, 2, 1, "loss", "stop", folder=tmp_path))
    errors = [(tmp_path / f"error{rank}").read_text() for rank in (0, 1)]
    # Two ranks with two micro-batches of four sequences: the twelfth of spans of 4 * 64 + 1 tokens.
    assert (
        errors[0]
        == errors[1]
        == (
            "step 3: the loss of rank 1 is nan in micro-batch 2 of 2 (training tokens 2,827 to 3,084, from "
            f"{GOLDEN}/tied/fineweb_train_000000.bin on); checkpoints are of earlier steps"
        )
    )
    assert newest_step(tmp_path) == 2
    state = torch.load(checkpoints(tmp_path)[0], weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_gradient_that_is_no_number_stops_the_run_too(tmp_path):
    succeed(ranks(broken_fit, 1, tmp_path, 1, 0, "gradient", "stop", folder=tmp_path))
    assert (
        (tmp_path / "error0")
        .read_text()
        .startswith(
            "step 3: the gradient of blocks.2.mlp.up_proj.weight on rank 0 is not finite, "
            "though every loss is (training tokens "
        )
    )
    assert newest_step(tmp_path) == 2


@pytest.mark.parametrize(("world_size", "what"), [(1, "loss"), (1, "gradient"), (2, "loss")])
def test_a_step_that_is_no_number_can_be_skipped(world_size, what, tmp_path):
    started = ranks(broken_fit, world_size, tmp_path, world_size, 0, what, "skip", folder=tmp_path)
    succeed(started)
    assert "step 3: the " in started[0].said and ": step skipped\n" in started[0].said
    before, at, after = (
        torch.load(tmp_path / f"step-00000{step}.ckpt", weights_only=True)["state_dict"] for step in (2, 3, 4)
    )
    assert all(torch.equal(tensor, at[name]) for name, tensor in before.items())
    assert not all(torch.equal(tensor, after[name]) for name, tensor in at.items())
    assert newest_step(tmp_path) == 6


# Files


def write_checkpoints(folder: Path) -> None:
    files, step = CheckpointFiles(), 0
    while True:
        step += 1
        state = {"w": torch.full((300_000,), float(step))}
        content = {"gpt_config": {}, "global_step": step, "optimizer_states": [], "state_dict": state}
        files.save_checkpoint(content, folder / f"step-{step:06}.ckpt")
        for old in checkpoints(folder)[2:]:
            old.unlink()


def test_kill_9_within_the_writing_of_a_checkpoint_leaves_the_one_before(tmp_path):
    rng, seen = random.Random(0), set()
    for _ in range(12):
        writer = Rank(write_checkpoints, tmp_path, folder=tmp_path)
        while not checkpoints(tmp_path):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        writer.process.kill()
        writer.wait()
        assert checkpoints(tmp_path)
        for path in checkpoints(tmp_path):  # Whatever is there is whole.
            checkpoint = CheckpointFiles().load_checkpoint(path)
            assert (checkpoint["state_dict"]["w"] == checkpoint["global_step"]).all()
            path.unlink()
        partial = list(tmp_path.glob(".step-*.partial"))
        seen.add(bool(partial))
        for path in partial:
            path.unlink()
    assert True in seen, "never killed within one"


@pytest.mark.slow
def test_a_broken_newest_checkpoint_is_passed_over_and_halves_go(golden_recipe, tmp_path, capfd):
    steps = ("--trainer.max_steps=3", "--checkpoint.every_steps=1")
    fit(golden_recipe, 1, *steps, folder=tmp_path)
    newest, before = checkpoints(tmp_path)
    data = newest.read_bytes()
    newest.write_bytes(data[: len(data) // 2])
    (tmp_path / ".step-000004.ckpt.partial").write_bytes(b"half")
    assert find_checkpoint(tmp_path, "last") == str(before)
    said = capfd.readouterr().out
    assert f"{newest}: is not a checkpoint" in said and said.endswith(": passed over\n")
    fit(golden_recipe, 1, *steps, "--resume=auto", folder=tmp_path)
    assert not list(tmp_path.glob(".*"))
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == 3


def on_small_disk(folder: Path, size: str, recipe: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a fit with a small tmpfs as the run's folder, and copies what is on it in the end to ``kept``."""
    (folder / "disk").mkdir()
    (folder / "kept").mkdir()
    words = ("fit", "-c", str(recipe), "--trainer.default_root_dir=disk", "--trainer.logger=false", *words)
    script = (
        f"mount -t tmpfs -o size={size} tmpfs disk && cp old/* disk 2>/dev/null; "
        f"{sys.executable} -m plgolf {' '.join(words)}; status=$?; cp disk/* kept; exit $status"
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


NEEDS_MOUNT = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
    ).returncode,
    reason="this machine does not let users mount a small disk",
)


@NEEDS_MOUNT
@pytest.mark.slow
def test_a_full_disk_at_a_checkpoint_keeps_the_ones_before_and_the_run(golden_recipe, tmp_path):
    words = ("--trainer.max_steps=6", "--checkpoint.every_steps=2", "--checkpoint.keep=9")
    done = on_small_disk(tmp_path, "3500k", golden_recipe, *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    full = "disk/step-000006.ckpt: cannot be written: No space left on device"
    assert f"{full}: the run continues, earlier checkpoints are whole\n" in done.stdout
    assert [path.name for path in checkpoints(tmp_path / "kept")] == ["step-000004.ckpt", "step-000002.ckpt"]
    assert read_checkpoint(str(tmp_path / "kept/step-000004.ckpt"))["global_step"] == 4
    assert json.loads((tmp_path / "kept/result.json").read_text())["steps"] == 6


@NEEDS_MOUNT
@pytest.mark.slow
def test_a_full_disk_at_the_export_keeps_what_was_there(golden_recipe, tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("result.json", "model.int8.ptz"):
        (tmp_path / "old" / name).write_text("old")
    done = on_small_disk(
        tmp_path, "64k", golden_recipe, "--trainer.max_steps=1", "--trainer.enable_checkpointing=false"
    )
    assert done.returncode == 2
    assert done.stderr == "plgolf: error: disk/model.int8.ptz: cannot be written: No space left on device\n"
    for name in ("result.json", "model.int8.ptz"):
        assert (tmp_path / "kept" / name).read_text() == "old"


@pytest.mark.parametrize(("change", "world_size"), [("cut", 1), ("cut", 2), ("gone", 1)])
def test_a_shard_that_changes_ends_the_run_by_name(change, world_size, golden_recipe, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(GOLDEN / "tied", data)
    path = find_shards(data, "train")[-1].path
    words = (f"--data.root={data}", *ENDLESS)
    started = start(golden_recipe, world_size, *words, folder=tmp_path / "run")
    wait_for(tmp_path / "run" / "step-000002.ckpt", *started)
    if change == "cut":
        os.truncate(path, 2000)
        expected = f"{path}: has changed since it was opened"
    else:
        for rank in started:  # Files that are open stay readable: it is the next run that misses it.
            os.kill(rank.pid, signal.SIGTERM)
        assert {rank.wait() for rank in started} == {143}
        path.unlink()
        started = start(golden_recipe, world_size, *words, "--resume=auto", folder=tmp_path / "run")
        expected = f"data.train_shards.{path.name} must be the checkpoint's "
    assert {rank.wait(60) for rank in started} <= {1, 2}
    said = "".join(rank.said for rank in started)
    assert expected in said
    assert "Traceback" not in said
    assert read_checkpoint(str(checkpoints(tmp_path / "run")[0]))
