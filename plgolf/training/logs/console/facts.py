"""Facts about a step, read without waiting for a device."""

import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer

from plgolf.hardware import peak_flops
from plgolf.model.flops import train_flops_per_token


@dataclass(frozen=True)
class StepFacts:
    """State of a run after an optimizer step."""

    step: int
    max_steps: int | None
    """Step at which the run ends; None for no limit."""
    loss: float
    elapsed_seconds: float
    max_seconds: float | None
    """Training seconds at which the run ends; None for no limit."""
    recent_ms: float
    """Mean time of a step since the last line."""
    tokens_per_second: float
    lr_factor: float
    peak_mib: int
    """Most memory that this rank held: of the GPU, or of the process on a CPU."""
    flops_utilisation: float | None
    """Share of the GPUs' peak that the model's products take; None if the peak is not known."""

    @classmethod
    def of(cls, trainer: Trainer, module: Any, *, recent_steps: int) -> "StepFacts":
        """Reads a trainer; ``recent_steps`` have gone since the last line."""
        clock, data = module.run.clock, trainer.datamodule  # type: ignore[attr-defined]
        recent = clock.step_seconds[-max(recent_steps, 1) :]
        seconds = sum(recent) / max(len(recent), 1)
        tokens_per_second = data.global_batch_tokens / max(seconds, 1e-9)
        peak = peak_flops(module.device)
        flops = train_flops_per_token(module.gpt.config, data.seq_len) * tokens_per_second
        return cls(
            step=trainer.global_step,
            max_steps=step_limit(trainer),
            loss=module.run.train_loss,
            elapsed_seconds=clock.elapsed_seconds,
            max_seconds=clock.max_seconds,
            recent_ms=1000 * seconds,
            tokens_per_second=tokens_per_second,
            lr_factor=module.run.lr_factor,
            peak_mib=peak_memory_mib(module.device)[0],
            flops_utilisation=flops / (peak * trainer.world_size) if peak else None,
        )

    @property
    def seconds_left(self) -> float | None:
        """Until the budget or the steps are used up, whichever comes first at this speed."""
        left = []
        if self.max_seconds is not None:
            left.append(self.max_seconds - self.elapsed_seconds)
        if self.max_steps is not None:
            left.append((self.max_steps - self.step) * self.recent_ms / 1000)
        return max(min(left), 0.0) if left else None


def step_limit(trainer: Trainer) -> int | None:
    """Returns the step at which a run ends; None for no limit."""
    return trainer.max_steps if trainer.max_steps >= 0 else None


def peak_memory_mib(device: torch.device) -> tuple[int, int]:
    """Returns the most memory that was allocated, and reserved, in MiB; on a CPU the process's, twice."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() >> 20, torch.cuda.max_memory_reserved() >> 20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mib = most >> 20 if sys.platform == "darwin" else most >> 10  # Bytes there, KiB elsewhere.
    return mib, mib
