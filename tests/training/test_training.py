import gc
import json
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from itertools import count
from typing import ClassVar

import pytest
import torch
from golden_data import GOLDEN, MODELS, TOKENIZER, meta
from golden_run import Record, golden_data, golden_module, trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR

from plgolf.artifact import load_gpt
from plgolf.errors import UserError
from plgolf.model import GPTConfig
from plgolf.optim import AdamConfig, MuonAdam, Schedule
from plgolf.training import ArtifactExport, CompileWarmup, ConsoleLog, GolfModule, TrainClock


@MODELS
@pytest.mark.parametrize("run", ["plain", "accum4_clip"])
def test_trajectory_is_the_references(name, run, tmp_path):
    golden = json.loads((GOLDEN / name / "trajectory.json").read_text())[run]
    module = golden_module(
        name,
        warmdown_steps=golden["warmdown_iters"],
        momentum_start=golden["muon_momentum_warmup_start"],
        momentum_warmup_steps=golden["momentum_warmup_steps"],
    )
    seq_len = 64 if name == "tied" else 32
    data = golden_data(
        name,
        global_batch_tokens=golden["global_tokens"],
        micro_batch_sequences=golden["global_tokens"] // golden["grad_accum"] // seq_len,
    )
    record = Record()
    module.gradient_clip_norm = golden["grad_clip_norm"] or None
    fit = trainer(tmp_path, record, max_steps=golden["steps"])
    fit.fit(module, data)
    assert data.plan.accumulation == golden["grad_accum"]
    assert record.factors == pytest.approx(golden["lr_scale"], abs=1e-12)
    assert record.momenta == pytest.approx(golden["muon_momentum"], abs=1e-12)
    assert record.losses[:3] == pytest.approx(golden["loss"][:3], rel=1e-4)
    assert record.losses == pytest.approx(golden["loss"], rel=2e-2)
    assert [step for step, _ in record.validations] == [golden["steps"]]
    assert module.run.val_score.loss == pytest.approx(golden["final_val_loss"], rel=2e-2)
    assert module.run.val_score.bpb == pytest.approx(golden["final_val_bpb"], rel=2e-2)


class FakeClock(TrainClock):
    """Every look at the time costs nothing; every micro-batch, validation and checkpoint costs seconds."""

    def __init__(self, max_seconds=None, *, batch=1.0, validation=100.0, checkpoint=1000.0):
        super().__init__(max_seconds)
        self.time = 0.0
        self.now = lambda: self.time
        self.costs = batch, validation, checkpoint

    def on_before_zero_grad(self, *_):
        self.time += self.costs[0]

    def on_validation_epoch_end(self, *_):
        self.time += self.costs[1]

    def on_save_checkpoint(self, *_):
        self.time += self.costs[2]


def test_clock_counts_training_alone_and_ends_the_run_with_a_validation(tmp_path):
    clock, record = FakeClock(10.0), Record()
    save = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1)
    fit = trainer(tmp_path, clock, record, save, max_epochs=-1, enable_checkpointing=True)
    fit.fit(golden_module(warmdown_steps=4), golden_data(val_every_steps=4))
    assert fit.global_step == 10
    assert [step for step, _ in record.validations] == [4, 8, 10]
    assert clock.elapsed_seconds == 10.0
    assert clock.phase_seconds["validate"] == 300.0
    # One second a step: the warm-down is the last four seconds.
    assert record.factors == pytest.approx([1.0] * 7 + [0.75, 0.5, 0.25])
    assert len(list(tmp_path.glob("*.ckpt"))) == 3


def test_max_steps_ends_the_run_with_a_validation_too(tmp_path):
    record = Record()
    fit = trainer(tmp_path, record, FakeClock(1e6), max_steps=5)
    fit.fit(golden_module(), golden_data(val_every_steps=2))
    assert [step for step, _ in record.validations] == [2, 4, 5]


def test_a_resumed_run_goes_on_in_stream_and_budget(tmp_path):
    whole, first, second = Record(), Record(), Record()

    def settings():
        return {"max_epochs": -1, "enable_checkpointing": True}

    def data():
        return golden_data(global_batch_tokens=16 * 64)

    module = golden_module(warmdown_steps=3)
    trainer(tmp_path, FakeClock(8.0), whole, **settings()).fit(module, data())
    save = ModelCheckpoint(tmp_path / "saved", filename="at", every_n_train_steps=5)
    stopped = trainer(tmp_path, FakeClock(8.0), first, save, **settings())
    stopped.fit(golden_module(warmdown_steps=3), data())
    clock, resumed = FakeClock(8.0), golden_module(warmdown_steps=3)
    again = ModelCheckpoint(tmp_path / "saved", filename="later", every_n_train_steps=5)
    fit = trainer(tmp_path, clock, second, again, **settings())
    fit.fit(resumed, data(), ckpt_path=str(tmp_path / "saved" / "at.ckpt"))
    assert fit.global_step == 8 and clock.elapsed_seconds == 8.0
    assert first.losses == whole.losses and second.losses == whole.losses[5:]
    for key, tensor in module.gpt.state_dict().items():
        assert torch.equal(tensor, resumed.gpt.state_dict()[key]), key


