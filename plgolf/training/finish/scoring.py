"""Scores trained and restored weights on all ranks, outside Lightning's loops."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist
from lightning.pytorch import Trainer

from plgolf.artifact import Artifact
from plgolf.errors import UserError
from plgolf.evaluate.evaluator import Evaluator, Observer, Plain, evaluate
from plgolf.evaluate.score import Score
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


@contextmanager
def artifact_weights(trainer: Trainer, module: GolfModule, artifact: Artifact | None) -> Iterator[None]:
    """Gives all ranks the weights of rank 0's artifact in a ``with`` block, then the trained ones."""
    trained = {name: tensor.clone() for name, tensor in module.gpt.state_dict().items()}
    restored = on_rank_zero(trainer, lambda: artifact.gpt().state_dict() if artifact else None)
    if restored is not None:
        module.gpt.load_state_dict(restored)
    if trainer.world_size > 1:
        for tensor in module.gpt.state_dict().values():
            dist.broadcast(tensor, src=0)
    try:
        yield
    finally:
        module.gpt.load_state_dict(trained)


def score(
    trainer: Trainer,
    module: GolfModule,
    evaluator: Evaluator | Plain | None = None,
    observers: Sequence[Observer] = (),
) -> Score:
    """Scores the current weights on all ranks; by the batches of validation without an evaluator."""
    targets = module.targets(trainer.num_val_batches)
    evaluator = evaluator or Plain(trainer.datamodule.val_dataloader())  # type: ignore[attr-defined]
    return evaluate(evaluator, module.gpt, targets, observers)
