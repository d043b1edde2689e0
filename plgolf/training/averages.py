"""Averages of the weights over a run: a moving average, a tail average, or a blend of both."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from plgolf.errors import UserError
from plgolf.training.checkpoints.compare import short
from plgolf.training.checkpoints.resume import check_weights, count_of
from plgolf.training.finish.export import ArtifactExport
from plgolf.training.finish.scoring import score
from plgolf.training.logs.screen import say

Weights = Mapping[str, Tensor]


class Averages:
    """Float32 copies of a model's weights, which follow them step by step.

    Args:
        ema: share of the moving average that stays at each step; None for none.
        tail: part of the run whose weights are averaged, its last; None for none.
        blend: share of the moving average where there are both.
        own: share of the weights themselves in the result.
    """

    def __init__(self, ema: float | None, tail: float | None, blend: float, own: float = 0.0) -> None:
        self.ema, self.tail, self.blend, self.own = ema, tail, blend, own
        self.copies: dict[str, dict[str, Tensor]] = {}
        """Averages by kind, ``ema`` and ``tail``, and by name of the weight."""
        self.tail_steps = 0
        """Number of steps whose weights are in the tail average."""

    def begin(self, kind: str, weights: Weights) -> None:
        """Starts an average with the weights as they are."""
        self.copies[kind] = {n: w.detach().to(torch.float32, copy=True) for n, w in weights.items()}

    @torch.no_grad()
    def update(self, weights: Weights, fraction: float | None) -> None:
        """Adds the weights after a step, at which ``fraction`` of the run is done."""
        values = [weight.float() for weight in weights.values()]
        if self.ema is not None:
            torch._foreach_lerp_(list(self.copies["ema"].values()), values, 1 - self.ema)
        if self.tail_has_begun(fraction):
            if not self.tail_steps:
                self.begin("tail", weights)
            self.tail_steps += 1
            torch._foreach_lerp_(list(self.copies["tail"].values()), values, 1 / self.tail_steps)

    def tail_has_begun(self, fraction: float | None) -> bool:
        """Returns True if the weights after a step belong to the tail."""
        return self.tail is not None and fraction is not None and fraction >= 1 - self.tail

    def result(self, weights: Weights) -> dict[str, Tensor]:
        """Returns the averages, blended with the weights, by name, float32; empty before there are any."""
        ema, tail = self.copies.get("ema", {}), self.copies.get("tail", {})
        found = ema or tail
        if ema and tail:
            found = {name: torch.lerp(tail[name], ema[name], self.blend) for name in ema}
        if self.own:
            found = {name: torch.lerp(mean, weights[name].float(), self.own) for name, mean in found.items()}
        return found

    def load(self, saved: Mapping[str, Any], weights: Weights) -> None:
        """Restores the averages of a checkpoint; raises a UserError if they do not fit the weights."""
        wide = {name: weight.float() for name, weight in weights.items()}
        wanted = {"ema": self.ema, "tail": self.tail}
        for kind in (kind for kind, share in wanted.items() if share is not None and kind in saved):
            check_weights({"state_dict": saved[kind]}, wide)
            self.copies[kind] = {name: saved[kind][name].to(w.device) for name, w in wide.items()}
        if "tail" in self.copies:
            self.tail_steps = count_of(saved, "tail_steps", least=1)


class WeightAverages(Callback):
    """Validates, saves and exports averages of the weights; training continues with the weights themselves.

    The moving average (EMA) starts from the initial weights: after each step e = ema * e + (1 - ema) * w. The
    tail average is the mean of the weights after each step of the last part of the run, by the limit that is
    nearer (https://arxiv.org/abs/1803.05407). Before that part begins there is only the moving average, or
    without one the weights themselves. Off while both are null.

    Memory, on the device: a float32 copy of the weights for each average, of the tail from its first step on,
    and one of the weights themselves during validation and after training. Time: each average reads and
    writes its copy once a step; at the end of the run the weights themselves are scored, which takes another
    validation. All ranks have the same copies. A checkpoint has the averaged weights in ``state_dict``, and
    what a resumed run needs to continue exactly.

    Args:
        ema: share of the moving average that stays at each step, such as 0.997; null for none.
        tail: part of the run whose weights are averaged, such as 0.2 for its last fifth; null for none.
        blend: share of the moving average where there are both.
        own: share of the weights themselves in what is validated and exported, so that it lags less behind
            them (https://github.com/KellerJordan/modded-nanogpt/pull/328 has 0.35 to 0.5).

    Raises:
        UserError: a share is not between 0 and 1.
    """

    def __init__(
        self, ema: float | None = None, tail: float | None = None, blend: float = 0.5, own: float = 0.0
    ) -> None:
        for name, share in {"ema": ema, "tail": tail, "blend": blend}.items():
            if share is not None and not 0 < share < 1:
                raise UserError(f"{name} must be above 0 and below 1, got {share}")
        if not 0 <= own < 1:
            raise UserError(f"own must be at least 0 and below 1, got {own}")
        self.settings = {"ema": ema, "tail": tail, "blend": blend, "own": own}
        self.averages = Averages(ema, tail, blend, own)
        self._step = 0
        self._raw: dict[str, Tensor] | None = None
        """The weights themselves, while the model has the averaged ones."""

    @property
    def is_on(self) -> bool:
        """True if there is something to average."""
        return self.settings["ema"] is not None or self.settings["tail"] is not None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        self.averages, self._step, self._raw = Averages(**self.settings), 0, None  # type: ignore[arg-type]
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, ArtifactExport) for callback in callbacks[: callbacks.index(self)]):
            raise UserError("trainer.callbacks must have WeightAverages before ArtifactExport")

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step, fraction, averages = trainer.global_step, _fraction(trainer, pl_module), self.averages
        if averages.tail is not None and fraction is None:
            raise UserError("averages.tail must be null without clock.max_seconds and trainer.max_steps")
        missed = {
            "ema": averages.ema is not None and "ema" not in averages.copies,
            "tail": averages.tail_has_begun(fraction) and not averages.tail_steps,
        }
        for name in (name for name, is_missed in missed.items() if self._step and is_missed):
            raise UserError(f"averages.{name} must be null: the checkpoint's run had begun without it")
        if averages.ema is not None and not self._step:
            averages.begin("ema", _weights(pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self._update(trainer, pl_module)

    def _update(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.averages.update(_weights(pl_module), _fraction(trainer, pl_module))

    def _swap_in(self, pl_module: Any) -> None:
        weights = _weights(pl_module)
        averaged = self.averages.result(weights)
        if averaged and self._raw is None:
            self._raw = {name: weight.clone() for name, weight in weights.items()}
            _copy(weights, averaged)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._swap_in(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self._raw is not None:
            _copy(_weights(pl_module), self._raw)
            self._raw = None

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Scores the weights themselves, then gives the model the averaged ones, which stay."""
        run, averages = pl_module.run, self.averages
        if averages.copies and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with run.clock.phase("validate"):
                raw = score(trainer, pl_module)
            say(f"averages: the weights themselves score val/bpb {raw.bpb:.4f}")
            scores = {"raw_val_loss": raw.loss, "raw_val_bpb": raw.bpb}
            run.notes["averages"] = {**self.settings, "tail_steps": averages.tail_steps, **scores}
        self._swap_in(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Gives the model the averaged weights after its last step: the export then is of those."""
        over = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if trainer.state.fn == "fit" and over:
            self._swap_in(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._update(trainer, pl_module)  # A signal may have come between a step and its end.
        state, averages, raw = checkpoint["state_dict"], self.averages, self._raw or _weights(pl_module)
        averaged = averages.result(raw)
        raw = {name: raw[name] for name in averaged}
        checkpoint["averages"] = {"tail_steps": averages.tail_steps, "raw": raw, **averages.copies}
        # Copies, since no two tensors of a file share their bytes.
        cast = {name: tensor.to(state[name].dtype, copy=True) for name, tensor in averaged.items()}
        checkpoint["state_dict"] = {**state, **cast}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        saved, weights = checkpoint.get("averages"), _weights(pl_module)
        if trainer.state.fn != "fit" or saved is None:
            return
        if not isinstance(saved, dict):
            raise UserError(f"the checkpoint's averages must be weights by kind, got {short(saved)}")
        self.averages.load(saved, weights)
        if saved.get("raw") or "ema" in saved or "tail" in saved:
            check_weights({"state_dict": saved.get("raw")}, weights)
            _copy(weights, saved["raw"])


def _fraction(trainer: Trainer, pl_module: Any) -> float | None:
    fraction: float | None = pl_module.run.clock.progress(trainer.global_step, trainer.max_steps).fraction
    return fraction


def _weights(pl_module: Any) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in pl_module.named_parameters()}


def _copy(weights: Weights, values: Weights) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])
