"""Groups of seeds against the first: means, differences, tests and the challenge's bar."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plgolf.report.groups import Group
from plgolf.report.statistics import REQUIRED_NATS, REQUIRED_P, Welch, mean, standard_deviation, welch

Verdict = Literal["reference", "pass", "fail", "not judged"]


@dataclass(frozen=True)
class Row:
    """A group against the first. Losses are nats a token, of the file on disk.

    Args:
        name: of the group.
        count: finished runs.
        loss: mean; None of no finished run.
        loss_sd: over seeds; None of fewer than two.
        bpb: mean bits per byte.
        bpb_sd: over seeds.
        improvement: nats by which the loss is lower than the first group's; None where they are of different
            tokens.
        better: the test that it is lower at all.
        required: the test that it is lower by more than the challenge requires.
        verdict: whether it takes the challenge's bar.
        reason: for a verdict other than a plain one.
    """

    name: str
    count: int
    loss: float | None
    loss_sd: float | None
    bpb: float | None
    bpb_sd: float | None
    improvement: float | None
    better: Welch | None
    required: Welch | None
    verdict: Verdict
    reason: str = ""

    @property
    def bar(self) -> str:
        """The verdict and its reason."""
        return f"{self.verdict} ({self.reason})" if self.reason else self.verdict


def compare(groups: Sequence[Group]) -> list[Row]:
    """Compares groups of seeds with the first.

    The bar is the challenge's, https://github.com/openai/parameter-golf: runs must show at p < 0.01 that they
    achieve an improvement of 0.005 nats. So the hypothesis to reject is an improvement of at most 0.005, in a
    one-sided Welch's test of the losses after the round trip.

    Args:
        groups: at least one.

    Returns:
        A row for each, in their order.
    """
    return [_row(groups[0], group) for group in groups]


def _row(reference: Group, group: Group) -> Row:
    losses, bpbs = _losses(group), [result.roundtrip_val_bpb for result in group.results]
    obstacle = "" if group is reference else _obstacle(reference, group)
    comparable = group is not reference and not obstacle
    better = required = None
    if comparable:
        better = welch(_losses(reference), losses)
        required = welch(_losses(reference), losses, margin=REQUIRED_NATS)
    verdict: Verdict = "reference" if group is reference else "not judged"
    reason = obstacle
    if required is not None:
        verdict = "pass" if required.p < REQUIRED_P else "fail"
        if not all(result.within_budget for result in group.results):
            verdict, reason = "fail", "over the byte budget"
    elif comparable:
        few = min(len(losses), len(_losses(reference))) < 2
        reason = "needs at least 2 seeds" if few else "all seeds of a group gave the same loss"
    return Row(
        name=group.name,
        count=len(losses),
        loss=mean(losses) if losses else None,
        loss_sd=standard_deviation(losses),
        bpb=mean(bpbs) if bpbs else None,
        bpb_sd=standard_deviation(bpbs),
        improvement=mean(_losses(reference)) - mean(losses) if comparable else None,
        better=better,
        required=required,
        verdict=verdict,
        reason=reason,
    )


def _losses(group: Group) -> list[float]:
    return [result.roundtrip_val_loss for result in group.results]


def _obstacle(reference: Group, group: Group) -> str:
    """Says why two groups' losses cannot be compared, if they cannot."""
    if not group.results or not reference.results:
        return "no run has finished"
    scored = {(r.val_tokens, r.val_bytes) for r in (*reference.results, *group.results)}
    if len(scored) > 1:
        return "scored on other validation tokens"
    return ""


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Returns the comparison as text: a heading, then a line for each row."""
    heading = [
        "group",
        "seeds",
        "loss",
        "sd",
        "bpb",
        "sd",
        "improvement",
        "p better",
        f"p {REQUIRED_NATS} better",
    ]
    return [
        [*heading, "bar"],
        *(
            [
                row.name,
                str(row.count),
                _number(row.loss),
                _number(row.loss_sd),
                _number(row.bpb),
                _number(row.bpb_sd),
                "-" if row.improvement is None else f"{row.improvement:+.4f}",
                probability(row.better),
                probability(row.required),
                row.bar,
            ]
            for row in rows
        ),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def probability(test: Welch | None) -> str:
    """Returns a p-value as people write it, a dash where there was no test."""
    if test is None:
        return "-"
    if test.p < 0.0001:
        return "< 0.0001"
    return "> 0.9999" if test.p > 0.9999 else f"{test.p:.4f}"
