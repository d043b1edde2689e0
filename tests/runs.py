"""Runs through the command line, and whether two of them ended alike."""

import csv
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import torch
from lightning.pytorch import Callback
from processes import Rank, ranks, succeed

from plgolf.cli import main


def plgolf(*words: str, cwd: Path, timeout: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs ``plgolf`` in a folder, as a process that does not have to import it first."""
    with tempfile.TemporaryDirectory() as folder:
        process = Rank(main, list(words), folder=Path(folder), env=env, cwd=cwd)
        code = process.wait(timeout)
        return subprocess.CompletedProcess(
            words, code, process.stdout.read_text(), process.stderr.read_text()
        )


def fit(recipe: Path, world_size: int, *words: str, folder: Path, timeout: float = 120) -> None:
    succeed(start(recipe, world_size, *words, folder=folder), timeout)


def start(recipe: Path, world_size: int, *words: str, folder: Path) -> list[Rank]:
    many = (f"--trainer.devices={world_size}", "--trainer.strategy=ddp") if world_size > 1 else ()
    words = ("fit", "-c", str(recipe), f"--trainer.default_root_dir={folder}", *many, *words)
    return ranks(main, world_size, list(words), folder=folder)


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_same(left, right, where="") -> None:
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}.{i}")
    else:
        assert left == right, where


def assert_same_end(left: Path, right: Path, step: int) -> None:
    """Weights, moments, learning rates, counters: all of a checkpoint but the seconds, and the scores."""
    ends = [load(folder / f"step-{step:06}.ckpt") for folder in (left, right)]
    for end in ends:
        # How many batches were validated since the process began.
        end["loops"]["fit_loop"].pop("epoch_loop.val_loop.batch_progress")
        for state in end["callbacks"].values():
            for name in ("elapsed_seconds", "banked_seconds", "dirpath", "metrics"):
                state.pop(name, None)
    assert_same(*ends)
    results = [json.loads((folder / "result.json").read_text()) for folder in (left, right)]
    for name in ("val_loss", "val_bpb", "roundtrip_val_loss", "roundtrip_val_bpb", "steps", "val_tokens"):
        assert results[0][name] == results[1][name], name
    assert (left / "model.int8.ptz").read_bytes() == (right / "model.int8.ptz").read_bytes()


def rows(folder: Path) -> list[tuple[int, str, float]]:
    """What a run logged, without the export."""
    with next((folder / "logs").glob("*/metrics.csv")).open() as file:
        return sorted(
            (int(row["step"]), name, float(row[name]))
            for row in csv.DictReader(file)
            for name in ("train/loss", "train/gradient_norm", "val/bpb")
            if row[name]
        )


def signal_last_rank(trainer, signum: int) -> None:
    if trainer.global_rank == trainer.world_size - 1:
        os.kill(os.getpid(), signum)


class SignalInValidation(Callback):
    def on_validation_batch_end(self, trainer, *_):
        signal_last_rank(trainer, signal.SIGTERM)


class SignalInExport(Callback):
    def on_train_end(self, trainer, *_):
        signal_last_rank(trainer, signal.SIGTERM)


class SignalAtStart(Callback):
    """Where Lightning's own handler would talk to the other ranks."""

    def on_sanity_check_start(self, trainer, *_):
        signal_last_rank(trainer, signal.SIGTERM)


class KillLastRank(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            signal_last_rank(trainer, signal.SIGKILL)
