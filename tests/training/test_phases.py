"""Runs in which layers begin to recur at a fraction of the run."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_run import golden_data, golden_module, trainer
from lightning.pytorch import Callback
from processes import ranks, succeed
from runs import assert_same, load

from plgolf.artifact import read_artifact, save_artifact
from plgolf.container import Container
from plgolf.errors import UserError
from plgolf.model import GPT, GPTConfig
from plgolf.model.depth import RecurrenceConfig
from plgolf.progress import RunProgress
from plgolf.quantize.codec import Raw
from plgolf.quantize.plan import CodecConfig
from plgolf.training import (
    CompileWarmup,
    GolfModule,
    RunCheckpoint,
    TrainClock,
    WeightAverages,
)
from plgolf.training.phases import set_phase

DEEP = GPTConfig(
    vocab_size=512,
    dim=32,
    num_layers=4,
    compute_dtype="float32",
    recurrence=RecurrenceConfig(layers="1-2", times=2, starts=0.5),
)
EXACT = Container({name: CodecConfig(raw=Raw()) for name in ("matrix", "embedding", "scalar")})
ONCE, TWICE = [0, 1, 2, 3], [0, 1, 2, 1, 2, 3]


def order(gpt: GPT) -> list[int]:
    return [visit.layer for visit in gpt.visits]


class Orders(CompileWarmup):
    """Notes the orders of layers of the warm-up, of the steps and of what is validated."""

    def __init__(self) -> None:
        super().__init__(steps=1)
        self.warmed_up, self.steps_made, self.validated = [], [], []

    def on_after_backward(self, fit, module):
        (self.warmed_up if module.run.warming_up else self.steps_made).append(order(module.gpt))

    def on_validation_batch_start(self, fit, module, *_):
        self.validated.append(order(module.gpt))


def test_layers_recur_from_a_step_on_after_both_orders_are_warmed_up(tmp_path):
    module, orders = GolfModule(DEEP), Orders()
    data = golden_data(global_batch_tokens=8 * 64, val_every_steps=1, val_batch_sequences=999)
    trainer(tmp_path, orders, max_steps=5).fit(module, data)
    assert orders.warmed_up == [ONCE, TWICE]
    # Fractions 0, 1/5, 2/5, 3/5, 4/5 at the starts of the steps. A validation is that of the step before.
    assert orders.steps_made == [ONCE, ONCE, ONCE, TWICE, TWICE] == orders.validated
    assert order(module.gpt) == TWICE


def test_a_run_without_an_end_has_no_fraction():
    module = golden_module()
    set_phase(module.gpt, RunProgress(step=1, elapsed_seconds=0.0))
    with pytest.raises(UserError, match="recurrence.starts must be 0 in a run without clock.max_seconds"):
        set_phase(GolfModule(DEEP).gpt, RunProgress(step=1, elapsed_seconds=0.0))


class Speeds(Callback):
    """Gives each rank a clock of its own speed, which counts steps."""

    def setup(self, fit, module, stage):
        module.run.clock.now = lambda: float((1 + fit.global_rank) * fit.global_step)


def recurring_run(folder: Path, world_size: int, ckpt_path: Path | None = None) -> dict:
    """Trains for 4 seconds of rank 0, a second a step; returns the orders of the steps and the end."""
    torch.manual_seed(0)
    orders, module = Orders(), GolfModule(DEEP)
    save = RunCheckpoint(every_steps=4 if ckpt_path else 1, keep=9, dir=str(folder))
    many = {"devices": world_size, "strategy": "ddp"} if world_size > 1 else {}
    callbacks = (TrainClock(max_seconds=4.0), Speeds(), orders, WeightAverages(ema=0.7), save)
    fit = trainer(folder, *callbacks, max_epochs=-1, enable_checkpointing=True, limit_val_batches=1, **many)
    data = golden_data(global_batch_tokens=8 * 32 * world_size, seq_len=32)
    fit.fit(module, data, ckpt_path=ckpt_path)
    if fit.is_global_zero:  # As the export does, without the packed code, which takes seconds.
        save_artifact(module.gpt, folder / "model.plgolf", format=EXACT)
    weights = {n: t.clone() for n, t in module.gpt.state_dict().items()}
    return {"orders": orders.steps_made, "weights": weights}


def runs_of_a_rank(folder: Path, world_size: int) -> None:
    found = {"whole": recurring_run(folder / "whole", world_size)}
    for name, step in (("early", 2), ("late", 3)):
        path = folder / "whole" / f"step-{step:06}.ckpt"
        found[name] = recurring_run(folder / name, world_size, path)
    torch.save(found, folder / f"rank{os.environ.get('RANK', '0')}.pt")


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_runs_whose_layers_begin_to_recur_resume_exactly_and_end_alike(world_size, tmp_path):
    """From the last step before the change and from one after it, on ranks whose clocks differ."""
    if world_size == 1:
        runs_of_a_rank(tmp_path, 1)
    else:
        succeed(ranks(runs_of_a_rank, world_size, tmp_path, world_size, folder=tmp_path))
    by_rank = [load(tmp_path / f"rank{rank}.pt") for rank in range(world_size)]
    whole = by_rank[0]["whole"]
    for found in by_rank:
        for name, first in (("whole", 0), ("early", 2), ("late", 3)):
            assert found[name]["orders"] == [ONCE, ONCE, TWICE, TWICE][first:], name
            assert_same(found[name]["weights"], whole["weights"])
    ends = [load(tmp_path / name / "step-000004.ckpt") for name in ("whole", "early", "late")]
    for name in ("state_dict", "averages", "optimizer_states"):
        assert_same([end[name] for end in ends[1:]], [ends[0][name]] * 2, name)
    saved = [load(tmp_path / "whole" / f"step-00000{step}.ckpt") for step in (2, 3)]
    assert [checkpoint.get("before_recurrence", False) for checkpoint in saved] == [True, False]
    # The file has the averages, and recurs as the end of training did.
    gpt = read_artifact(tmp_path / "late" / "model.plgolf").gpt()
    assert order(gpt) == TWICE
    assert_same(dict(gpt.state_dict()), whole["weights"])
    assert not torch.equal(gpt.skip_weights, ends[0]["averages"]["raw"]["gpt.skip_weights"])


class StopAt(Callback):
    """Ends the run early, as early stopping does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, fit, *_):
        fit.should_stop = fit.global_step >= self.step


