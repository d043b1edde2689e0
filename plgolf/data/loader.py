"""Batches prepared ahead of need."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class BatchLoader(Generic[T]):
    """Iterates over batches, the next few of which a background thread prepares.

    It has a length because Lightning reads one batch ahead of an iterable without one.

    Args:
        make: returns the batch of a number.
        stop: number of batches.
        start: returns the number of the first batch, at each new iteration; a resumed run starts later.
    """

    depth = 3

    def __init__(self, make: Callable[[int], T], stop: int, *, start: Callable[[], int] = lambda: 0) -> None:
        self.make, self.stop, self.start = make, stop, start

    def __len__(self) -> int:
        return self.stop - self.start()

    def state_dict(self) -> dict[str, int]:
        """Returns an empty state: ``start`` gives the position. Lightning warns about loaders without one."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Does nothing."""

    def __iter__(self) -> Iterator[T]:
        pending: deque[Future[T]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            try:
                for index in range(self.start(), self.stop):
                    pending.append(pool.submit(self.make, index))
                    if len(pending) > self.depth:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                # An iteration that ends early waits for the batch being made, not for those queued behind it.
                pool.shutdown(wait=False, cancel_futures=True)
