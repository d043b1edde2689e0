"""Batches ahead of need."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from plgolf.data.stream import Batch


class BatchLoader:
    """Iterates over batches, the next few prepared by a background thread while the device works.

    It has a length because Lightning reads one batch ahead of an iterable without one.

    Args:
        make: batch by number.
        stop: batches in all.
        start: called at each new iteration, the number of its first batch; a resumed run starts later.
        pin: copies batches into page-locked memory, from where a GPU can fetch them by itself.
    """

    depth = 3

    def __init__(
        self,
        make: Callable[[int], Batch],
        stop: int,
        *,
        start: Callable[[], int] = lambda: 0,
        pin: bool = False,
    ) -> None:
        self.make, self.stop, self.start, self.pin = make, stop, start, pin

    def __len__(self) -> int:
        return self.stop - self.start()

    def state_dict(self) -> dict[str, int]:
        """Returns nothing: where a resumed run goes on is ``start``'s to say. Lightning asks all the same."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Takes nothing."""

    def _prepare(self, index: int) -> Batch:
        batch = self.make(index)
        return batch.pin_memory() if self.pin else batch

    def __iter__(self) -> Iterator[Batch]:
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            try:
                for index in range(self.start(), self.stop):
                    pending.append(pool.submit(self._prepare, index))
                    if len(pending) > self.depth:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                # Whoever ends early waits for the batch in the making, and not for those behind it.
                pool.shutdown(wait=False, cancel_futures=True)
