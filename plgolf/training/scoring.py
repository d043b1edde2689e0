"""The half of the LightningModule that scores a GPT: forward, validation, test and prediction."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from plgolf.config import config_to_dict
from plgolf.data.stream import Batch
from plgolf.errors import UserError
from plgolf.evaluate.evaluator import Tally, score_batch
from plgolf.evaluate.targets import Targets, split_targets
from plgolf.model import GPT, GPTConfig, flash
from plgolf.training.checkpoints import compare, resume
from plgolf.training.logs.metrics_row import record
from plgolf.training.run import Run


class ScoringModule(LightningModule):
    """Scores a GPT in bits per byte on the validation split of a ``ShardDataModule``.

    Args:
        gpt: architecture of the model.
        compile: compile the model with ``torch.compile`` (one graph, static shapes).
    """

    def __init__(self, gpt: GPTConfig, *, compile: bool = False) -> None:  # noqa: A002
        super().__init__()
        self.gpt = GPT(gpt)
        self.compiled = compile
        self._configured = False
        self.run = Run([])
        self._tally: Tally
        self._validated_step = -1

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "ScoringModule":
        """Loads the weights of a checkpoint or an artifact into a module of the file's architecture.

        Args:
            checkpoint_path: a checkpoint of a fit, or an artifact. Reading it runs no code from the file.
            args: not taken.
            kwargs: further arguments of the module, such as ``optimizer`` to train it on; ``map_location``
                is the device of the module (default: CPU).

        Raises:
            UserError: the file cannot be read or is malformed, or arguments are given that do not apply.
        """
        from plgolf.training.checkpoints.load_module import load_module  # noqa: PLC0415 (not packed)

        return load_module(cls, checkpoint_path, args, kwargs)

    def configure_callbacks(self) -> list[Callback]:
        if not self.gpt.config.recurrence:
            return []
        from plgolf.training.phases import Phases  # noqa: PLC0415 (few use it)

        return [Phases()]

    def configure_model(self) -> None:
        if self._configured:  # Lightning calls this at every fit and validate.
            return
        self._configured = True
        device = self.trainer.strategy.root_device
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 products, as the reference has them.
            flash.activate_flash_attention(device)
        if self.compiled:
            # In place, so that the names in the state dict stay as they are.
            self.gpt.compile(dynamic=False, fullgraph=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Returns logits (batch, time, vocab), float32 after the soft cap, for token ids (batch, time)."""
        logits: Tensor = self.gpt(input_ids.long())
        return logits

    def zero_grad(self, set_to_none: bool = True) -> None:
        # Lightning calls this after it has installed its signal handlers, before any hook of a fit.
        self.run.clock.signals.install_if_expected()
        super().zero_grad(set_to_none)

    def targets(self, batches: Sequence[float] = ()) -> Targets:
        """Returns the targets that this rank scores: its part of the split, or its first batches.

        Args:
            batches: number of batches to score, by loader, as in ``trainer.num_val_batches``; empty for all.
        """
        data = getattr(self.trainer, "datamodule", None)
        split = getattr(data, "val_split", None)
        if data is None or split is None:
            raise UserError("bits per byte need a datamodule with val_split, such as ShardDataModule")
        targets = split_targets(split, data.tokenizer)
        for count in batches:
            most = targets.first + count * split.batch_sequences * split.seq_len
            targets.last = int(min(targets.last, most))
        return targets

    def on_validation_epoch_start(self) -> None:
        self._tally = Tally(self.targets(), self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._tally.add(score_batch(self.gpt, batch))

    def on_validation_epoch_end(self) -> None:
        score, checking = self._tally.score(), self.trainer.sanity_checking
        # A sanity check of the whole split is the score of step 0; that of a few batches is not a score.
        if checking and self.trainer.num_sanity_val_steps != float("inf"):
            return
        self.run.val_score = score
        if not checking:
            self._validated_step = self.trainer.global_step
        record(self, score.named("val"))

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        record(self, self._tally.score().named("test"))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of each target in nats, float32 (sequences, seq_len)."""
        return score_batch(self.gpt, batch).nats.view(batch.num_sequences, -1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["gpt_config"] = config_to_dict(self.gpt.config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        fit = self.trainer.state.fn == "fit"
        if fit or "gpt_config" in checkpoint:  # The reference's artifacts have none.
            allowed = self.run.allowed_changes if fit else []
            compare.check_same_model(checkpoint, self.gpt.config, allowed=allowed)
        resume.check_weights(checkpoint, self.state_dict())
        if not fit:
            checkpoint.pop("loops", None)