def test_warm_up_leaves_no_trace(tmp_path):
    results = []
    for steps in (0, 3):
        torch.manual_seed(1)
        record, module, clock = Record(), golden_module(), TrainClock()
        fit = trainer(tmp_path, CompileWarmup(steps), clock, record, max_steps=4)
        fit.fit(module, golden_data(global_batch_tokens=16 * 64))
        results.append((record.losses, record.momenta, module.gpt.state_dict(), torch.rand(1)))
        assert (clock.phase_seconds["warmup"] > 0) == (steps > 0)
        assert fit.global_step == 4
    assert results[0][:2] == results[1][:2] and torch.equal(results[0][3], results[1][3])
    assert all(torch.equal(v, results[1][2][k]) for k, v in results[0][2].items())


@pytest.mark.parametrize("broken", [False, True])
def test_the_garbage_collector_does_not_look_at_what_stays_until_the_run_is_over(broken, tmp_path):
    frozen = []

    class Look(Callback):
        def on_train_batch_end(self, *_):
            frozen.append(gc.get_freeze_count())
            if broken:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError) if broken else nullcontext():
        trainer(tmp_path, Look(), max_steps=2).fit(golden_module(), golden_data())
    assert min(frozen) > 100_000
    assert gc.get_freeze_count() == 0


def test_export_scores_the_file_and_brings_the_weights_back(tmp_path, capsys):
    module, export = golden_module(), ArtifactExport(compressors=["zlib", "xz"], check_code=False)
    before = {}

    class Note(Callback):
        def on_train_end(self, trainer, pl_module):
            before.update({k: v.clone() for k, v in pl_module.gpt.state_dict().items()})

    fit = trainer(tmp_path, Note(), export, ConsoleLog(), max_steps=3)
    fit.fit(module, golden_data())
    assert all(torch.equal(v, before[k]) for k, v in module.gpt.state_dict().items())
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == export.result
    assert {
        *("recipe", "seed", "num_params", "steps", "train_seconds", "world_size", "val_loss"),
        *("val_bpb", "roundtrip_val_loss", "roundtrip_val_bpb", "artifact_bytes", "code_bytes"),
        *("total_bytes", "budget_bytes", "versions"),
    } <= set(result)
    assert result["num_params"] == 148_624 and result["steps"] == 3
    assert result["artifact_bytes"] == (tmp_path / "model.int8.ptz").stat().st_size
    assert result["total_bytes"] == result["artifact_bytes"] + result["code_bytes"]
    assert result["budget_bytes"] == 16_000_000 and result["within_budget"]
    assert result["val_loss"] == module.run.val_score.loss != result["roundtrip_val_loss"]
    assert 1.0 < result["compressors_bpb"]["xz"] < 8.0
    # The same file, scored by itself, gives the same number.
    alone = golden_module()
    alone.gpt.load_state_dict(load_gpt(tmp_path / "model.int8.ptz").state_dict())
    trainer(tmp_path).validate(alone, golden_data(), verbose=False)
    assert alone.run.val_score.bpb == pytest.approx(result["roundtrip_val_bpb"], abs=1e-9)
    said = capsys.readouterr().out
    assert "round-trip bpb" in said and "zlib -9" in said and "step 3/3  loss" in said


def test_export_that_cannot_write_says_so_and_keeps_what_was_there(tmp_path):
    (tmp_path / "result.json").write_text("old")
    (tmp_path / "model.int8.ptz").mkdir()
    with pytest.raises(ValueError, match=r"model\.int8\.ptz: cannot be written"):
        trainer(tmp_path, ArtifactExport(check_code=False), max_steps=1).fit(golden_module(), golden_data())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.int8.ptz", "result.json"]
    assert (tmp_path / "result.json").read_text() == "old"


