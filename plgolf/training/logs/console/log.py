"""Callback that prints the progress of a run."""

import math
import sys
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning.pytorch import Callback, Trainer

from plgolf.console import ProgressLine
from plgolf.errors import at_least
from plgolf.evaluate.score import Score
from plgolf.training.logs.console import reference
from plgolf.training.logs.console.facts import StepFacts, peak_memory_mib, step_limit
from plgolf.training.logs.metrics_row import percent, share_scored
from plgolf.training.logs.screen import progress, say, show, take_over

if TYPE_CHECKING:
    from plgolf.training.logs.console.bar import TimeBar

Style = Literal["lines", "bar", "reference"]


class ConsoleLog(Callback):
    """Prints the first steps, then every ``every_steps``-th one, each validation and the end.

    It never waits for a device: it prints values that the ranks have already shared.

    Args:
        style: ``lines`` are aligned, coloured on a terminal and plain in a file; ``bar`` is a progress bar
            over the time budget, only on a terminal; ``reference`` prints the reference program's log lines.
        every_steps: number of steps between lines.
        first_steps: number of first steps that get a line each.
    """

    def __init__(self, style: Style = "lines", every_steps: int = 200, first_steps: int = 10) -> None:
        at_least("every_steps", every_steps, 0)
        at_least("first_steps", first_steps, 0)
        self.style = style
        self.every_steps = every_steps
        self.first_steps = first_steps
        self._bar: TimeBar | None = None
        self._said_step = 0
        self._validating: ProgressLine | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._said_step = trainer.global_step
        if self.style == "bar" and trainer.is_global_zero and sys.stdout.isatty():
            from plgolf.training.logs.console.bar import TimeBar  # noqa: PLC0415 (Rich)

            self._bar = TimeBar(pl_module.run.clock.max_seconds, step_limit(trainer))
            take_over(self._bar)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_due = self._bar.is_due if self._bar else self.reads_step(trainer.global_step)
        if is_due and trainer.is_global_zero:
            self._say_step(trainer, pl_module)

    def reads_step(self, step: int) -> bool:
        """Returns True if this step gets a line, so that its loss is read."""
        return step <= self.first_steps or (self.every_steps > 0 and step % self.every_steps == 0)

    def _say_step(self, trainer: Trainer, module: Any) -> None:
        step, max_steps = trainer.global_step, step_limit(trainer)
        if self._bar:
            self._bar.step(StepFacts.of(trainer, module, recent_steps=self.every_steps))
        elif self.style == "reference":
            elapsed = module.run.clock.elapsed_seconds
            say(reference.step_line(step, max_steps, module.run.train_loss, elapsed))
        else:
            from plgolf.training.logs.console.lines import step_line  # noqa: PLC0415 (Rich)

            show(step_line(StepFacts.of(trainer, module, recent_steps=step - self._said_step)))
        self._said_step = step

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.should_stop and trainer.global_step > self._said_step:
            self._say_step(trainer, pl_module)  # The last step, also if a callback ended the run.
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        known = sum(int(number) for number in batches if number != math.inf)
        self._validating = progress("validation", known, "batches")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if self._validating:
            self._validating.show(batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        score, step = pl_module.run.val_score, trainer.global_step
        if score is None:
            return
        share = share_scored(trainer, score)
        if trainer.state.fn == "validate":
            _say_exactly(score, share)
        else:
            elapsed, max_steps = pl_module.run.clock.elapsed_seconds, step_limit(trainer)
            if self.style == "reference":
                say(reference.validation_line(step, max_steps, score, elapsed, share))
            else:
                from plgolf.training.logs.console.lines import validation_line  # noqa: PLC0415 (Rich)

                show(validation_line(step, max_steps, score, share))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._end_bar()
        result, folder = pl_module.run.result, pl_module.run.result_folder
        if folder is None:
            return
        if self.style == "reference":
            peak, max_steps = peak_memory_mib(pl_module.device), step_limit(trainer)
            lines = reference.end_lines(result, folder, pl_module.gpt, max_steps=max_steps, peak_mib=peak)
            say("\n".join(lines))
        else:
            from plgolf.training.logs.console.panel import end_panel  # noqa: PLC0415 (Rich)

            show(end_panel(result, folder, framed=sys.stdout.isatty()))

    def on_exception(self, *_: Any) -> None:
        self._end_bar()

    def teardown(self, *_: Any, **__: Any) -> None:
        self._end_bar()

    def _end_bar(self) -> None:
        if self._bar:
            take_over(None)
            self._bar.stop()
            self._bar = None


def expand_console_flag(words: list[str]) -> list[str]:
    """Replaces ``--console STYLE`` on a command line by the setting that it stands for.

    >>> expand_console_flag(["fit", "--console", "reference", "--console=bar"])
    ['fit', '--console.style=reference', '--console.style=bar']
    """
    spelled: list[str] = []
    for word in words:
        whole = f"{spelled.pop()}={word}" if spelled and spelled[-1] == "--console" else word
        is_style = whole.startswith("--console=") and whole.partition("=")[2] in get_args(Style)
        spelled.append(whole.replace("=", ".style=") if is_style else whole)
    return spelled


def _say_exactly(score: Score, share: float) -> None:
    partial = " (partial)" if share < 1 else ""
    say(f"val/loss{partial} {score.loss:.8f}\nval/bpb{partial} {score.bpb:.8f}")
    if score.bpb_raw is not None:
        say(f"val/bpb_raw{partial} {score.bpb_raw:.8f}")
    raw = ""
    if score.num_raw_bytes not in (0, score.num_bytes):
        off = 100 * (score.num_bytes / score.num_raw_bytes - 1)
        raw = f" for {score.num_raw_bytes:,} raw ones ({off:+.2f} %)"
    part = f": {percent(share)} of the split" if share < 1 else ""
    say(f"scored {score.num_tokens:,} tokens, {score.num_bytes:,} bytes{raw}{part}")
