"""Fits in which everything is noted that Lightning lets its users see of a step."""

import copy
import csv
import functools
import itertools
from typing import ClassVar

import torch
from golden_run import golden_data, golden_module, trainer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.optimization.automatic import Closure
from runs import assert_same, load

from plgolf.data.stream import Batch
from plgolf.optim import Warmdown
from plgolf.training import GolfModule, RunCheckpoint, ShardDataModule, TrainClock

HOOKS = [name for name in dir(Callback) if name.startswith("on_") and "exception" not in name]
EVENTS = []
OURS, FALLEN_BACK, LIGHTNINGS = ("StepLoop", True), ("StepLoop", False), ("_TrainingEpochLoop", False)
"""How a step went: in which loop, and whether by itself."""


def summary(value):
    """What can be compared of a hook's argument."""
    if isinstance(value, torch.Tensor):
        return str(value.tolist())  # A NaN is like another one.
    if isinstance(value, (Batch, list, tuple)):
        return [summary(part) for part in value]
    if isinstance(value, dict):
        return {name: summary(part) for name, part in value.items() if isinstance(part, torch.Tensor)}
    if isinstance(value, Closure):
        return "Closure"
    return value if isinstance(value, (int, float, str)) else type(value).__name__


def note(fit, who, name, *args, **kwargs):
    """Notes a hook, where ``log`` would say that it came from, its arguments and all counters then."""
    module, connector = fit.lightning_module, fit._logger_connector
    without_batch = fit._results is not None and fit._results.batch is None
    seen = (connector._callback_metrics, connector._logged_metrics, connector._progress_bar_metrics)
    EVENTS.append(
        (
            *(who, name, module._current_fx_name, [summary(arg) for arg in args], summary(kwargs)),
            *(fit.global_step, copy.deepcopy(fit.fit_loop.state_dict()), summary(seen)),
            *(without_batch, connector._first_loop_iter, fit.should_stop),
        )
    )


def noting(who, name, method):
    @functools.wraps(method)
    def noted(self, *args, **kwargs):
        fit = self.trainer if isinstance(self, LightningModule | ShardDataModule) else args[0]
        note(fit, who, name, *args, **kwargs)
        return method(self, *args, **kwargs)

    return noted


class EveryHook(Callback):
    """Has them all, and logs in those of a step."""

    loops: ClassVar = set()

    def on_before_backward(self, fit, module, loss):
        if fit.fit_loop.total_batch_idx >= 0:  # A warm-up step is nothing to log.
            module.log("backward", loss, on_step=True, on_epoch=True, logger=True)

    def on_train_batch_end(self, fit, module, outputs, batch, batch_idx):
        loop = fit.fit_loop.epoch_loop
        self.loops.add((type(loop).__name__, getattr(loop, "_hooks", None) is not None))
        if batch_idx % 3 == 0:
            module.log("third", float(batch_idx), prog_bar=True)


for hook in HOOKS:
    setattr(EveryHook, hook, noting("callback", hook, getattr(EveryHook, hook)))


class OwnHooks(GolfModule):
    """A module that overrides what Lightning lets it."""

    def on_train_batch_start(self, batch, batch_idx):
        self.log("start", batch_idx, on_step=True)
        return super().on_train_batch_start(batch, batch_idx)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return {"loss": loss, "twice": 2 * loss.detach()}

    def backward(self, loss):
        self.log_dict({"in/backward": loss.detach()}, on_step=True, on_epoch=False)
        loss.backward()

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


