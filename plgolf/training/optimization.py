"""One micro-batch: forward, backward and, with the last one of a step, the optimizer."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

from plgolf.training.hooks import Hooks, overridden
from plgolf.training.ordinary import optimizes_plainly


class _Closure(Closure):
    """What an optimizer gets to call: forward and backward of one micro-batch, which return the loss."""

    def __init__(self, optimization: "Optimization", batch: Any, batch_idx: int) -> None:
        self._result: ClosureResult | None = None
        self._optimization, self._batch, self._batch_idx = optimization, batch, batch_idx

    def closure(self, *args: Any, **kwargs: Any) -> ClosureResult:
        # Most optimizers have seen to it.
        if torch.is_grad_enabled():
            return self._optimization.forward_backward(self._batch, self._batch_idx)
        with torch.enable_grad():
            return self._optimization.forward_backward(self._batch, self._batch_idx)


class Optimization:
    """What Lightning's ``_AutomaticOptimization`` does, with its counters: they are in checkpoints.

    A module's methods are looked up at an epoch's start: one that is exchanged later counts from the next on.

    Args:
        trainer: the trainer, in a fit of a module that optimises automatically.
        hooks: of it.
    """

    def __init__(self, trainer: Trainer, hooks: Hooks) -> None:
        self._trainer, self._module, self._strategy = trainer, trainer.lightning_module, trainer.strategy
        self._hooks = hooks
        self._automatic = trainer.fit_loop.epoch_loop.automatic_optimization
        # Any name will do where there are two arguments.
        step = self._module.training_step
        self._takes_index = is_param_in_hook_signature(step, "batch_idx", min_args=2)
        self._is_plain = optimizes_plainly(trainer)
        self._training_step = step if self._is_plain else self._strategy.training_step

    @property
    def _optimizer(self) -> Optimizer:
        return self._strategy.optimizers[0]  # Of which a callback may make another.

    def run(self, batch: Any, batch_idx: int, *, ends_step: bool) -> dict[str, Any]:
        """Runs a micro-batch.

        Args:
            batch: on its device.
            batch_idx: its number in the epoch.
            ends_step: whether it is the last one of its step.

        Returns:
            A detached copy of the loss and what else ``training_step`` returned; nothing if that was None.
        """
        closure = _Closure(self, batch, batch_idx)
        if ends_step:
            progress = self._automatic.optim_progress.optimizer.step
            progress.increment_ready()
            self._optimizer_step(batch_idx, closure)
            progress.increment_completed()
        elif self._is_plain:
            closure()
        elif self._strategy.handles_gradient_accumulation:
            self._optimizer_step(batch_idx, closure)
        else:
            with _block_parallel_sync_behavior(self._strategy):
                closure()
        result = closure.consume_result()
        return {} if result.loss is None else result.asdict()

    def forward_backward(self, batch: Any, batch_idx: int) -> ClosureResult:
        """Calls ``training_step`` and makes the gradients, of nothing else at the start of a step."""
        args = (batch, batch_idx) if self._takes_index else (batch,)
        result = self._result(self._hooks.call_one("training_step", self._training_step, *args))
        # Lightning's tuners want no gradients.
        if not self._automatic._skip_backward:
            if batch_idx % self._trainer.accumulate_grad_batches == 0:
                self._zero_grad(batch_idx)
            if result.closure_loss is not None:
                backward = self._backward if self._is_plain else self._strategy.backward
                self._hooks.call_one("backward", backward, result.closure_loss, self._optimizer)
        return result

    def _result(self, output: Any) -> ClosureResult:
        if not self._is_plain:
            self._strategy.post_training_step()
        accumulation = self._trainer.accumulate_grad_batches
        if isinstance(output, Tensor):
            return ClosureResult(output / accumulation if accumulation > 1 else output)
        if output is None:
            if self._trainer.world_size > 1:
                raise RuntimeError(
                    "Skipping the `training_step` by returning None is not supported on several ranks."
                )
            # Lightning's words, for those who have silenced them.
            said = "`training_step` returned `None`. If this was on purpose, ignore this warning..."
            Closure.warning_cache.warn(said)
        return ClosureResult.from_training_step_output(output, accumulation)

    def _backward(self, loss: Tensor, optimizer: Optimizer) -> None:
        """Does what ``Strategy.backward`` comes to."""
        self._hooks.call("on_before_backward", loss)
        loss.backward()  # type: ignore[no-untyped-call]
        self._hooks.call("on_after_backward")

    def _zero_grad(self, batch_idx: int) -> None:
        hooks, optimizer = self._hooks, self._optimizer
        progress = self._automatic.optim_progress.optimizer.zero_grad
        progress.increment_ready()
        hooks.call("on_before_zero_grad", optimizer)
        progress.increment_started()
        if self._is_plain:
            hooks.call_one("optimizer_zero_grad", optimizer.zero_grad)
        else:
            zero_grad, epoch = self._module.optimizer_zero_grad, self._trainer.current_epoch
            hooks.call_one("optimizer_zero_grad", zero_grad, epoch, batch_idx, optimizer)
        progress.increment_completed()

    def _optimizer_step(self, batch_idx: int, closure: _Closure) -> None:
        module, strategy, optimizer = self._module, self._strategy, self._optimizer
        if self._is_plain:
            with_hook = partial(strategy.precision_plugin._wrap_closure, module, optimizer, closure)
            self._hooks.call_one("optimizer_step", optimizer.step, closure=with_hook)
        else:
            where = (self._trainer.current_epoch, batch_idx, strategy._lightning_optimizers[0])
            self._hooks.call_one("optimizer_step", module.optimizer_step, *where, closure)


class StepPrecision(Precision):
    """Lightning's default, which is where it calls the hooks around the backward pass.

    Args:
        trainer: the trainer, in a fit of a module that optimises automatically.
        hooks: of it.
    """

    _nothing: AbstractContextManager[None] = nullcontext()

    def __init__(self, trainer: Trainer, hooks: Hooks) -> None:
        self._trainer, self._hooks = trainer, hooks
        module, names = trainer.lightning_module, ("configure_gradient_clipping", "clip_gradients")
        self._clips_otherwise = any(overridden(module, name, LightningModule) for name in names)

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        self._hooks.call("on_before_backward", tensor)
        return tensor

    def post_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        self._hooks.call("on_after_backward")
        return tensor

    def _after_closure(self, model: LightningModule, optimizer: Any) -> None:
        self._hooks.call("on_before_optimizer_step", optimizer)
        most = self._trainer.gradient_clip_val
        if most or self._clips_otherwise:
            how = {
                "gradient_clip_val": most,
                "gradient_clip_algorithm": self._trainer.gradient_clip_algorithm,
            }
            clip = model.configure_gradient_clipping
            self._hooks.call_one("configure_gradient_clipping", clip, optimizer, **how)

    def train_step_context(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing
