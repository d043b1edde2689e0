"""A run that was interrupted ends as the one that was not: to the bit."""

import csv
import json
from pathlib import Path

import pytest
import torch
from processes import Rank, ranks, succeed

from plgolf.cli import main


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
            for name in ("elapsed_seconds", "banked_seconds", "dirpath"):
                state.pop(name, None)
    assert_same(*ends)
    results = [json.loads((folder / "result.json").read_text()) for folder in (left, right)]
    for name in ("val_loss", "val_bpb", "roundtrip_val_loss", "roundtrip_val_bpb", "steps", "val_tokens"):
        assert results[0][name] == results[1][name], name
    assert (left / "model.int8.ptz").read_bytes() == (right / "model.int8.ptz").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_run_is_the_uninterrupted_one(world_size, dtype, golden_recipe, tmp_path):
    words = (f"--model.gpt.compute_dtype={dtype}", "--data.val_every_steps=3", "--checkpoint.keep=100")
    words = (*words, "--checkpoint.every_steps=1", "--trainer.max_steps=7")
    fit(golden_recipe, world_size, *words, folder=tmp_path / "whole")
    for step in (1, 3, 6):
        path = tmp_path / "whole" / f"step-{step:06}.ckpt"
        fit(golden_recipe, world_size, *words, f"--ckpt_path={path}", folder=tmp_path / f"from{step}")
        assert_same_end(tmp_path / "whole", tmp_path / f"from{step}", 7)
        # What was logged after it is logged again, the validation that was due at its step as well.
        whole, resumed = rows(tmp_path / "whole"), rows(tmp_path / f"from{step}")
        assert resumed == [row for row in whole if row[0] > step or (row[0] == step and row[1] == "val/bpb")]


def rows(folder: Path) -> list[tuple[int, str, float]]:
    """What a run logged, without the export."""
    with next((folder / "logs").glob("*/metrics.csv")).open() as file:
        return sorted(
            (int(row["step"]), name, float(row[name]))
            for row in csv.DictReader(file)
            for name in ("train/loss", "train/gradient_norm", "val/bpb")
            if row[name]
        )
