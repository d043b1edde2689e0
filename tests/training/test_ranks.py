"""Runs of 2, 4 and 8 gloo processes against one: the same data, each once, the same numbers, the same end."""

import hashlib
import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_data import GOLDEN
from golden_run import Record, golden_data, golden_module, trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from processes import ranks, succeed

from plgolf.data.shards import ShardReader, find_shards
from plgolf.distributed import all_gather_floats
from plgolf.errors import UserError
from plgolf.optim.ownership import _newton_schulz_cost, assign_owners
from plgolf.training import ArtifactExport, RunCheckpoint, TrainClock

SEQ_LEN, SPAN, STEPS = 64, 2, 6
MANY = pytest.mark.parametrize(
    "world_size", [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)


class Note(Callback):
    """Keeps every sequence that a rank trains on or scores."""

    def __init__(self):
        self.trained, self.scored, self.scores = [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        for part in batch:
            self.trained += [row.numpy().tobytes() for row in torch.cat((part.input_ids, part.target_ids), 1)]

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.scored += [row.numpy().tobytes() for row in batch.target_ids[: batch.num_sequences]]

    def on_validation_end(self, trainer, module):
        self.scores.append((module.run.val_score, self.scored))
        self.scored = []


def one_rank(folder: Path, world_size: int, ckpt_path: str | None = None, steps: int = STEPS) -> None:
    note, record, clock = Note(), Record(), TrainClock()
    save = RunCheckpoint(dir=str(folder), every_steps=3, keep=9)
    many = {"devices": world_size, "strategy": "ddp"} if world_size > 1 else {}
    fit = trainer(
        folder,
        *(note, record, clock, save),
        max_steps=steps,
        enable_checkpointing=True,
        num_sanity_val_steps=-1,
        **many,
    )
    if fit.global_rank:  # A clock that runs at another speed must not show.
        clock.now = lambda: (1 + fit.global_rank) * time.perf_counter()
    module = golden_module(newton_schulz_dtype="float32")
    data = golden_data(
        global_batch_tokens=16 * SEQ_LEN, micro_batch_sequences=SPAN, val_batch_sequences=5, val_every_steps=4
    )
    fit.fit(module, data, ckpt_path=ckpt_path)
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values()))
    facts = {
        "trained": note.trained,
        "scores": note.scores,
        "losses": record.losses,
        "end": (fit.global_step, clock.elapsed_seconds, record.factors, digest.hexdigest()),
        "momenta": [
            i
            for i, p in enumerate(module.gpt.parameters())
            if "momentum_buffer" in fit.optimizers[0].state[p]
        ],
        "accumulation": data.plan.accumulation,
    }
    (folder / f"rank{fit.global_rank}.pkl").write_bytes(pickle.dumps(facts))


def facts_of(folder: Path, world_size: int, *args) -> list[dict]:
    succeed(ranks(one_rank, world_size, folder, world_size, *args, folder=folder))
    return [pickle.loads((folder / f"rank{rank}.pkl").read_bytes()) for rank in range(world_size)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("alone")
    return facts_of(folder, 1)[0], folder


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"step-{step:06}.ckpt", weights_only=True)["state_dict"]


def assert_close(ours: dict, theirs: dict) -> None:
    """Up to the order of sums: what docs/reliability.md promises of another number of ranks."""
    for name, tensor in ours.items():
        difference = tensor - theirs[name]
        assert difference.norm() <= 1e-5 * tensor.norm(), name
        assert difference.abs().max() <= 1e-4, name


