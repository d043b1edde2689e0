"""One micro-batch: forward, backward and, with the last one of a step, the optimizer."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

from plgolf.training.hooks import Hooks


class _Closure(Closure):
    """What an optimizer gets to call: forward and backward of one micro-batch, which return the loss."""

    def __init__(self, optimization: "Optimization", args: tuple[Any, ...], batch_idx: int) -> None:
        self._result: ClosureResult | None = None
        self._optimization, self._args, self._batch_idx = optimization, args, batch_idx

    def closure(self, *args: Any, **kwargs: Any) -> ClosureResult:
        result = self._optimization.forward(self._args)
        if result.closure_loss is None:
            # Lightning's words, for those who have silenced them.
            said = "`training_step` returned `None`. If this was on purpose, ignore this warning..."
            self.warning_cache.warn(said)
        self._optimization.backward(result.closure_loss, self._batch_idx)
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | None:
        # Most optimizers have seen to it.
        with nullcontext() if torch.is_grad_enabled() else torch.enable_grad():
            self._result = self.closure()
        return self._result.loss


class Optimization:
    """What Lightning's ``_AutomaticOptimization`` does, with its counters: they are in checkpoints.

    Args:
        trainer: the trainer, in a fit of a module that optimises automatically.
        hooks: of it.
    """

    def __init__(self, trainer: Trainer, hooks: Hooks) -> None:
        self._trainer, self._module, self._strategy = trainer, trainer.lightning_module, trainer.strategy
        self._hooks = hooks
        self._loop = trainer.fit_loop.epoch_loop
        self._automatic = self._loop.automatic_optimization
        # Any name will do where there are two arguments.
        step = self._module.training_step
        self._takes_index = is_param_in_hook_signature(step, "batch_idx", min_args=2)

    def run(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Runs a micro-batch.

        Returns:
            The detached loss and what else ``training_step`` returned; nothing if that was None.
        """
        closure = _Closure(self, (batch, batch_idx) if self._takes_index else (batch,), batch_idx)
        if not self._strategy.handles_gradient_accumulation and self._loop._should_accumulate():
            with _block_parallel_sync_behavior(self._strategy):
                closure()
        else:
            self._optimizer_step(batch_idx, closure)
        result = closure.consume_result()
        return {} if result.loss is None else result.asdict()

    def forward(self, args: tuple[Any, ...]) -> ClosureResult:
        """Calls ``training_step``."""
        output = self._hooks.call_one(self._strategy, "training_step", *args)
        self._strategy.post_training_step()
        if output is None and self._trainer.world_size > 1:
            raise RuntimeError(
                "Skipping the `training_step` by returning None is not supported on several ranks."
            )
        accumulation = self._trainer.accumulate_grad_batches
        if isinstance(output, Tensor):
            return ClosureResult(output / accumulation if accumulation > 1 else output)
        return ClosureResult.from_training_step_output(output, accumulation)

    def backward(self, loss: Tensor | None, batch_idx: int) -> None:
        """Makes the gradients, of nothing else at the start of a step; Lightning's tuners want none."""
        if self._automatic._skip_backward:
            return
        optimizer = self._strategy.optimizers[0]
        if batch_idx % self._trainer.accumulate_grad_batches == 0:
            self._zero_grad(batch_idx, optimizer)
        if loss is not None:
            self._hooks.call_one(self._strategy, "backward", loss, optimizer)

    def _zero_grad(self, batch_idx: int, optimizer: Optimizer) -> None:
        progress = self._automatic.optim_progress.optimizer.zero_grad
        progress.increment_ready()
        self._hooks.call("on_before_zero_grad", optimizer)
        progress.increment_started()
        epoch = self._trainer.current_epoch
        self._hooks.call_one(self._module, "optimizer_zero_grad", epoch, batch_idx, optimizer)
        progress.increment_completed()

    def _optimizer_step(self, batch_idx: int, closure: Closure) -> None:
        optimizer, epoch = self._strategy._lightning_optimizers[0], self._trainer.current_epoch
        progress = self._automatic.optim_progress.optimizer.step
        # A strategy that accumulates by itself is here with each micro-batch.
        steps = not self._loop._should_accumulate()
        if steps:
            progress.increment_ready()
        self._hooks.call_one(self._module, "optimizer_step", epoch, batch_idx, optimizer, closure)
        if steps:
            progress.increment_completed()


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
        own = (getattr(getattr(module, name), "__func__", None) for name in names)
        self._clips_otherwise = list(own) != [getattr(LightningModule, name) for name in names]

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
            self._hooks.call_one(model, "configure_gradient_clipping", optimizer, **how)

    def train_step_context(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing
