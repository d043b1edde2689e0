"""Collects what the matrices of a model get as inputs on some text, for codecs that need it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from plgolf.errors import UserError, whole_number
from plgolf.model import GPT

_TEMPERATURE = 0.8
"""Temperature of text that the model writes, as in the record 2026-03-25."""
Text = tuple[Tensor, Tensor | None]
"""Token ids (sequences, positions), and the borders of documents in a packed row."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Settings of a calibration. The validation split is never used.

    Args:
        text: ``training`` for the training batches after the last step, within ``clock.reserve_seconds``;
            ``model`` for sequences that the model writes, each after a random token (record 2026-03-25).
        batches: number of batches, each of ``data.micro_batch_sequences`` sequences, over all ranks.

    Raises:
        UserError: a setting is out of range.
    """

    text: str = "training"
    batches: int = 16

    def __post_init__(self) -> None:
        if self.text not in ("training", "model"):
            raise UserError(f"text must be training or model, got {self.text!r:.50}")
        whole_number("batches", self.batches, least=1)


class Calibrated(Protocol):
    """What is calibrated: a format of artifacts."""

    @property
    def calibration(self) -> Calibration | None:
        """Settings of the calibration; None if it needs none."""

    def calibrated_names(self, gpt: GPT) -> list[str]:
        """Returns the names of the tensors whose inputs are needed."""

    def calibrated(self, hessians: Mapping[str, Tensor]) -> Any:
        """Returns a copy that knows sums of x x^T over the inputs x of these tensors.

        Args:
            hessians: float32 (columns, columns) by name.
        """


def check_inputs(gpt: GPT, names: Iterable[str]) -> None:
    """Raises a UserError unless each of these weights is multiplied with inputs that can be collected."""
    for name in names:
        _user(gpt, name)


def input_sums(gpt: GPT, names: Sequence[str], texts: Iterable[Text]) -> dict[str, Tensor]:
    """Sums x x^T over all positions, where x is the input of a matrix, also over the uses of a layer.

    Products are float32. Their sums over batches are float64: rounded to float32, they are the same in any
    order, and so on any number of ranks that share the batches.

    Args:
        gpt: the model, which must not be compiled.
        names: names of matrices, or of the embedding of a tied head, whose input is that of the head.
        texts: batches.

    Returns:
        Float64 (columns, columns) by name.

    Raises:
        UserError: the inputs of a weight cannot be collected.
    """
    weights = dict(gpt.named_parameters())
    sums = {
        name: torch.zeros(2 * weights[name].shape[1:], dtype=torch.float64, device=weights[name].device)
        for name in names
    }
    last: list[Tensor] = []

    def add(name: str, x: Tensor) -> None:
        # Queries, keys and values have one input.
        if not last or last[0] is not x:
            flat = x.detach().flatten(0, -2).float()
            last[:] = [x, (flat.mT @ flat).double()]
        sums[name] += last[1]

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_full_float32())
        for name in names:
            hook = _user(gpt, name).register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
            stack.callback(hook.remove)
        for ids, segments in texts:
            gpt(ids.long(), cu_seqlens=segments)
            last.clear()
    return sums


def _user(gpt: GPT, name: str) -> nn.Module:
    """Returns the module whose first argument a weight is multiplied with."""
    module: Any = gpt.get_submodule(name.rpartition(".")[0])
    if module is gpt.embedding and gpt.head.proj is None:
        return gpt.head
    if not (isinstance(module, nn.Linear) and name.endswith(".weight")):
        raise UserError(f"quantize must have a codec without calibration for {name}, which has no inputs")
    return module


@contextmanager
def _full_float32() -> Iterator[None]:
    """Keeps products of float32 from being computed in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def written_text(gpt: GPT, index: int, *, sequences: int, length: int) -> Text:
    """Returns a batch of text that the model writes, the same for the same weights and index.

    Args:
        gpt: the model.
        index: number of the batch, the seed of its random numbers.
        sequences: number of sequences.
        length: tokens in each.
    """
    random = torch.Generator().manual_seed(index)
    ids = torch.randint(gpt.config.vocab_size, (sequences, 1), generator=random)
    device = gpt.embedding.weight.device
    with torch.no_grad():
        memory = gpt.memory(length, batch=sequences)
        while ids.size(1) < length:
            logits = gpt.next_logits(ids[:, -1:].to(device), memory).cpu().double()
            drawn = (logits / _TEMPERATURE).softmax(1).multinomial(1, generator=random)
            ids = torch.cat((ids, drawn), 1)
    return ids.to(device), None
