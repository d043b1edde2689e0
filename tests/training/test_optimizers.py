"""Optimizers of other libraries: those that keep progress in their groups resume exactly."""

import copy
from functools import partial

import prodigyopt
import pytest
import schedulefree
import torch
from golden_run import Record, golden_data, golden_module, trainer
from lightning.pytorch import Callback
from runs import assert_same, load

from plgolf.optim import Constant
from plgolf.optim.curves import Points
from plgolf.training import ArtifactExport, CompileWarmup, RunCheckpoint
from plgolf.training.optimizer_settings import apply_changed_settings, group_settings


class Counting(torch.optim.SGD):
    """Counts its steps in its groups."""

    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, lr, weight_decay=weight_decay)
        for group in self.param_groups:
            group["k"] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
        return super().step(closure)


OPTIMIZERS = {
    "counting": Counting,
    "prodigy": partial(prodigyopt.Prodigy, lr=1.0, weight_decay=0.01),
    "schedule-free": partial(schedulefree.AdamWScheduleFree, lr=0.01, warmup_steps=3),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
}


def fit(folder, optimizer, *callbacks, steps, ckpt_path=None):
    module, record = golden_module(), Record()
    record.on_train_batch_end = lambda fit, module, *_: record.losses.append(module.run.train_loss)
    module.optimizer, module.schedule = optimizer, Constant()
    save = RunCheckpoint(every_steps=1, keep=99)
    run = trainer(folder, record, save, *callbacks, max_steps=steps, enable_checkpointing=True)
    run.fit(module, golden_data(), ckpt_path=ckpt_path)
    return run, module, record


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_progress_kept_in_groups_survives_a_resume(name, tmp_path):
    optimizer = OPTIMIZERS[name]
    run, whole, losses = fit(tmp_path / "whole", optimizer, steps=6)
    path = tmp_path / "whole" / "step-000003.ckpt"
    resumed, module, again = fit(tmp_path / "resumed", optimizer, steps=6, ckpt_path=path)
    assert again.losses == losses.losses[3:]
    for weight, tensor in whole.gpt.state_dict().items():
        assert torch.equal(tensor, module.gpt.state_dict()[weight]), weight
    assert group_settings(resumed.optimizers[0]) == group_settings(run.optimizers[0])
    if name == "counting":
        assert [group["k"] for group in resumed.optimizers[0].param_groups] == [6, 6, 6]


def test_what_the_configuration_changes_overrides_a_checkpoint(tmp_path):
    fit(tmp_path / "first", Counting, steps=2)
    path = tmp_path / "first" / "step-000002.ckpt"
    run, *_ = fit(tmp_path / "second", partial(Counting, lr=0.3, weight_decay=0.5), steps=3, ckpt_path=path)
    groups = run.optimizers[0].param_groups
    assert {(group["lr"], group["weight_decay"], group["k"]) for group in groups} == {(0.3, 0.5, 3)}


class SetsWeightDecay(Callback):
    def on_train_start(self, fit, module):
        if not fit.global_step:
            for group in fit.optimizers[0].param_groups:
                group["weight_decay"] = 0.25


def test_what_a_callback_sets_in_groups_stays(tmp_path):
    run, *_ = fit(tmp_path / "run", Counting, SetsWeightDecay(), steps=2)
    assert {group["weight_decay"] for group in run.optimizers[0].param_groups} == {0.25}
    path = tmp_path / "run" / "step-000002.ckpt"
    run, *_ = fit(tmp_path / "resumed", Counting, steps=3, ckpt_path=path)
    assert {group["weight_decay"] for group in run.optimizers[0].param_groups} == {0.25}


def test_a_checkpoint_without_settings_keeps_progress_and_takes_what_the_constructor_takes():
    params = [torch.nn.Parameter(torch.ones(2))]
    saved = copy.deepcopy(Counting(params, lr=0.1).state_dict()["param_groups"])
    saved[0].update(k=7, lr=0.05, initial_lr=0.1)
    apply_changed_settings(saved, Counting(params, lr=0.4, weight_decay=0.5), None)
    assert (saved[0]["k"], saved[0]["lr"], saved[0]["initial_lr"], saved[0]["weight_decay"]) == (
        7,
        0.4,
        0.4,
        0.5,
    )


@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.slow
def test_schedule_free_weights_are_validated_and_exported(warmup, tmp_path):
    """The weights that it trains are others, and the next step starts from those."""
    seen = {}

    class Note(Callback):
        def on_validation_epoch_start(self, fit, module):
            seen["validated"] = module.gpt.embedding.weight.clone()

        def on_before_optimizer_step(self, fit, module, optimizer):
            seen["trained"] = module.gpt.embedding.weight.clone()

    export = ArtifactExport(check_code=False)
    optimizer = OPTIMIZERS["schedule-free"]
    _, module, _ = fit(tmp_path, optimizer, Note(), export, CompileWarmup(warmup), steps=8)
    # Up to the rounding of a change to the trained weights and back.
    torch.testing.assert_close(seen["validated"], module.gpt.embedding.weight, rtol=1e-5, atol=1e-6)
    last = load(tmp_path / "step-000008.ckpt")
    assert not torch.allclose(last["state_dict"]["gpt.embedding.weight"], seen["validated"], atol=1e-6)
    assert not torch.allclose(seen["trained"], seen["validated"], atol=1e-6)
    assert export.result["val_bpb"] == pytest.approx(export.result["roundtrip_val_bpb"], abs=1e-2)


MATRIX = {"normalize": "rows", "heads": 2, "mixture": ((0.5, 1.0, 0.0), (0.9, 0.0, 1.0)), "mixture_start": 1}


@pytest.mark.parametrize("matrix", [MATRIX, {"momentum_dtype": "bfloat16", "decay": "cautious"}], ids=str)
def test_options_of_muon_resume_exactly(matrix, tmp_path):
    def run(folder, steps=4, **words):
        module = golden_module(weight_decay=0.1, **matrix)
        module.other_schedules = {"matrix/weight_decay": Points([(0.25, 1.0), (1.0, 0.5)])}
        if "mixture" in matrix:
            module.other_schedules["mixture"] = Points([(0.25, 1.0), (1.0, 0.0)])
        save = RunCheckpoint(dir=str(folder), every_steps=2, keep=9)
        fit = trainer(folder, save, max_steps=steps, enable_checkpointing=True)
        fit.fit(module, golden_data(), **words)
        return module.state_dict(), fit.optimizers[0].state_dict()

    whole = run(tmp_path / "whole")
    again = run(tmp_path / "again", ckpt_path=str(tmp_path / "whole" / "step-000002.ckpt"))
    assert_same(whole, again)
    group = whole[1]["param_groups"][1]
    assert group["role"] == "matrix" and group["weight_decay"] == pytest.approx(0.05)
    state = whole[1]["state"][1]
    kept = {"second_moment", "average_0", "average_1"} if "mixture" in matrix else {"momentum_buffer"}
    assert state.keys() == kept
