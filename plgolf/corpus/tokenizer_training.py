"""Tokenizer training: SentencePiece BPE or unigram in two presets."""

import io
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sentencepiece import SentencePieceNormalizer, SentencePieceTrainer

from plgolf.config import config_to_dict
from plgolf.data.shards import MAX_VOCAB_SIZE
from plgolf.data.tokenizer import (
    SPACE,
    ByteTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_of,
)
from plgolf.errors import UserError, at_least

_PRESETS: dict[str, dict[str, Any]] = {
    # The text stays as it is; line breaks and indentation are ordinary characters.
    "lossless": {
        "character_coverage": 0.9999,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        # Even if the text has no space: without a piece, a space would be decoded as its mark.
        "required_chars": SPACE,
        "max_sentence_length": 2**30,
    },
    # The options of the challenge's exporter, and SentencePiece's own limit of the length of a document.
    "challenge": {
        "character_coverage": 0.999,
        "normalization_rule_name": "nmt_nfkc",
        "hard_vocab_limit": False,
        "max_sentence_length": 4192,
    },
}
_TRANSFORMED = {"caseops": "lossless", "caseops_challenge": "challenge"}
"""Presets with CaseOps, and the preset of the tokenizer behind it."""
_COMMON: dict[str, Any] = {
    "byte_fallback": True,
    "split_digits": True,
    "add_dummy_prefix": False,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    # Constant, because the result of unigram training depends on it.
    "num_threads": 16,
    "minloglevel": 2,
}


