"""The order of evaluators that take documents in another order than the text, to batch them by length."""

from bisect import bisect
from typing import Any

from numpy.typing import NDArray

from plgolf.errors import UserError
from plgolf.evaluate.targets import InOrder, Targets


class ByDocument(InOrder):
    """Documents in any order, also in turn; the targets of each ascending.

    Args:
        targets: the text, and the range of targets to score.
    """

    def __init__(self, targets: Targets) -> None:
        super().__init__(targets)
        self._edges: list[int] = []
        """First and end of each range of scored targets, ascending; neighbours are joined."""

    def is_complete(self) -> bool:
        return self._edges == [self.targets.first, self.targets.last]

    def contains(self, first: int, last: int) -> bool:
        """Returns True if all of these targets have been scored."""
        index = bisect(self._edges, first)
        return index % 2 == 1 and last <= self._edges[index]

    def mark(self, first: int, last: int) -> None:
        targets, edges = self.targets, self._edges
        if not targets.first <= first < last <= targets.last:
            own = f"{targets.first} to {targets.last - 1}"
            raise UserError(f"targets must be {own}, got {first} to {last - 1}")
        index = bisect(edges, first)
        following = edges[index] if index < len(edges) else None
        if index % 2 or (following is not None and following < last):
            raise UserError(f"targets must be scored once, got {first} to {last - 1} again")
        # A later one is scored already: a document must start between the two.
        if following is not None and targets.bos_id not in targets.read(last + 1, following - last + 1):
            raise UserError(f"targets must be scored in order, got {first} to {last - 1} after {following}")
        edges[index:index] = first, last
        for border in (index + 1, index - 1):  # The later one first, whose place the other would change.
            if border >= 0 and edges[border : border + 1] == edges[border + 1 : border + 2]:
                del edges[border : border + 2]


def tokens_to_learn(targets: Targets, first: int, last: int) -> NDArray[Any]:
    """Returns targets ``first`` to ``last`` - 1 and the token before them, to adapt a model on.

    Args:
        targets: those that an evaluator with the order ``ByDocument`` was given.
        first: first target to learn.
        last: end of the targets to learn.

    Raises:
        UserError: some of them have not been scored.
    """
    order = targets.scored
    if not isinstance(order, ByDocument) or not order.contains(first, last):
        raise UserError(f"targets must be scored before they are learned, got {first} to {last - 1}")
    return targets.read(first, last - first + 1)
