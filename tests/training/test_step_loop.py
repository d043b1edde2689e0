"""plgolf's loop over micro-batches does what Lightning's does: hooks, arguments, counters, logs, files."""

import logging
import os
import pickle
import shutil
import sys

import pytest
from golden_run import golden_data, golden_module, trainer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import SimpleProfiler
from noted_fits import (
    FALLEN_BACK,
    LIGHTNINGS,
    OURS,
    DataOfUnknownLength,
    DataThatEndsEarly,
    FurtherHooks,
    NoLoss,
    OneArgument,
    OtherOptimizer,
    OwnHooks,
    TransferringData,
    assert_alike,
    run,
    with_own,
)
from processes import ranks, succeed
from runs import assert_same, load
from torch.nn.parallel import DistributedDataParallel

from plgolf.training import ConsoleLog, GolfModule, RunCheckpoint, ShardDataModule, TrainClock, ordinary
from plgolf.training.step_loop import StepLoop

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in ("Trying to infer the `batch_size`", "`training_step` returned `None`")
]


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Makes the same fit with plgolf's loop and with Lightning's, and compares them."""

    def compare(kind=GolfModule, data_kind=ShardDataModule, callbacks=(), **asked):
        asked = {"accumulation": 2, "val_every_steps": 0, **asked}
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        ours = run(tmp_path / "run", kind, data_kind, callbacks, **asked)
        shutil.rmtree(tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr(StepLoop, "put_in_place", lambda fit: None)
            theirs = run(tmp_path / "run", kind, data_kind, callbacks, **asked)
        assert theirs[-1] == {LIGHTNINGS}
        assert_alike(ours, theirs)
        return ours

    return compare


OWN = ("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping")
KINDS = (GolfModule, OwnHooks, OneArgument, NoLoss, OtherOptimizer, FurtherHooks, *map(with_own, OWN))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_modules(kind, accumulation, both):
    epochs = {"limit_train_batches": 6, "max_epochs": 4, "max_steps": -1} if kind is NoLoss else {}
    events, *_, loops = both(kind, accumulation=accumulation, val_every_steps=0 if epochs else 2, **epochs)
    assert loops == {OURS} and len(events) > 60
    if kind is OwnHooks:
        assert {name for who, name, *_ in events if who == "module"} >= {"optimizer_zero_grad", "backward"}


@pytest.mark.parametrize(
    "asked",
    [
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "norm"},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value", "accumulation": 1},
        {"limit_train_batches": 4, "max_epochs": 3, "max_steps": -1, "check_val_every_n_epoch": 2},
        {"callbacks": ["comes", "lambda"], "kind": OwnHooks},
        {"callbacks": ["stops", "rates", "timer"]},
        {"callbacks": ["exchanges"]},
        {"callbacks": ["early", "files"], "kind": OwnHooks, "limit_train_batches": 2, "max_epochs": 5},
        {"data_kind": TransferringData, "kind": OwnHooks},
        {"data_kind": DataOfUnknownLength, "accumulation": 1, "max_epochs": 3},
        {"data_kind": DataOfUnknownLength, "max_epochs": 3},
        {"data_kind": DataThatEndsEarly, "kind": OwnHooks, "max_epochs": 3},
        {"log_every_n_steps": 0},
        {
            "log_every_n_steps": 1,
            "kind": OwnHooks,
            "val_every_steps": 1,
            "min_steps": 4,
            "callbacks": ["stops"],
        },
    ],
    ids=str,
)
def test_settings_and_callbacks(asked, both):
    assert both(**asked)[-1] == {OURS}


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from([GolfModule, OwnHooks, OneArgument]),
    callbacks=st.lists(
        st.sampled_from(["comes", "stops", "lambda", "rates", "files", "timer"]), unique=True, max_size=4
    ),
    accumulation=st.integers(1, 3),
    val_every_steps=st.integers(0, 3),
    log_every_n_steps=st.integers(0, 3),
    gradient_clip_val=st.sampled_from([None, 0.05]),
    max_steps=st.integers(1, 5),
)
def test_anything(both, **asked):
    assert both(**asked)[-1] == {OURS}


def test_what_is_not_ordinary_goes_lightnings_own_way(both, tmp_path, monkeypatch):
    # A profiler's report names hooks, and the batches that were fetched, as Lightning does.
    profiler = SimpleProfiler()
    assert both(kind=OwnHooks, profiler=profiler)[-1] == {FALLEN_BACK}
    assert "[_TrainingEpochLoop].train_dataloader_next" in profiler.recorded_durations
    assert "[_TrainingEpochLoop].train_dataloader_next" in profiler.summary()
    with monkeypatch.context() as patch:
        patch.setattr(ordinary, "KNOWN", "another Lightning's")
        assert both()[-1] == {FALLEN_BACK}
    log = logging.getLogger("lightning.pytorch.trainer.call")
    log.setLevel(logging.DEBUG)
    try:
        assert both()[-1] == {FALLEN_BACK}
    finally:
        log.setLevel(logging.NOTSET)


def test_a_step_takes_few_calls(tmp_path, monkeypatch):
    """Of Lightning's functions: what its Trainer adds to a step is their number, about a microsecond each."""

    class Counts(Callback):
        calls = 0

        def count(self, frame, event, arg):
            in_lightning = f"{os.sep}lightning{os.sep}pytorch{os.sep}" in frame.f_code.co_filename
            self.calls += event == "call" and in_lightning

        def on_train_batch_end(self, fit, module, outputs, batch, batch_idx):
            sys.setprofile(self.count if batch_idx == 3 else None)

    def calls(folder):
        counts = Counts()
        ours = [TrainClock(), RunCheckpoint(), ConsoleLog("lines")]
        fit = trainer(folder, *ours, counts, enable_checkpointing=True, max_steps=6)
        fit.fit(golden_module(newton_schulz_dtype="float32"), golden_data())
        return counts.calls

    ours = calls(tmp_path)
    monkeypatch.setattr(StepLoop, "put_in_place", lambda fit: None)
    assert 10 < ours < 60 < calls(tmp_path) / 4


