"""Scores trained and restored weights on all ranks, outside Lightning's loops."""

from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer

from plgolf.artifact import Artifact
from plgolf.errors import UserError
from plgolf.evaluate import BitsPerByte
from plgolf.evaluate.score import Score
from plgolf.training.logs.screen import progress
from plgolf.training.module import GolfModule

T = TypeVar("T")


def on_rank_zero(trainer: Trainer, work: Callable[[], T]) -> T | None:
    """Runs something on rank 0; its failure is raised on every rank, as the others would wait for it."""
    result, failure = None, None
    if trainer.is_global_zero:
        try:
            result = work()
        except UserError as error:
            failure = str(error)
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        raise UserError(failure)
    return result


def score(trainer: Trainer, module: GolfModule, analysis: Any = None) -> Score:
    """Validates on all ranks with the current weights, outside Lightning's loops."""
    metric = BitsPerByte().to(module.device)
    was_training = module.training
    module.eval()
    module.on_validation_epoch_start()
    loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
    limits = trainer.num_val_batches  # From limit_val_batches, by loader; empty before the first validation.
    num_batches = int(min(limits[0], len(loader))) if limits else len(loader)
    shown = progress("scoring", num_batches, "batches")
    with torch.no_grad():
        for done, batch in enumerate(islice(loader, num_batches)):
            scored = module.add_score(trainer.strategy.batch_to_device(batch), metric)
            if analysis is not None:
                analysis.add(batch, scored)
            shown.show(done + 1)
    module.train(was_training)
    return Score.of(metric)


def score_artifact(trainer: Trainer, module: GolfModule, artifact: Artifact | None, analysis: Any) -> Score:
    """Scores the weights of rank 0's artifact on all ranks, then restores the trained weights."""
    trained = {name: tensor.clone() for name, tensor in module.gpt.state_dict().items()}
    restored = on_rank_zero(trainer, lambda: artifact.gpt().state_dict() if artifact else None)
    if restored is not None:
        module.gpt.load_state_dict(restored)
    if trainer.world_size > 1:
        for tensor in module.gpt.state_dict().values():
            dist.broadcast(tensor, src=0)
    try:
        return score(trainer, module, analysis)
    finally:
        module.gpt.load_state_dict(trained)