for hook in (
    *("on_train_batch_start", "on_train_batch_end", "training_step", "backward", "optimizer_step"),
    *("on_before_zero_grad", "optimizer_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "configure_gradient_clipping", "lr_scheduler_step"),
    *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
    *("on_validation_model_zero_grad", "on_train_epoch_end", "on_train_epoch_start"),
):
    setattr(OwnHooks, hook, noting("module", hook, getattr(OwnHooks, hook)))


def with_own(hook):
    """A module that overrides one of the hooks that Lightning goes forward and back by."""
    return type(f"WithOwn_{hook}", (GolfModule,), {hook: noting("module", hook, getattr(GolfModule, hook))})


class LooksTwice(torch.optim.SGD):
    """Goes forward and back twice a step, as those do that search along a line."""

    def step(self, closure):
        closure()
        return super().step(closure)


class OtherOptimizer(GolfModule):
    def configure_optimizers(self):
        self.optimizer = functools.partial(LooksTwice, lr=0.001)
        return super().configure_optimizers()


class FurtherHooks(GolfModule):
    """With hooks that are torch's: around the optimizer's step, and where a gradient is made."""

    def configure_optimizers(self):
        configured = super().configure_optimizers()
        optimizer = configured["optimizer"]
        optimizer.register_step_pre_hook(lambda *_: note(self.trainer, "optimizer", "begins"))
        optimizer.register_step_post_hook(lambda *_: note(self.trainer, "optimizer", "ends"))
        weight = next(self.gpt.parameters())
        weight.register_hook(lambda gradient: note(self.trainer, "parameter", "gradient", gradient))
        return configured


class OneArgument(GolfModule):
    def training_step(self, batch):
        note(self.trainer, "module", "training_step")
        return super().training_step(batch, 0)


class NoLoss(GolfModule):
    """Without one in every third micro-batch, and with too few in the third epoch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 2 else loss

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        return -1 if self.current_epoch == 2 and batch_idx == 1 else None


class TransferringData(ShardDataModule):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        note(self.trainer, "data", "transfer_batch_to_device", batch, dataloader_idx)
        return batch.to(device)


class SomeBatches:
    """Fewer than a loader has."""

    def __init__(self, loader, count):
        self.loader, self.count = loader, count

    def __iter__(self):
        return itertools.islice(iter(self.loader), self.count)


class SomeOfAKnownNumber(SomeBatches):
    """Says that there were more."""

    def __len__(self):
        return self.count + 2


class DataOfUnknownLength(ShardDataModule):
    count = 3

    def train_dataloader(self):
        return SomeBatches(super().train_dataloader(), self.count)


class DataThatEndsEarly(ShardDataModule):
    def train_dataloader(self):
        return SomeOfAKnownNumber(super().train_dataloader(), 3)


class Comes(Callback):
    """Brings another callback into the middle of a fit, and takes it away again."""

    def __init__(self):
        self.guest = LambdaCallback(
            on_after_backward=lambda fit, module: note(fit, "guest", "on_after_backward"),
            on_train_batch_end=lambda fit, module, *args: note(fit, "guest", "end", *args),
        )

    def on_train_batch_end(self, fit, module, outputs, batch, batch_idx):
        if batch_idx == 1:
            fit.callbacks = [self.guest, *fit.callbacks]
        if batch_idx == 4:
            fit.callbacks.remove(self.guest)


class ExchangesOptimizer(Callback):
    """Has the trainer make another one amid an epoch, as some callbacks do that unfreeze parameters."""

    def on_train_batch_end(self, fit, module, outputs, batch, batch_idx):
        if batch_idx == 3:
            fit.strategy.setup_optimizers(fit)


class Stops(Callback):
    def on_train_batch_end(self, fit, module, outputs, batch, batch_idx):
        fit.should_stop = fit.should_stop or batch_idx == 5


def callbacks_named(names, folder):
    makers = {
        "comes": Comes,
        "exchanges": ExchangesOptimizer,
        "stops": Stops,
        "lambda": lambda: LambdaCallback(
            on_before_optimizer_step=lambda fit, module, optimizer: note(fit, "lambda", "before", optimizer)
        ),
        "rates": lambda: LearningRateMonitor(logging_interval="step"),
        "early": lambda: EarlyStopping("loss_epoch", strict=False, check_on_train_epoch_end=True),
        "files": lambda: ModelCheckpoint(str(folder / "files"), every_n_train_steps=2, save_top_k=-1),
        "timer": lambda: Timer(duration={"hours": 1}),
    }
    return [makers[name]() for name in names]


def run(folder, kind, data_kind, callbacks, accumulation, val_every_steps, ckpt_path=None, **asked):
    """Makes a fit; returns what happened, what it logged, its last checkpoint and how its steps went."""
    EVENTS.clear()
    EveryHook.loops = set()
    clock, ticks = TrainClock(), itertools.count()
    clock.now = lambda: next(ticks) / 1000
    torch.manual_seed(3)
    save = RunCheckpoint(dir=str(folder), every_steps=2, keep=99)
    named = callbacks_named(callbacks, folder)
    fit = trainer(
        folder,
        *(clock, EveryHook(), *named, save),
        **{"enable_checkpointing": True, "log_every_n_steps": 2, "max_steps": 6, **asked},
        logger=CSVLogger(str(folder), name="logs", flush_logs_every_n_steps=1),
    )
    module, plain = golden_module(newton_schulz_dtype="float32"), GolfModule
    module.schedule = Warmdown(steps=4)
    module.__class__ = kind or plain
    data = golden_data(
        global_batch_tokens=8 * 64 * accumulation,
        kind=data_kind,
        val_every_steps=val_every_steps,
        val_max_tokens=449,
    )
    fit.fit(module, data, ckpt_path=ckpt_path)
    fit.save_checkpoint(folder / "end.ckpt")
    if not fit.is_global_zero:
        return list(EVENTS), EveryHook.loops
    with next((folder / "logs").glob("*/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    files = {path.relative_to(folder): load(path) for path in folder.rglob("*.ckpt")}
    shown = (fit.callback_metrics, fit.logged_metrics, fit.progress_bar_metrics)
    return list(EVENTS), rows, files, summary(shown), EveryHook.loops


def assert_alike(left, right):
    for i, (ours, theirs) in enumerate(zip(left[0], right[0], strict=False)):
        assert ours[:2] == theirs[:2], f"event {i}"
        assert_same(ours, theirs, f"event {i}: {ours[:2]}")
    assert len(left[0]) == len(right[0])
    assert left[1] == right[1]
    assert left[2].keys() == right[2].keys() and len(left[2]) > 1
    for name, file in left[2].items():
        for checkpoint in (file, right[2][name]):
            for state in checkpoint["callbacks"].values():
                state.pop("time_elapsed", None)
        assert_same(file, right[2][name], str(name))
    assert left[3] == right[3]