def test_an_artifact_over_the_budget_is_recorded_as_such(tmp_path, capsys):
    export = ArtifactExport(dir=str(tmp_path / "run"), budget_bytes=1000, check_code=False)
    trainer(tmp_path, export, ConsoleLog(), max_steps=1).fit(golden_module(), golden_data())
    assert not json.loads((tmp_path / "run" / "result.json").read_text())["within_budget"]
    assert "OVER the budget of 1,000" in capsys.readouterr().out


def test_limits_on_validation_hold_for_the_round_trip_too(tmp_path):
    export = ArtifactExport(check_code=False)
    fit = trainer(tmp_path, export, max_steps=1, limit_val_batches=2)
    fit.fit(golden_module(), golden_data(val_batch_sequences=4))
    assert export.result["val_tokens"] == 2 * 4 * 64


def test_loggers_see_the_learning_rate_of_every_role(tmp_path):
    logger = CSVLogger(tmp_path)
    fit = trainer(
        tmp_path,
        LearningRateMonitor(),
        ArtifactExport(check_code=False),
        max_steps=4,
        logger=logger,
        log_every_n_steps=2,
    )
    fit.fit(golden_module("untied"), golden_data("untied", global_batch_tokens=16 * 32))
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    header = set(rows[0].split(","))
    assert {f"lr/{role}" for role in ("embedding", "matrix", "head", "scalar")} <= header
    assert {"train/loss", "val/loss", "val/bpb", "roundtrip/bpb", "export/bytes", "step"} <= header
    table = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    assert [r["step"] for r in table if r["train/loss"]] == ["2", "4"]
    assert [r["step"] for r in table if r["val/bpb"]] == ["4"]
    assert float(next(r["lr/embedding"] for r in table if r["lr/embedding"])) == 0.6


@pytest.mark.parametrize("settings", [{"val_every_steps": 2}, {"sanity_batches": 1}])
def test_the_score_before_export_is_of_the_weights_that_are_exported(settings, tmp_path):
    # Lightning does not validate where epochs end a run: an earlier validation must not stand for its end.
    sanity = settings.pop("sanity_batches", 0)
    export = ArtifactExport(check_code=False)
    fit = trainer(tmp_path, export, max_epochs=1, limit_train_batches=3, num_sanity_val_steps=sanity)
    fit.fit(golden_module(), golden_data(val_batch_sequences=4, **settings))
    assert export.result["val_bpb"] == pytest.approx(export.result["roundtrip_val_bpb"], abs=1e-3)


def test_logging_each_zero_steps_is_none(tmp_path):
    logger = CSVLogger(tmp_path, name="logs")
    trainer(tmp_path, max_steps=2, log_every_n_steps=0, logger=logger).fit(golden_module(), golden_data())
    header = (tmp_path / "logs/version_0/metrics.csv").read_text().splitlines()[0]
    assert "val/bpb" in header and "train/loss" not in header


def test_a_run_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="clock.max_seconds or trainer.max_steps must be set"):
        trainer(tmp_path, max_epochs=-1).fit(golden_module(), golden_data())
    with pytest.raises(ValueError, match="^max_seconds must be positive, got 0"):
        TrainClock(0)
    with pytest.raises(ValueError, match="^steps must be at least 0, got -1"):
        CompileWarmup(-1)
    with pytest.raises(ValueError, match="^budget_bytes must be at least 1, got 0"):
        ArtifactExport(budget_bytes=0)


class Automatic(GolfModule):
    def configure_callbacks(self):
        self.automatic_optimization = True
        return super().configure_callbacks()


class StepsOptimizer(GolfModule):
    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)


class ReturnsLoss(GolfModule):
    def training_step(self, batch, batch_idx):
        return self.micro_batch_loss(batch[0])


class ByEpoch(GolfModule):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()["optimizer"]
        return [optimizer], [ConstantLR(optimizer)]


class TwoOptimizers(GolfModule):
    def configure_optimizers(self):
        half = list(self.parameters())
        return [torch.optim.SGD(half[:3], lr=0.1), torch.optim.SGD(half[3:], lr=0.1)]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Automatic, "automatic_optimization must be False"),
        (StepsOptimizer, "StepsOptimizer.optimizer_step is never called"),
        (ReturnsLoss, "training_step must call GolfModule.training_step"),
        (ByEpoch, "must have interval step and frequency 1, .* got ConstantLR with epoch and 1"),
        (TwoOptimizers, "must return one optimizer, got 2"),
    ],
)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_module_whose_steps_would_not_be_made_is_refused(kind, message, accumulation, tmp_path):
    module, fit = golden_module(), trainer(tmp_path, max_steps=4)
    module.__class__ = kind
    with pytest.raises(UserError, match=message):
        fit.fit(module, golden_data(global_batch_tokens=8 * 64 * accumulation))
    assert fit.global_step == 0


