"""The state of a fit or a validation: one object, which the module makes and its callbacks read."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from plgolf.data.stream import Batch
from plgolf.evaluate.score import Score
from plgolf.training.health.nonfinite import StepStatistics
from plgolf.training.timing.clock import TrainClock


class Run:
    """State that ``GolfModule`` shares with callbacks, as ``module.run``.

    Args:
        callbacks: the trainer's.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        found = list(callbacks)
        self.clock = next((c for c in found if isinstance(c, TrainClock)), None) or TrainClock()
        """Training seconds, signals, and when the run ends."""
        self.allowed_changes = [name for c in found for name in getattr(c, "allow_changed", ())]
        """What may differ from the checkpoint that a run resumes from, by dotted name (``RunCheckpoint``)."""
        self.further: Callable[[Batch], Any] = lambda _: None
        """Returns what callbacks (``FurtherTargets``) add to the loss of a micro-batch; None for nothing."""
        self.statistics = StepStatistics({})
        """Losses and gradient norms of the steps that no rank has read yet."""
        self.warming_up = False
        """True while ``CompileWarmup`` makes steps that count for nothing."""
        self.train_loss = math.nan
        """Mean loss over all micro-batches and ranks of the last step that was read, in nats per token."""
        self.gradient_norm = math.nan
        """Norm of that step's gradient, before clipping."""
        self.lr_factor = 1.0
        """Factor of the schedule on the learning rates of the last step."""
        self.result: dict[str, Any] = {}
        """Contents of ``result.json`` on rank 0, once the export has written it."""
        self.notes: dict[str, Any] = {}
        """What callbacks add to ``result.json``."""
        self.result_folder: Path | None = None
        """Folder of ``result.json`` and the artifact."""
        self.val_score: Score | None = None
        """Result of the last validation; None once a step has been made since."""
