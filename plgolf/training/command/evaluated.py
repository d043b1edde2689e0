"""The module of ``plgolf validate``, which scores a file by the evaluator of the command line."""

from typing import Any

from plgolf.arguments import SettingsParser
from plgolf.data.stream import Batch
from plgolf.errors import under
from plgolf.evaluate import Evaluator, Windows, evaluate
from plgolf.training.logs.metrics_row import record
from plgolf.training.logs.scoring_line import scoring_progress
from plgolf.training.logs.screen import say
from plgolf.training.module import GolfModule


def add_evaluator(parser: SettingsParser) -> None:
    """Adds ``--evaluator``, with windows as its default, so that flags set their lengths without a name."""
    windows, text = {"class_path": "plgolf.evaluate.Windows"}, "how to score: a class and its settings"
    parser.add_argument("--evaluator", type=Evaluator, default=windows, help=text)


class EvaluatedModule(GolfModule):
    """Scores by an evaluator instead of the batches of validation, if one is set."""

    evaluator: Evaluator | None = None
    """None for the batches of validation."""

    def evaluate_by(self, evaluator: Evaluator, *, seq_len: int) -> None:
        """Sets the evaluator; one with all settings left alone stands for the batches of validation.

        Raises:
            UserError: its settings do not fit ``seq_len`` tokens in a sequence.
        """
        with under("evaluator"):
            evaluator.check(seq_len)
        self.evaluator = None if evaluator == Windows() else evaluator

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.evaluator is None:
            super().validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        if self.evaluator is None:
            super().on_validation_epoch_end()
            return
        targets, clock = self.targets(self.trainer.num_val_batches), self.run.clock
        times = self.evaluator.computed_tokens(targets) / (targets.last - targets.first)
        name = f"{self.evaluator.name} ({self.evaluator.kind})"
        say(f"{name} computes {times:.1f} times the tokens")
        started = clock.now()
        observers: list[Any] = [scoring_progress(targets)]
        self.run.val_score = evaluate(self.evaluator, self.gpt, targets, observers)
        say(f"{name} took {clock.now() - started:.1f} s")
        record(self, self.run.val_score.named("val"))
