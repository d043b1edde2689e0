"""Training a tokenizer: SentencePiece BPE and unigram in two presets; the byte tokenizer needs none."""

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sentencepiece import SentencePieceNormalizer, SentencePieceTrainer

from plgolf.config import config_to_dict
from plgolf.data.shards import MAX_VOCAB_SIZE
from plgolf.data.tokenizer import SPACE, ByteTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer
from plgolf.errors import UserError

_PRESETS: dict[str, dict[str, Any]] = {
    # Nothing is normalised, added or removed, and newlines and indentation are ordinary characters.
    "lossless": {
        "character_coverage": 0.9999,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        # Also where the text has none: a space without a piece would come back as its mark.
        "required_chars": SPACE,
        "max_sentence_length": 2**30,
    },
    # The options of the challenge's exporter, and SentencePiece's default for the longest document.
    "challenge": {
        "character_coverage": 0.999,
        "normalization_rule_name": "nmt_nfkc",
        "hard_vocab_limit": False,
        "max_sentence_length": 4192,
    },
}
_COMMON: dict[str, Any] = {
    "byte_fallback": True,
    "split_digits": True,
    "add_dummy_prefix": False,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    # The sums of unigram training depend on their number, so it is the same on every machine.
    "num_threads": 16,
    "minloglevel": 2,
}


@dataclass(frozen=True)
class TokenizerRecipe:
    """Which tokenizer a dataset gets.

    Args:
        tokenizer: file of one to use as it is; null trains one. A SentencePiece .model, or the .json of the
            byte tokenizer.
        model_type: what to train; byte needs no training.
        preset: lossless gives back every text exactly; challenge has the options of the challenge's own
            tokenizers, which normalise.
        vocab_size: pieces, the 256 bytes and 4 special ones included.
        sample_bytes: most bytes of text that it is trained on; a sample of the training documents.
    """

    tokenizer: str | None = None
    model_type: Literal["bpe", "unigram", "byte"] = "bpe"
    preset: Literal["lossless", "challenge"] = "lossless"
    vocab_size: int = 1024
    sample_bytes: int = 20_000_000

    def __post_init__(self) -> None:
        if self.sample_bytes < 1:
            raise UserError(f"sample_bytes must be at least 1, got {self.sample_bytes}")
        if not 1 <= self.vocab_size <= MAX_VOCAB_SIZE:
            raise UserError(f"vocab_size must be from 1 to {MAX_VOCAB_SIZE}, got {self.vocab_size}")

    def ready(self) -> Tokenizer | None:
        """Returns the tokenizer if none has to be trained.

        Raises:
            UserError: its file is refused, or it has more ids than shards can hold.
        """
        if self.tokenizer is not None:
            tokenizer = load_tokenizer(Path(self.tokenizer))
            if tokenizer.vocab_size > MAX_VOCAB_SIZE:
                raise UserError(
                    f"{self.tokenizer}: must have at most {MAX_VOCAB_SIZE} ids for shards, "
                    f"got {tokenizer.vocab_size}"
                )
            _check_space(tokenizer, self.tokenizer)
            return tokenizer
        return ByteTokenizer() if self.model_type == "byte" else None

    @property
    def longest_bytes(self) -> int | None:
        """Longer documents are not trained on: SentencePiece skips them."""
        return _PRESETS[self.preset].get("max_sentence_length")

    def used(self) -> dict[str, Any]:
        """Returns the settings that have a say in the result."""
        if self.tokenizer is not None:
            return {"tokenizer": self.tokenizer}
        if self.model_type == "byte":
            return {"model_type": "byte"}
        return {key: value for key, value in config_to_dict(self).items() if key != "tokenizer"}

    def normalizer(self) -> Callable[[str], str]:
        """Returns the ``normalize`` of the tokenizer that this would train."""
        if self.preset == "lossless":
            return str
        normalizer = SentencePieceNormalizer(
            rule_name=_PRESETS[self.preset]["normalization_rule_name"],
            add_dummy_prefix=_COMMON["add_dummy_prefix"],
            remove_extra_whitespaces=True,
        )
        return normalizer.normalize


def train_tokenizer(documents: Iterable[str], recipe: TokenizerRecipe) -> Tokenizer:
    """Trains a SentencePiece model.

    Args:
        documents: training documents only: a tokenizer that has seen the validation text is flattered by it.
        recipe: what to train.

    Returns:
        The tokenizer; with the challenge preset it may have fewer pieces than asked for.

    Raises:
        UserError: the vocabulary is too small or too large for the text.
    """
    model = io.BytesIO()
    texts = _stripped(documents) if recipe.preset == "challenge" else _cleaned(documents)
    options: dict[str, Any] = {"model_type": recipe.model_type, "vocab_size": recipe.vocab_size}
    try:
        _interruptibly(
            partial(
                SentencePieceTrainer.train,
                sentence_iterator=texts,
                model_writer=model,
                **options,
                **_COMMON,
                **_PRESETS[recipe.preset],
            )
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split()).split("] ")[-1]
        raise UserError(f"vocab_size {recipe.vocab_size} does not suit the text: {reason}") from error
    tokenizer = SentencePieceTokenizer(model.getvalue())
    _check_space(tokenizer, "the trained tokenizer")
    assert tokenizer.lossless == (recipe.preset == "lossless")
    return tokenizer


def _check_space(tokenizer: Tokenizer, name: str) -> None:
    if isinstance(tokenizer, SentencePieceTokenizer) and not tokenizer.has_space:
        raise UserError(f"{name}: has no piece for a space alone, which would count three bytes")


def _interruptibly(work: Callable[[], None]) -> None:
    """Calls a function that looks at no signal until it returns, so that Ctrl-C need not wait for it."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            work()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="train tokenizer", daemon=True).start()
    outcome.result()


def _cleaned(documents: Iterable[str]) -> Iterator[str]:
    # NUL ends a piece early, and the trainer skips whole sentences for the sake of U+2585.
    table = str.maketrans({"\0": " ", "\u2585": " "})
    return (document.translate(table) for document in documents)


def _stripped(documents: Iterable[str]) -> Iterator[str]:
    texts = (document.replace("\0", " ").strip() for document in documents)
    return (text for text in texts if text)