def test_this_lightning_is_known():
    """Fails for one whose steps are others: compare them with ``StepLoop``, and note the digest."""
    assert ordinary.digest() == ordinary.KNOWN


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_goes_on_alike(step, both, tmp_path):
    asked = {"kind": OwnHooks, "val_every_steps": 2, "max_steps": 6}
    both(**asked)
    start = tmp_path / "start.ckpt"
    shutil.copy(tmp_path / "run" / f"step-{step:06}.ckpt", start)
    # The first micro-batch goes Lightning's own way, which knows how to restart.
    assert both(ckpt_path=str(start), **asked)[-1] == {OURS}


def test_the_trainer_has_its_own_precision_back_and_fits_again(tmp_path):
    fit = trainer(tmp_path, TrainClock(), max_steps=1)
    precision, data = fit.precision_plugin, golden_data()
    fit.fit(golden_module(newton_schulz_dtype="float32"), data)
    loop = fit.fit_loop.epoch_loop
    assert type(loop) is StepLoop and fit.precision_plugin is precision
    fit.fit_loop.epoch_loop.max_steps = 2
    fit.fit(golden_module(newton_schulz_dtype="float32"), data)
    assert fit.fit_loop.epoch_loop is loop and fit.global_step == 2


COLLECTIVES = ("broadcast", "broadcast_object_list", "all_reduce", "all_gather", "barrier")


def one_rank(folder, lightnings, profiler):
    """Fits on this rank, and notes which collectives Lightning calls within steps."""
    import torch.distributed as dist

    if lightnings:
        StepLoop.put_in_place = lambda fit: None
    called, within = [], []

    def wrapped(name):
        collective = getattr(dist, name)

        def noted(*args, **kwargs):
            caller = sys._getframe(1).f_globals["__name__"]
            if within and caller.startswith("lightning."):
                called.append(name)
            return collective(*args, **kwargs)

        setattr(dist, name, noted)

    for name in COLLECTIVES:
        wrapped(name)
    advance, no_sync = _TrainingEpochLoop.run, DistributedDataParallel.no_sync
    blocked = []

    def running(loop, fetcher):
        within.append(True)
        advance(loop, fetcher)
        within.clear()

    _TrainingEpochLoop.run = running
    DistributedDataParallel.no_sync = lambda ddp: blocked.append(1) or no_sync(ddp)
    asked = {"profiler": SimpleProfiler()} if profiler else {}
    events, *_, loops = run(
        *(folder, GolfModule, ShardDataModule, ()),
        **{"accumulation": 4, "val_every_steps": 0, "devices": 2, "strategy": "ddp", "max_steps": 3, **asked},
    )
    found = (called, len(blocked), loops, events)
    (folder / f"rank{os.environ['RANK']}.pkl").write_bytes(pickle.dumps(found))


@pytest.mark.parametrize("profiler", [False, True])
def test_ranks_share_nothing_of_lightnings_between_micro_batches(profiler, tmp_path):
    found = {}
    for lightnings in (False, True):
        folder = tmp_path / str(lightnings)
        succeed(ranks(one_rank, 2, folder, lightnings, profiler, folder=folder))
        found[lightnings] = [pickle.loads((folder / f"rank{r}.pkl").read_bytes()) for r in range(2)]
    for ours, theirs in zip(found[False], found[True], strict=True):
        assert theirs[0].count("broadcast") >= 6, "Lightning has stopped to: the test shows nothing"
        assert ours[0] == ["barrier", "barrier"], "one behind each checkpoint"
        assert ours[1] == theirs[1] > 0
        assert (ours[2], theirs[2]) == ({FALLEN_BACK if profiler else OURS}, {LIGHTNINGS})
        assert_same(ours[3], theirs[3])
    assert_same(load(tmp_path / "False" / "end.ckpt"), load(tmp_path / "True" / "end.ckpt"))