@dataclass(frozen=True)
class TokenizerRecipe:
    """Settings of the tokenizer of a dataset.

    Args:
        tokenizer: ready tokenizer; null trains one. A SentencePiece .model, a tokenizer.json of byte-level
            BPE, a .tiktoken file, or the name of a tiktoken encoding, such as gpt2 (docs/data.md).
        model_type: type of the model; byte needs no training.
        preset: lossless decodes every text exactly; challenge has the options of the challenge's own
            tokenizers, which normalise. caseops and caseops_challenge are the same with capitals as operators
            before lower-case words (docs/data.md).
        vocab_size: number of pieces, with the 256 bytes and 4 special ones.
        sample_bytes: largest number of bytes to train on, drawn from the training documents.
    """

    tokenizer: str | None = None
    model_type: Literal["bpe", "unigram", "byte"] = "bpe"
    preset: Literal["lossless", "challenge", "caseops", "caseops_challenge"] = "lossless"
    vocab_size: int = 1024
    sample_bytes: int = 20_000_000

    def __post_init__(self) -> None:
        at_least("sample_bytes", self.sample_bytes, 1)
        if not 1 <= self.vocab_size <= MAX_VOCAB_SIZE:
            raise UserError(f"vocab_size must be from 1 to {MAX_VOCAB_SIZE}, got {self.vocab_size}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in self.used() and value != field.default:
                ready = "tokenizer" if self.tokenizer is not None else "model_type byte"
                rule = f"must be left out with {ready}, which is not trained"
                if value in _TRANSFORMED:
                    rule += " to reserve the operators U+E001 to U+E004 as pieces; one that does has CaseOps"
                raise UserError(f"{field.name} {rule}, got {value}")

    def ready(self) -> Tokenizer | None:
        """Returns the tokenizer, or None if it has to be trained.

        Raises:
            UserError: its file is damaged, or it has more ids than shards can hold.
        """
        if self.tokenizer is not None:
            tokenizer = load_tokenizer(Path(self.tokenizer))
            if (ids := tokenizer.vocab_size) > MAX_VOCAB_SIZE:
                raise UserError(
                    f"{self.tokenizer}: must have at most {MAX_VOCAB_SIZE} ids for shards, got {ids}"
                )
            _check_space(tokenizer, self.tokenizer)
            return tokenizer
        return ByteTokenizer() if self.model_type == "byte" else None

    @property
    def longest_bytes(self) -> int | None:
        """Bytes of the longest document that SentencePiece trains on; None without a limit."""
        return self.options.get("max_sentence_length")

    def used(self) -> dict[str, Any]:
        """Returns the settings that affect the result."""
        if self.tokenizer is not None:
            return {"tokenizer": self.tokenizer}
        if self.model_type == "byte":
            return {"model_type": "byte"}
        return {key: value for key, value in config_to_dict(self).items() if key != "tokenizer"}

    def normalizer(self) -> Callable[[str], str]:
        """Returns the ``normalize`` method of the tokenizer that would be trained."""
        if self.is_lossless:
            return str
        normalizer = SentencePieceNormalizer(
            rule_name=self.options["normalization_rule_name"],
            add_dummy_prefix=_COMMON["add_dummy_prefix"],
            remove_extra_whitespaces=True,
        )
        transform, _ = self.transform()
        return lambda text: normalizer.normalize(transform(text))

    @property
    def options(self) -> dict[str, Any]:
        """Options of the trainer that depend on the preset."""
        return _PRESETS[_TRANSFORMED.get(self.preset, self.preset)]

    @property
    def is_lossless(self) -> bool:
        """True if the tokenizer that would be trained decodes every text exactly."""
        return bool(self.options["normalization_rule_name"] == "identity")

    def transform(self) -> tuple[Callable[[str], str], str]:
        """Returns the change of text before the tokenizer, and the characters that it adds to a text."""
        if self.preset not in _TRANSFORMED:
            return str, ""
        # Not at the top: the packed code of a run has it if the run has imported it.
        from plgolf.data.tokenizer.case_ops import OPERATORS, transformed  # noqa: PLC0415

        return transformed, OPERATORS


def train_tokenizer(documents: Iterable[str], recipe: TokenizerRecipe) -> Tokenizer:
    """Trains a SentencePiece model on training documents; others would improve the score unfairly.

    Raises:
        UserError: the vocabulary is too small or too large for the text.
    """
    model = io.BytesIO()
    texts = _cleaned(documents) if recipe.is_lossless else _stripped(documents)
    transform, operators = recipe.transform()
    try:
        _interruptibly(
            SentencePieceTrainer.train,
            sentence_iterator=map(transform, texts),
            model_writer=model,
            model_type=recipe.model_type,
            vocab_size=recipe.vocab_size,
            **_COMMON,
            user_defined_symbols=list(operators),
            **recipe.options,
        )
    except RuntimeError as error:
        raise _unsuitable(recipe.vocab_size, " ".join(str(error).split())) from error
    tokenizer = tokenizer_of(model.getvalue())
    if tokenizer.vocab_size < recipe.vocab_size:  # The challenge preset makes as many as it can.
        raise _unsuitable(recipe.vocab_size, f"<= {tokenizer.vocab_size}")
    _check_space(tokenizer, "the trained tokenizer")
    assert tokenizer.lossless == recipe.is_lossless
    return tokenizer


def _unsuitable(vocab_size: int, reason: str) -> UserError:
    """Returns the error of a vocabulary that does not suit the text, from SentencePiece's own message."""
    if least := re.search(r"vs (\d+)", reason):
        rule = f"must be at least {least[1]} for the different characters of this text"
    elif most := re.search(r"<= (\d+)", reason):
        rule = f"must be at most {most[1]} for so little text"
    else:
        return UserError(f"vocab_size {vocab_size} does not suit the text: {reason.rsplit('] ', 1)[-1]}")
    return UserError(f"vocab_size {rule}, got {vocab_size}")


def _check_space(tokenizer: Tokenizer, name: str) -> None:
    if not tokenizer.has_space:
        rule = "must have a piece for a single space, which would count three bytes without it"
        raise UserError(f"{name}: {rule}")


def _interruptibly(work: Callable[..., Any], **options: Any) -> None:
    """Calls a function that blocks signals in a thread, so that Ctrl-C does not wait for it."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(**options))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="train tokenizer", daemon=True).start()
    outcome.result()


def _cleaned(documents: Iterable[str]) -> Iterator[str]:
    # NUL would end a piece, and the trainer skips sentences with U+2585.
    table = str.maketrans({"\0": " ", "\u2585": " "})
    return (document.translate(table) for document in documents)


def _stripped(documents: Iterable[str]) -> Iterator[str]:
    texts = (document.replace("\0", " ").strip() for document in documents)
    return (text for text in texts if text)