@pytest.mark.parametrize(("steps", "last"), [(3, ONCE), (4, TWICE)])
def test_a_run_that_stops_is_validated_and_exported_with_the_order_of_its_last_step(
    steps, last, tmp_path, capsys
):
    """The order would change after step 3 of 6."""
    module, orders, save = GolfModule(DEEP), Orders(), RunCheckpoint(every_steps=steps, dir=str(tmp_path))
    fit = trainer(tmp_path, StopAt(steps), orders, save, max_steps=6, enable_checkpointing=True)
    fit.fit(module, golden_data(val_batch_sequences=999))
    assert fit.global_step == steps and orders.validated == [last] == [order(module.gpt)]
    assert ("training ended before it starts" in capsys.readouterr().out) is (last == ONCE)
    save_artifact(module.gpt, tmp_path / "model.ptz")
    assert order(read_artifact(tmp_path / "model.ptz").gpt()) == last
    for file in (f"step-{steps:06}.ckpt", "model.ptz"):
        loaded = GolfModule.load_from_checkpoint(tmp_path / file)
        assert order(loaded.gpt) == last, file
    # A run that is resumed after its last step exports what it had.
    again, end = GolfModule(DEEP), tmp_path / f"step-{steps:06}.ckpt"
    trainer(tmp_path / "again", max_steps=steps).fit(again, golden_data(), ckpt_path=end)
    assert order(again.gpt) == last
    scored = GolfModule(DEEP)
    trainer(tmp_path, orders := Orders()).validate(
        scored, golden_data(val_batch_sequences=999), ckpt_path=end
    )
    assert orders.validated == [last]


@pytest.mark.slow
def test_a_compiled_run_has_two_graphs_of_each_kind_and_compiles_none_while_the_clock_runs(
    tmp_path, monkeypatch
):
    """Through the public interface of backends, which are called once for each graph."""
    config = replace(DEEP, num_layers=2, recurrence=replace(DEEP.recurrence, layers="1"))
    compiled, module, clock = [], GolfModule(config, compile=True), TrainClock(max_seconds=4.0)

    def count(graph, inputs):
        kind = "train" if module.training else "score"
        moment = "warm-up" if module.run.warming_up else "step" if clock._started is not None else "pause"
        compiled.append((kind, moment))
        return graph.forward

    def compile_(gpt, **settings):
        torch.nn.Module.compile(gpt, backend=count, **settings)

    monkeypatch.setattr(GPT, "compile", compile_)
    orders = Orders()
    fit = trainer(tmp_path, clock, Speeds(), orders, max_epochs=-1)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    data = golden_data(val_every_steps=1, val_batch_sequences=999)
    fit.fit(module, data)
    assert orders.steps_made == [[0, 1], [0, 1], [0, 1, 1], [0, 1, 1]] == orders.validated
    assert compiled == [("train", "warm-up")] * 2 + [("score", "pause")] * 2
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 4 and not counters["graph_break"]
