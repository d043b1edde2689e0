"""Tokens one after the other, each from all before it that the model can see."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from plgolf.model import GPT


class Context:
    """The tokens that a model sees, never more than it was trained on.

    When they are as many as that, the last half of them is read anew from position 0, in one forward: the
    model then sees ``seq_len // 2`` to ``seq_len`` tokens of what comes before, and a token costs the same on
    average however long the text is.

    Args:
        gpt: the model.
        seq_len: the most that it sees at once.
        expected: tokens that there will be in all, for which memory is allocated.
    """

    def __init__(self, gpt: GPT, *, seq_len: int, expected: int) -> None:
        self._gpt, self._seq_len = gpt, seq_len
        self._cache = gpt.cache(min(seq_len, expected))
        self._seen: list[int] = []

    def next_logits(self, ids: Sequence[int]) -> Tensor:
        """Appends tokens, at least one, and scores what may follow: float32 (vocab,)."""
        if len(self._seen) + len(ids) <= self._seq_len:
            new = list(ids)
        else:
            # A prompt that is too long keeps all that fits; a text that grew keeps half, to grow on.
            room = self._seq_len if not self._seen else max(self._seq_len // 2, 1)
            new = [*self._seen, *ids][-room:]
            self._seen = []
            self._cache.clear()
        self._seen += new
        device = self._gpt.embedding.weight.device
        return self._gpt.next_logits(torch.tensor([new], device=device), self._cache)[0]


def generate_ids(
    gpt: GPT,
    prompt: Sequence[int],
    choose: Callable[[Tensor], int],
    *,
    seq_len: int,
    max_tokens: int,
) -> Iterator[int]:
    """Continues a text.

    Args:
        gpt: the model.
        prompt: the text's ids, at least one.
        choose: picks the next id by its logits, float32 (vocab,).
        seq_len: the most tokens that the model sees at once.
        max_tokens: how many to make.

    Yields:
        The new ids, each as soon as it is chosen.
    """
    context = Context(gpt, seq_len=seq_len, expected=len(prompt) + max_tokens)
    new: Sequence[int] = prompt
    for _ in range(max_tokens):
        with torch.inference_mode():
            index = choose(context.next_logits(new))
        yield index
        new = [index]
