"""Generates tokens one at a time, each from the earlier tokens that fit the context."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from plgolf.model import GPT


class Context:
    """The tokens that a model sees, at most ``seq_len``.

    When the context is full, its last half is computed again from position 0 in one forward pass. The model
    then sees from ``seq_len // 2`` to ``seq_len`` tokens, and the mean cost of a token does not grow.

    Args:
        gpt: the model.
        seq_len: largest number of tokens that it sees.
        expected: number of tokens in the whole text, for which memory is allocated.
    """

    def __init__(self, gpt: GPT, *, seq_len: int, expected: int) -> None:
        self._gpt, self._seq_len = gpt, seq_len
        # With rope_length the capacity sets the rotary base, which must be that of training.
        fixed = gpt.config.attention.rope_length is None
        self._memory = gpt.memory(min(seq_len, expected) if fixed else seq_len)
        self._seen: list[int] = []

    def next_logits(self, ids: Sequence[int]) -> Tensor:
        """Appends tokens, at least one, and returns the logits of the next, float32 (vocab,)."""
        new = list(ids)
        if len(self._seen) + len(new) > self._seq_len:
            # A long prompt keeps all that fits; a text that grew keeps half, to leave room.
            room = self._seq_len if not self._seen else max(self._seq_len // 2, 1)
            new, self._seen = [*self._seen, *new][-room:], []
            self._memory.clear()
        self._seen += new
        device = self._gpt.embedding.weight.device
        return self._gpt.next_logits(torch.tensor([new], device=device), self._memory)[0]


def generate_ids(
    gpt: GPT, prompt: Sequence[int], choose: Callable[[Tensor], int], *, seq_len: int, max_tokens: int
) -> Iterator[int]:
    """Continues a text, and yields each new id as soon as it is chosen.

    Args:
        gpt: the model.
        prompt: the text's ids, at least one.
        choose: picks the next id from logits, float32 (vocab,).
        seq_len: largest number of tokens that the model sees.
        max_tokens: number of new tokens.
    """
    context = Context(gpt, seq_len=seq_len, expected=len(prompt) + max_tokens)
    new: Sequence[int] = prompt
    for _ in range(max_tokens):
        with torch.inference_mode():
            index = choose(context.next_logits(new))
        yield index
        new = [index]
