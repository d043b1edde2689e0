"""Renders the progress of a run as aligned lines."""

from rich.text import Text

from plgolf.console import clock_time
from plgolf.evaluate.score import Score
from plgolf.training.logs.console.facts import StepFacts
from plgolf.training.logs.metrics_row import percent


def step_line(facts: StepFacts) -> Text:
    """Renders the progress after a step, in columns wide enough for the largest number to come."""
    line = _place(facts.step, facts.max_steps)
    line.append(f"  loss {facts.loss:.4f}", "cyan")
    line.append(f"  {facts.recent_ms:8.1f} ms/step  {_short(facts.tokens_per_second):>6} tokens/s")
    budget = "" if facts.max_seconds is None else f"/{facts.max_seconds:g}"
    width = max(len(budget) + 1, 6)
    line.append(f"  {facts.elapsed_seconds:{width}.1f}{budget} s")
    if facts.seconds_left is not None:
        line.append(f"  {clock_time(facts.seconds_left):>5} left", "yellow")
    line.append(f"  lr x{facts.lr_factor:.3f}  {facts.peak_mib:,} MiB", "dim")
    if facts.flops_utilisation is not None:
        line.append(f"  mfu {100 * facts.flops_utilisation:4.1f} %", "dim")
    return line


def validation_line(step: int, max_steps: int | None, score: Score, share: float) -> Text:
    """Renders the result of a validation during a run, which is of a share of the split."""
    line = _place(step, max_steps)
    line.append(f"  val/loss {score.loss:.4f}  val/bpb {score.bpb:.4f}", "bold green")
    if score.bpb_raw is not None and score.num_raw_bytes != score.num_bytes:
        line.append(f"  val/bpb_raw {score.bpb_raw:.4f}", "green")
    if share < 1:
        line.append(f"  (partial: {percent(share)} of the split)", "yellow")
    return line


def _place(step: int, max_steps: int | None) -> Text:
    width, of = (6, "") if max_steps is None else (len(str(max_steps)), f"/{max_steps}")
    return Text.assemble((f"step {step:>{width}}{of}", "bold"))


def _short(number: float) -> str:
    """Writes a number in at most six letters.

    >>> _short(812.3), _short(56_789), _short(5_500_123)
    ('812', '56.8k', '5.50M')
    """
    if number < 1000:
        return f"{number:.0f}"
    if number < 999_950:
        return f"{number / 1e3:.1f}k"
    return f"{number / 1e6:.2f}M"
