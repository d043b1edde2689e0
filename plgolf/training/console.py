"""What a run says: one plain line per event, on rank 0."""

import sys
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from plgolf.training.clock import TrainClock
from plgolf.training.score import Score


@rank_zero_only
def say(line: str) -> None:
    """Prints a line on rank 0, at once even into a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class ConsoleLog(Callback):
    """Prints the first steps, then every ``every_steps``-th, and each validation.

    Args:
        every_steps: steps between lines.
        first_steps: the first so many steps get a line each.
    """

    def __init__(self, every_steps: int = 200, first_steps: int = 10) -> None:
        self.every_steps = max(every_steps, 1)
        self.first_steps = first_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if step > self.first_steps and step % self.every_steps and not trainer.should_stop:
            return
        clock = TrainClock.of(trainer)
        data = trainer.datamodule  # type: ignore[attr-defined]
        seconds = clock.elapsed_seconds
        tokens_per_second = step * data.global_batch_tokens / max(seconds, 1e-9)
        parts = [
            f"step {step}{'' if trainer.max_steps < 0 else f'/{trainer.max_steps}'}",
            f"train/loss {pl_module.train_loss:.4f}",
            f"{1000 * seconds / max(step, 1):.1f} ms/step",
            f"{tokens_per_second:,.0f} tokens/s",
            f"{seconds:.1f}{'' if clock.max_seconds is None else f'/{clock.max_seconds:g}'} s",
            f"lr x{pl_module.lr_factor:.3f}",
        ]
        if pl_module.device.type == "cuda":
            parts.append(f"peak {torch.cuda.max_memory_allocated() >> 20} MiB")
        say(" | ".join(parts))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        score = pl_module.val_score
        if score is None:
            return
        exact = trainer.state.fn == "validate"
        if exact:
            say(f"val/loss {score.loss:.8f}\nval/bpb {score.bpb:.8f}")
            if score.bpb_raw is not None:
                say(f"val/bpb_raw {score.bpb_raw:.8f}")
            say(f"scored {score.num_tokens:,} tokens, {score.num_bytes:,} bytes{_raw_bytes(score)}")
        elif not trainer.sanity_checking or _is_whole(trainer):
            step = trainer.global_step
            differ = score.bpb_raw is not None and score.num_raw_bytes != score.num_bytes
            raw = f" | val/bpb_raw {score.bpb_raw:.4f}" if differ else ""
            say(f"step {step} | val/loss {score.loss:.4f} | val/bpb {score.bpb:.4f}{raw}")


def _raw_bytes(score: Score) -> str:
    """Says by how much the bytes that are scored are other than the text's own."""
    if score.num_raw_bytes in (0, score.num_bytes):
        return ""
    off = 100 * (score.num_bytes / score.num_raw_bytes - 1)
    return f" for {score.num_raw_bytes:,} raw ones ({off:+.2f} %)"


def _is_whole(trainer: Trainer) -> bool:
    return trainer.num_sanity_val_steps == float("inf")