class ReplacesSchedulers(Callback):
    def on_train_epoch_start(self, fit, module):
        if fit.current_epoch == 1:
            scheduler = ConstantLR(fit.optimizers[0], 1.0)
            fit.strategy.lr_scheduler_configs = [LRSchedulerConfig(scheduler)]  # By epochs.


@pytest.mark.parametrize(
    ("callback", "message", "step"),
    [
        (StochasticWeightAveraging(0.01, swa_epoch_start=1), "use EMAWeightAveraging", 0),
        (EMAWeightAveraging(update_starting_at_step=2), "must average from the first step on", 0),
        (GradientAccumulationScheduler({0: 2}), "follows from data.global_batch_tokens", 0),
        (ModelCheckpoint(train_time_interval=timedelta(minutes=1)), "use checkpoint.every_seconds", 0),
        (ReplacesSchedulers(), "an lr_scheduler must have interval step", 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Callback) else None,
)
@pytest.mark.parametrize("profiler", [None, "simple"])
def test_callbacks_that_cannot_work_are_refused(callback, message, step, profiler, tmp_path):
    asked = {"max_steps": -1, "max_epochs": 3, "limit_train_batches": 2, "profiler": profiler}
    fit = trainer(tmp_path, callback, enable_checkpointing=True, **asked)
    with pytest.raises(UserError, match=message):
        fit.fit(golden_module(), golden_data())
    assert fit.global_step == step


def test_schedulers_of_a_subclass_step_after_each_step(tmp_path):
    class Own(GolfModule):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            made = [ExponentialLR(optimizer, 0.5) for _ in range(self.num_schedulers)]
            return [optimizer], [{"scheduler": scheduler, "interval": "step"} for scheduler in made]

    for number in (0, 1, 2):
        module, fit = golden_module(), trainer(tmp_path, max_steps=2)
        module.__class__, module.num_schedulers = Own, number
        fit.fit(module, golden_data())
        assert fit.global_step == 2
        assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 ** (2 * number))


def test_a_model_is_not_compiled_in_what_a_gpu_emulates(tmp_path, monkeypatch):
    fit = trainer(tmp_path, max_steps=1)
    monkeypatch.setattr(type(fit.strategy), "root_device", torch.device("cuda", 0))
    for native in (True, False):
        fast = "bfloat16" if native else "float32"
        monkeypatch.setattr("plgolf.training.requirements.fast_dtype", lambda fast=fast: fast)
        module = GolfModule(GPTConfig(dim=64, compute_dtype="bfloat16"), compile=True)
        for _ in range(2):
            refused = pytest.raises(UserError, match="to compile for a GPU that emulates bfloat16, got bfl")
            with nullcontext() if native else refused:
                module.check(fit)


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_learning_rate_may_be_a_tensor(kind, tmp_path):
    class Rates(Callback):
        seen: ClassVar = []

        def on_train_batch_start(self, fit, module, batch, batch_idx):
            self.seen.append(float(fit.optimizers[0].param_groups[0]["lr"]))

    class Half(Schedule):
        def factor(self, progress):
            return 0.5

    module, rates = golden_module(), Rates()
    rates.seen.clear()
    module.optimizer, module.schedule = partial(torch.optim.SGD, lr=kind(0.1)), Half()
    trainer(tmp_path, rates, max_steps=3).fit(module, golden_data())
    assert rates.seen == pytest.approx([0.05] * 3) and module.run.lr_factor == pytest.approx(0.5)


def test_a_learning_rate_of_zero_leaves_a_group_alone(tmp_path):
    module = golden_module()
    before = {name: tensor.clone() for name, tensor in module.gpt.state_dict().items()}
    module.optimizer = partial(MuonAdam, embedding=AdamConfig(lr=0.0))
    trainer(tmp_path, max_steps=2).fit(module, golden_data())
    assert module.run.lr_factor == 1.0
    for name, tensor in module.gpt.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name == "embedding.weight"), name


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.LBFGS, "must step without a closure, got LBFGS"),
        (partial(torch.optim.AdamW, lr=-1), "model.optimizer: Invalid learning rate: -1"),
        (torch.optim.Muon, "model.optimizer: Muon only supports 2D parameters"),
    ],
)
def test_optimizers_that_cannot_work_are_refused_in_a_line(optimizer, message, tmp_path):
    module = golden_module()
    module.optimizer = optimizer
    if optimizer is torch.optim.LBFGS:
        module.optimizer = lambda groups: optimizer([p for group in groups for p in group["params"]])
    with pytest.raises(UserError, match=message) as refusal:
        trainer(tmp_path, max_steps=2).fit(module, golden_data())
    assert "\n" not in str(refusal.value)


