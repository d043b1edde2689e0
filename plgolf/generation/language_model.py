"""A model and its tokenizer, loaded from an artifact."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plgolf.artifact import Artifact, read_artifact
from plgolf.data.tokenizer import TextStream, Tokenizer, load_tokenizer, tokenizer_of
from plgolf.data.tokenizer.files import FILE_NAMES
from plgolf.errors import UserError, at_least, whole_number
from plgolf.evaluate.documents import TextScore, score_documents, utf8
from plgolf.generation.decoding import generate_ids
from plgolf.generation.sampling import Sampling, draw, probabilities
from plgolf.model import GPT, GPTConfig
from plgolf.model.weights import copied

_MAX_SEED = 2**63
_MAX_SEQ_LEN = 2**20
"""Keys and values of this number of tokens take some GB; an artifact may name any number."""


class LanguageModel:
    """Generates text and scores it.

    Args:
        gpt: the model; it is not changed.
        tokenizer: the tokenizer that it was trained with; None if only ``gpt`` is used.
        seq_len: largest number of tokens that the model sees, as in training; None if only ``gpt`` is used.

    Raises:
        UserError: the tokenizer's vocabulary is not the model's, or ``seq_len`` is out of range.
    """

    def __init__(self, gpt: GPT, tokenizer: Tokenizer | None = None, seq_len: int | None = None) -> None:
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            raise UserError(f"tokenizer must be a plgolf.data.tokenizer.Tokenizer, got {tokenizer!r:.100}")
        if tokenizer is not None and tokenizer.vocab_size != gpt.config.vocab_size:
            raise UserError(
                f"the tokenizer must have the {gpt.config.vocab_size} ids of the model, "
                f"got {tokenizer.vocab_size}"
            )
        if seq_len is not None:
            _check_range("seq_len", seq_len, 1, _MAX_SEQ_LEN)
        self.gpt, self.tokenizer, self.seq_len = gpt, tokenizer, seq_len

    def generate(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 256,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """Continues a text up to the end of the document.

        Args:
            prompt: the beginning of the document; may be empty.
            max_tokens: largest number of new tokens.
            temperature: divides the logits; 0 always takes the most likely token.
            top_k: samples from this number of most likely tokens; None for all.
            top_p: samples from the smallest set of tokens with this total probability; 1 for all.
            seed: seed of the random numbers, from 0 to 2**63 - 1. The same seed, prompt, settings, artifact,
                PyTorch, kind of processor and number of threads give the same text.

        Returns:
            The text after the prompt.

        Raises:
            UserError: an argument has another type or is out of range, or no tokenizer or length is known.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        return "".join(self.stream(prompt, sampling, max_tokens=max_tokens, seed=seed))

    def stream(
        self,
        prompt: str = "",
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        *,
        max_tokens: int = 256,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yields the text of ``generate`` in pieces of whole characters, as soon as each is generated."""
        tokenizer, seq_len = self._ready()
        if not isinstance(sampling, Sampling):
            raise UserError(f"sampling must be a Sampling, got {sampling!r:.100}")
        whole_number("max_tokens", max_tokens)
        at_least("max_tokens", max_tokens, 1)
        _check_range("seed", seed, 0, _MAX_SEED - 1)
        utf8(prompt, name="prompt")
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt).tolist()]
        generator = torch.Generator().manual_seed(seed)

        def choose(logits: Tensor) -> int:
            return draw(probabilities(logits, sampling), generator)

        new = generate_ids(self._fast_gpt, ids, choose, seq_len=seq_len, max_tokens=max_tokens)
        return _texts(tokenizer, ids, new)

    def score(self, text: str | Iterable[str]) -> TextScore:
        """Scores a document, or an iterable of documents together, as validation does.

        Raises:
            UserError: there is no text, an item is not a Unicode string, or no tokenizer or length is known.
        """
        tokenizer, seq_len = self._ready()
        documents = [text] if isinstance(text, str) else text
        return score_documents(self.gpt, tokenizer, documents, seq_len=seq_len)

    def _ready(self) -> tuple[Tokenizer, int]:
        if self.tokenizer is None:
            raise UserError(
                "tokenizer must be given: the artifact carries none, and there is no "
                f"{' or '.join(FILE_NAMES)} beside it"
            )
        if self.seq_len is None:
            raise UserError("seq_len must be given: the artifact does not have the length of its training")
        return self.tokenizer, self.seq_len

    @cached_property
    def _fast_gpt(self) -> GPT:
        """The model in float32, which is fastest on most processors for one token at a time."""
        if self.gpt.config.compute_dtype == "float32":
            return self.gpt
        return copied(self.gpt, in_float32=True).to(self.gpt.embedding.weight.device)


def _texts(tokenizer: Tokenizer, prompt: Sequence[int], new: Iterator[int]) -> Iterator[str]:
    stream = TextStream(tokenizer)
    for index in prompt:  # Tokenizers drop the first space of a text, which one after the prompt is not.
        stream.push(index)
    for index in itertools.takewhile(lambda index: index != tokenizer.bos_id, new):
        if text := stream.push(index):
            yield text
    if rest := stream.flush():
        yield rest


def _check_range(name: str, value: Any, least: int, most: int) -> None:
    whole_number(name, value)
    if not least <= value <= most:
        raise UserError(f"{name} must be from {least} to {most}, got {value}")


def load_artifact(
    path: str | Path,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    seq_len: int | None = None,
    config: GPTConfig | None = None,
) -> LanguageModel:
    """Loads a model and its tokenizer; never runs code from the file.

    Args:
        path: an artifact of plgolf or of the reference program.
        tokenizer: the tokenizer or its file; by default the one in the artifact, else the ``tokenizer.model``
            or ``tokenizer.json`` beside it, if there is one.
        seq_len: largest number of tokens that the model sees; by default that of its training, which
            artifacts of the reference program do not have.
        config: the architecture of an artifact without one; see ``plgolf.artifact.load_gpt``.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        UserError: a file cannot be read or is malformed, the tokenizer is not the model's, or an argument
            has another type or contradicts the file.
    """
    path = _checked_path("path", path)
    if config is not None and not isinstance(config, GPTConfig):
        raise UserError(f"config must be a GPTConfig, got {type(config).__name__}")
    artifact = read_artifact(path)
    found, place = _find_tokenizer(path, artifact, tokenizer)
    if found is not None and artifact.tokenizer_sha256 not in (None, found.sha256):
        raise UserError(
            f"{place} must be the one that {path} was trained with, sha256 {artifact.tokenizer_sha256}, "
            f"got {found.sha256}"
        )
    seq_len = artifact.seq_len if seq_len is None else seq_len
    try:
        return LanguageModel(artifact.gpt(config), found, seq_len)
    except UserError as error:
        raise UserError(f"{path}: {error}{f' ({place})' if found else ''}") from error


def _checked_path(name: str, path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise UserError(f"{name} must be the path of a file, got {path!r:.100}") from None


def _find_tokenizer(
    path: Path, artifact: Artifact, given: Tokenizer | str | Path | None
) -> tuple[Tokenizer | None, str]:
    """Returns the tokenizer, and its name in messages."""
    if isinstance(given, Tokenizer):
        return given, "the tokenizer"
    if given is not None:
        return load_tokenizer(_checked_path("tokenizer", given)), str(given)
    if artifact.tokenizer is not None:
        try:
            return tokenizer_of(artifact.tokenizer), f"the tokenizer in {path}"
        except UserError as error:
            raise UserError(f"{path}: its tokenizer {error}") from error
    beside = [path.with_name(name) for name in FILE_NAMES if path.with_name(name).is_file()]
    tokenizers = [(load_tokenizer(file), str(file)) for file in beside]
    tokenizers.sort(key=lambda one: one[0].sha256 != artifact.tokenizer_sha256)
    return tokenizers[0] if tokenizers else (None, "")
