"""Comparison of groups of seeds with the first group: means, differences, tests and the challenge's bar."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from plgolf.report.groups import Group
from plgolf.report.statistics import REQUIRED_NATS, REQUIRED_P, Welch, mean, standard_deviation, welch

Verdict = Literal["reference", "pass", "fail", "not judged"]


@dataclass(frozen=True)
class Row:
    """A group compared with the first.

    Args:
        improvement: mean loss of the first group minus this one's, in nats; None if they cannot be compared.
        better: test that the loss is lower at all.
        required: test that the loss is lower by more than the challenge requires.
        verdict: result at the challenge's bar.
    """

    group: Group
    improvement: float | None = None
    better: Welch | None = None
    required: Welch | None = None
    verdict: Verdict = "not judged"
    reason: str = ""

    @property
    def bar(self) -> str:
        """The verdict and its reason."""
        return f"{self.verdict} ({self.reason})" if self.reason else self.verdict


def compare(groups: Sequence[Group]) -> list[Row]:
    """Compares groups of seeds with the first; returns a row for each group.

    The bar is the challenge's, https://github.com/openai/parameter-golf: runs must show at p < 0.01 that
    they improve the loss by 0.005 nats. The hypothesis to reject is an improvement of at most 0.005, in a
    one-sided Welch's test of the losses after the round trip.
    """
    return [_row(groups[0], group) for group in groups]


def _row(reference: Group, group: Group) -> Row:
    if group is reference:
        return Row(group, verdict="reference")
    before, losses = reference.losses, group.losses
    if not before or not losses:
        return Row(group, reason="no finished run")
    if len({(result.val_tokens, result.val_bytes) for result in reference.results + group.results}) > 1:
        return Row(group, reason="scored on other validation tokens")
    improvement = mean(before) - mean(losses)
    better, required = welch(before, losses), welch(before, losses, margin=REQUIRED_NATS)
    if required is None:
        few = min(len(before), len(losses)) < 2
        reason = "needs at least 2 seeds" if few else "all seeds of a group gave the same loss"
        return Row(group, improvement, reason=reason)
    if not all(result.within_budget for result in group.results):
        return Row(group, improvement, better, required, "fail", "over the byte budget")
    return Row(group, improvement, better, required, "pass" if required.p < REQUIRED_P else "fail")


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Returns the comparison as text: a heading, then a line for each row."""
    return [[name for name, _ in _COLUMNS], *([text(row) for _, text in _COLUMNS] for row in rows)]


def decimals(value: float | None, sign: str = "") -> str:
    """Returns a score with four decimals, a dash for None."""
    return "-" if value is None else f"{value:{sign}.4f}"


def _probability(test: Welch | None) -> str:
    if test is None or 0.0001 <= test.p <= 0.9999:
        return decimals(test.p if test else None)
    return "< 0.0001" if test.p < 0.5 else "> 0.9999"


_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("group", lambda row: row.group.name),
    ("seeds", lambda row: str(len(row.group.losses))),
    ("loss", lambda row: decimals(mean(row.group.losses) if row.group.losses else None)),
    ("sd", lambda row: decimals(standard_deviation(row.group.losses))),
    ("bpb", lambda row: decimals(mean(row.group.bpbs) if row.group.bpbs else None)),
    ("sd", lambda row: decimals(standard_deviation(row.group.bpbs))),
    ("improvement", lambda row: decimals(row.improvement, "+")),
    ("p better", lambda row: _probability(row.better)),
    (f"p {REQUIRED_NATS} better", lambda row: _probability(row.required)),
    ("bar", lambda row: row.bar),
)