def test_accumulation_is_not_the_users_to_set(tmp_path):
    fit = trainer(tmp_path, max_steps=1, accumulate_grad_batches=3)
    with pytest.raises(
        ValueError, match="must be left alone, it follows from data.global_batch_tokens, got 3"
    ):
        fit.fit(golden_module(), golden_data())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": "nowhere"}, r"nowhere: no such folder \(data.root\)"),
        ({"root": str(TOKENIZER.parent.parent)}, "no token shard matches"),
        ({"vocab_size": 500}, "vocab_size must equal the 512 pieces"),
        ({"vocab_size": 70_000}, "vocab_size must be at most 65536"),
        ({"seq_len": 6000, "global_batch_tokens": 6000}, r"less one \(5412\), got 6000"),
        ({"micro_batch_sequences": 3}, "must divide the 8 sequences of a step"),
        ({"val_batch_sequences": 0}, "^val_batch_sequences must be at least 1, got 0"),
        ({"val_max_tokens": 63}, r"at least data.seq_len \(64\), got 63"),
    ],
)
def test_bad_data_is_refused_before_anything_is_written(settings, message, tmp_path):
    fit = trainer(tmp_path / "run", max_steps=1, logger=CSVLogger(tmp_path / "run"))
    with pytest.raises(ValueError, match=message):
        fit.fit(golden_module(), golden_data(**settings))
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="a", every_n_train_steps=1)
    trainer(tmp_path, save, max_steps=1, enable_checkpointing=True).fit(golden_module(), golden_data())
    other = golden_module("untied")
    with pytest.raises(ValueError, match=r"model.gpt.dim must be the checkpoint's 64, got 48"):
        trainer(tmp_path).validate(other, golden_data("untied"), ckpt_path=str(tmp_path / "a.ckpt"))


def test_the_clock_needs_no_callback_order_and_is_always_there(tmp_path):
    ticks = count()
    fit = trainer(tmp_path, max_steps=2)
    module = golden_module()
    fit.fit(module, golden_data())
    clock = fit.lightning_module.run.clock
    clock.now = lambda: float(next(ticks))
    with clock.phase("export"):
        pass
    assert clock.phase_seconds["export"] == 1.0 and clock.elapsed_seconds > 0


def test_a_whole_sanity_check_is_the_score_of_step_zero(tmp_path, capsys):
    logger = CSVLogger(tmp_path)
    fit = trainer(tmp_path, ConsoleLog(), max_steps=1, num_sanity_val_steps=-1, logger=logger)
    module = golden_module()
    fit.fit(module, golden_data())
    expected = meta("tied")["eval"]
    assert f"step 0/1  val/loss {expected['val_loss']:.4f}  val/bpb" in capsys.readouterr().out
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    first = dict(zip(rows[0].split(","), rows[1].split(","), strict=True))
    assert float(first["val/loss"]) == pytest.approx(expected["val_loss"], rel=1e-5)


@pytest.mark.slow
def test_a_compiled_run_is_the_eager_run_with_two_graphs(tmp_path):
    losses = []
    for compile_ in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        record, module, export = Record(), golden_module(), ArtifactExport(check_code=False)
        module.compiled = compile_
        warmup = CompileWarmup(2 if compile_ else 0)
        fit = trainer(tmp_path, warmup, record, export, max_steps=4)
        fit.fit(module, golden_data(val_every_steps=2, val_batch_sequences=5))
        losses.append([*record.losses, module.run.val_score.loss, export.result["roundtrip_val_loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert losses[1][:3] == pytest.approx(losses[0][:3], rel=1e-4)
    # Training and validation have one shape each: nothing breaks, nothing is compiled twice.
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.parametrize("micro_batch_sequences", [8, 2])
def test_callbacks_get_the_mean_loss_of_the_step(micro_batch_sequences, tmp_path):
    seen = []

    class Note(Callback):
        def on_train_batch_end(self, fit, module, output, batch, batch_idx):
            # A ModelCheckpoint saves the step by what callback_metrics says of it.
            told = (module.run.train_loss, fit.callback_metrics["train/loss"].item())
            seen.append((float(output["loss"]), *told))

    data = golden_data(micro_batch_sequences=micro_batch_sequences)
    trainer(tmp_path, Note(), max_steps=2, log_every_n_steps=1).fit(golden_module(), data)
    assert len(seen) == 2
    for own, *told in seen:
        assert told == pytest.approx([own, own], rel=1e-6)
