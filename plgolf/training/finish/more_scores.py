"""Scores the file in the ways that ``export.evaluators`` names; packed if a recipe names one."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer

from plgolf.errors import UserError, under
from plgolf.evaluate.evaluator import Evaluator
from plgolf.evaluate.score import Score
from plgolf.training.finish.scoring import score
from plgolf.training.logs.screen import say
from plgolf.training.module import GolfModule


def check(evaluators: Sequence[Evaluator], seq_len: int) -> None:
    """Raises a UserError if evaluators cannot work with ``seq_len`` tokens in a sequence."""
    names = ["plain", *(evaluator.name for evaluator in evaluators)]
    if len(set(names)) < len(names):
        raise UserError(f"export.evaluators must have different names, got {', '.join(names)}")
    for number, evaluator in enumerate(evaluators):
        with under(f"export.evaluators.{number}"):
            evaluator.check(seq_len)


def score_by(
    evaluators: Sequence[Evaluator], trainer: Trainer, module: GolfModule, plain: Score
) -> dict[str, dict[str, Any]]:
    """Scores the current weights in several ways on all ranks; says first how much each has to compute.

    Args:
        evaluators: the ways; each has a name of its own.
        trainer: the trainer of a fit.
        module: its module.
        plain: the score by the batches of validation.

    Returns:
        For each score by name, ``plain`` first, what ``result.json`` says of it.
    """
    clock = module.run.clock
    scores = {"plain": _described(plain, "plain", clock.phase_seconds["roundtrip"], 1.0)}
    for evaluator in evaluators:
        targets, started = module.targets(trainer.num_val_batches), clock.now()
        times = evaluator.computed_tokens(targets) / (targets.last - targets.first)
        say(f"export: {evaluator.name} ({evaluator.kind}) computes {times:.1f} times the tokens")
        found = score(trainer, module, evaluator)
        scores[evaluator.name] = _described(found, evaluator.kind, clock.now() - started, times)
    return scores


def _described(score: Score, kind: str, seconds: float, times: float) -> dict[str, Any]:
    return {
        "class": kind,
        "val_loss": score.loss,
        "val_bpb": score.bpb,
        "val_bpb_raw": score.bpb_raw,
        "val_tokens": score.num_tokens,
        "val_bytes": score.num_bytes,
        "seconds": seconds,
        "computed_per_token": times,
    }