@MANY
def test_many_ranks_do_what_one_does(world_size, alone, tmp_path):
    many = facts_of(tmp_path, world_size)
    one, folder = alone
    # Every span of the stream once, by an independent reading of the shards.
    reader = ShardReader(find_shards(GOLDEN / "tied", "train"))
    expected = []
    for span in range(STEPS * 16 // SPAN):
        tokens = reader.read(span * (SPAN * SEQ_LEN + 1), SPAN * SEQ_LEN + 1)
        rows = zip(tokens[:-1].reshape(SPAN, -1), tokens[1:].reshape(SPAN, -1), strict=True)
        expected += [np.concatenate(row).tobytes() for row in rows]
    assert sorted(one["trained"]) == sorted(expected)
    assert sorted(row for rank in many for row in rank["trained"]) == sorted(expected)
    assert [rank["accumulation"] for rank in many] == [8 // world_size] * world_size
    # Every sequence of the validation split once, each time; at step 0 weights are equal, and so are scores.
    val = ShardReader(find_shards(GOLDEN / "tied", "val"))
    count = (val.num_tokens - 1) // SEQ_LEN
    sequences = val.read(1, count * SEQ_LEN).reshape(count, SEQ_LEN)
    assert count % world_size or count // world_size % 5, "no tail is uneven"
    for index in range(len(one["scores"])):
        scored = [row for rank in many for row in rank["scores"][index][1]]
        assert sorted(scored) == sorted(row.tobytes() for row in sequences)
    first, same = many[0]["scores"][0][0], one["scores"][0][0]
    assert first.loss == pytest.approx(same.loss, rel=1e-12)
    assert first.bpb == pytest.approx(same.bpb, rel=1e-12)
    assert (first.num_tokens, first.num_bytes) == (same.num_tokens, same.num_bytes)
    # One end on all ranks, to the bit, clock and learning rates included.
    assert {rank["end"] for rank in map(_hashable, many)} == {_hashable(many[0])["end"]}
    assert many[0]["end"][0] == STEPS
    assert many[0]["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert_close(weights(folder, STEPS), weights(tmp_path, STEPS))
    # Each matrix has its momentum on one rank (rank 0 has gathered all for the checkpoint).
    owned = [rank["momenta"] for rank in many[1:]]
    assert len({i for rank in owned for i in rank}) == sum(map(len, owned))
    states = [
        torch.load(path / f"step-{STEPS:06}.ckpt", weights_only=True)["optimizer_states"][0]["state"]
        for path in (folder, tmp_path)
    ]
    assert states[0].keys() == states[1].keys()
    buffers = [key for key, state in states[0].items() if "momentum_buffer" in state]
    assert len(buffers) == 24
    for key in buffers:
        ours, theirs = (state[key]["momentum_buffer"] for state in states)
        assert (ours - theirs).norm() <= 1e-4 * ours.norm()


def _hashable(facts: dict) -> dict:
    step, seconds, factors, digest = facts["end"]
    return {"end": (step, seconds, tuple(factors), digest)}


def test_matrices_are_shared_out_evenly():
    # Of the baseline: 9 layers of width 512 with half as many key-value heads.
    layer = [(512, 512), (256, 512), (256, 512), (512, 512), (1024, 512), (512, 1024)]
    shapes = tuple(torch.Size(shape) for shape in layer * 9)
    for world_size in (2, 4, 8):
        load = [0] * world_size
        for shape, owner in zip(shapes, assign_owners(shapes, world_size), strict=True):
            load[owner] += _newton_schulz_cost(shape)
        assert max(load) <= 1.15 * sum(load) / world_size, world_size


@pytest.mark.slow
def test_four_ranks_go_on_as_two_and_as_one(tmp_path):
    """With the same global batch the rest of the run is the same, up to the order of sums."""
    facts_of(tmp_path / "four", 4)
    whole = weights(tmp_path / "four", STEPS)
    for world_size in (4, 2, 1):
        folder = tmp_path / f"as{world_size}"
        facts_of(folder, world_size, str(tmp_path / "four" / "step-000003.ckpt"))
        if world_size == 4:
            assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(folder, STEPS).items())
        assert_close(whole, weights(folder, STEPS))


def gather(folder: Path, world_size: int) -> None:
    import torch.distributed as dist

    if world_size > 1:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if world_size > 1 else 0
    rows = all_gather_floats(torch.tensor([rank, 10.0 + rank], dtype=torch.float64))
    (folder / f"{rank}.json").write_text(json.dumps(rows))


@pytest.mark.parametrize("world_size", [1, 3])
def test_numbers_of_all_ranks_reach_all_ranks(world_size, tmp_path):
    succeed(ranks(gather, world_size, tmp_path, world_size, folder=tmp_path))
    expected = [[rank, 10.0 + rank] for rank in range(world_size)]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world_size)] == [
        expected
    ] * world_size


def export_spoilt(folder: Path) -> None:
    def spoil(fit, module):
        with torch.no_grad():
            module.gpt.embedding.weight[5].fill_(1e8)

    callbacks = (LambdaCallback(on_train_end=spoil), ArtifactExport(check_code=False))
    fit = trainer(folder, *callbacks, max_steps=1, devices=2, strategy="ddp")
    try:
        fit.fit(golden_module(), golden_data(val_max_tokens=513))
    except UserError as error:
        (folder / f"error{fit.global_rank}").write_text(str(error))


def test_weights_that_cannot_be_written_end_the_run_on_every_rank(tmp_path):
    succeed(ranks(export_spoilt, 2, tmp_path, folder=tmp_path))
    errors = {(tmp_path / f"error{rank}").read_text() for rank in range(2)}
    assert len(errors) == 1 and "model.int8.ptz: 'tok_emb.weight' must be finite" in errors.pop()
