"""Checkpoints that somebody has meddled with: one line each, and nothing in them is run."""

import copy
import io
import math
import pickle
import random
from pathlib import Path

import pytest
import torch
from golden_run import golden_data, golden_module, trainer

from plgolf.cli import main
from plgolf.errors import UserError
from plgolf.training import RunCheckpoint
from plgolf.training.checkpoints.files import CheckpointFiles, read_checkpoint


def run(folder: Path, ckpt_path: Path | None = None, **settings) -> None:
    save = RunCheckpoint(every_steps=2)
    fit = trainer(folder, save, max_steps=3, enable_checkpointing=True, plugins=[CheckpointFiles()])
    fit.fit(golden_module(**settings), golden_data(), ckpt_path=ckpt_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[bytes, dict]:
    folder = tmp_path_factory.mktemp("saved")
    run(folder)
    data = (folder / "step-000002.ckpt").read_bytes()
    return data, torch.load(io.BytesIO(data), weights_only=True)


def put(checkpoint: dict, place: str, value: object) -> dict:
    """Returns a copy with another value at a dotted place; ``...`` takes the key away."""
    changed = copy.deepcopy(checkpoint)
    *way, last = place.split("/")
    inner = changed
    for key in way:
        inner = inner[int(key) if key.isdigit() and not (isinstance(inner, dict) and key in inner) else key]
    last = int(last) if last.isdigit() and isinstance(inner, list) else last
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return changed


STATE = "optimizer_states/0/state/"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("global_step", 10**30, "is not a checkpoint: its integers must have at most 8 bytes"),
        (
            "global_step",
            2**60,
            "the checkpoint's global_step must be an integer from 0, got 1152921504606846976",
        ),
        ("global_step", -1, "global_step must be an integer from 0, got -1"),
        ("global_step", "2", "global_step must be an integer from 0, got 2"),
        ("seed", None, "the checkpoint's seed must be an integer from 0, got None"),
        ("validated_step", ..., "the checkpoint's validated_step must be an integer from -1, got None"),
        ("gpt_config", ..., "is not a checkpoint of plgolf: it has no gpt_config"),
        ("gpt_config/dim", 2**40, "the checkpoint's gpt_config is malformed: model.gpt.dim must be at most"),
        (
            "state_dict/gpt.embedding.weight",
            torch.zeros(3),
            r"gpt.embedding.weight must be torch.float32 \(512, 64\)",
        ),
        (
            "state_dict/gpt.embedding.weight",
            ...,
            "state_dict must have the weights of the model, and nothing else",
        ),
        (
            "state_dict/gpt.more",
            torch.zeros(3),
            "state_dict must have the weights of the model, and nothing else",
        ),
        ("state_dict", [], "state_dict must have the weights of the model"),
        ("optimizer_states", [], "the checkpoint's optimizer state does not fit"),
        ("optimizer_states/0/param_groups", [], "the checkpoint's optimizer state does not fit"),
        (
            "optimizer_states/0/param_groups/0/params",
            [0] * 9,
            "the checkpoint's optimizer state does not fit",
        ),
        (STATE + "FIRST/exp_avg", torch.zeros(7), r"optimizer state exp_avg must have its parameter's shape"),
        (
            "callbacks/TrainClock/elapsed_seconds",
            math.nan,
            "the checkpoint's elapsed_seconds must be a time, got nan",
        ),
        (
            "callbacks/TrainClock/banked_seconds",
            -1.0,
            "the checkpoint's banked_seconds must be a time, got -1.0",
        ),
        ("callbacks", 7, "the checkpoint's callbacks must be states by name, got 7"),
        ("callbacks", {"A": [5]}, r"the checkpoint's callbacks must be states by name, got \{'A': \[5\]\}"),
        ("callbacks/TrainClock", 5, "the checkpoint's callbacks must be states by name"),
        ("ShardDataModule/seq_len", 7, "data.seq_len must be the checkpoint's 7, got 64"),
        ("ShardDataModule/train_shards", {}, "train_shards.* must be the checkpoint's None, got"),
    ],
)
def test_what_does_not_fit_is_named(place, value, message, saved, tmp_path):
    whole = saved[1]
    first = next(key for key, state in whole["optimizer_states"][0]["state"].items() if "exp_avg" in state)
    checkpoint = copy.deepcopy(whole)
    if "FIRST" in place:
        checkpoint["optimizer_states"][0]["state"][first]["exp_avg"] = value
    else:
        checkpoint = put(checkpoint, place, value)
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=message) as error:
        run(tmp_path / "run", tmp_path / "bad.ckpt")
    assert "\n" not in str(error.value)


def test_damaged_files_are_no_checkpoints_and_nothing_runs(saved, tmp_path):
    data, whole = saved
    path, ran = tmp_path / "bad.ckpt", tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return open, (str(ran), "w")

    hostile = io.BytesIO()
    torch.save({**whole, "more": Attack()}, hostile)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for content in (
        data[:-100],
        data[: len(data) // 3],
        b"",
        b"text",
        bytes(flipped),
        pickle.dumps(Attack()),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.ckpt: is not a checkpoint: ") as error:
            read_checkpoint(str(path))
        assert "\n" not in str(error.value)
    path.write_bytes(hostile.getvalue())
    with pytest.raises(UserError, match="must hold plain tensors only, it names '.*open'"):
        read_checkpoint(str(path))
    assert not ran.exists()


@pytest.mark.parametrize("number", [2**40, 2**62, 0, -1])
def test_validating_a_checkpoint_of_an_absurd_model_costs_one_line(
    number, saved, golden_recipe, tmp_path, capfd, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for setting in ("dim", "num_layers", "vocab_size"):
        torch.save(put(saved[1], f"gpt_config/{setting}", number), "bad.ckpt")
        assert main(["validate", "-c", golden_recipe.name, "--ckpt_path=bad.ckpt"]) == 2
        said = capfd.readouterr().err
        assert said.startswith("plgolf: error: bad.ckpt: ") and said.count("\n") == 1


VALUES = [None, True, 0, 1, -1, 2**40, -(2**62), 0.5, math.nan, -math.inf, "", "x", [], {}, [1]]
VALUES += [torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.full((2, 2), math.nan)]


@pytest.mark.parametrize("seed", [*range(60), 187])
def test_any_value_anywhere_either_fits_or_costs_one_line(seed, saved, tmp_path):
    """Of what is plgolf's own; what other callbacks saved is theirs to check."""
    rng = random.Random(seed)
    checkpoint = copy.deepcopy(saved[1])
    others = ("callbacks", "pytorch-lightning_version", "epoch", "lr_schedulers")
    inner, place = checkpoint, [rng.choice([key for key in checkpoint if key not in others])]
    while isinstance(inner[place[-1]], dict | list) and len(inner[place[-1]]) and rng.random() < 0.85:
        inner = inner[place[-1]]
        place.append(rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner))))
    inner[place[-1]] = value = rng.choice(VALUES)
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    said = ""
    try:
        run(tmp_path / "run", tmp_path / "bad.ckpt")
    except UserError as error:
        said = str(error)
    except Exception as error:
        pytest.fail(f"{place} = {value!r}: {type(error).__name__}: {error}")
    assert "\n" not in said, (place, value)
