"""SentencePiece tokenizers: loading one, and training one that loses nothing."""

import io
from collections.abc import Iterable
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from plgolf.errors import UserError

SPACE = "\u2581"
"""SentencePiece's mark for a space, at the start of a piece or inside it."""


def load_tokenizer(path: Path, *, vocab_size: int) -> SentencePieceProcessor:
    """Loads a ``.model`` file.

    Args:
        path: the file.
        vocab_size: pieces it must have.

    Returns:
        The tokenizer.

    Raises:
        UserError: the file is missing, is no SentencePiece model, or has another number of pieces.
    """
    if not path.is_file():
        raise UserError(f"{path}: no tokenizer there (data.tokenizer)")
    try:
        tokenizer = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: is no SentencePiece model") from error
    if tokenizer.get_piece_size() != vocab_size:
        raise UserError(
            f"vocab_size must equal the {tokenizer.get_piece_size()} pieces of {path}, got {vocab_size}"
        )
    return tokenizer


def train_lossless_bpe(documents: Iterable[str], *, vocab_size: int) -> bytes:
    """Trains a SentencePiece BPE model with decode(encode(x)) == x.

    No normalisation, no added or removed spaces, newlines and indentation are ordinary characters, and
    what was never seen falls back to bytes. Only U+2581, which SentencePiece uses for a space, and NUL
    cannot be told apart afterwards: the caller keeps them out.

    Args:
        documents: the training text.
        vocab_size: pieces, the 256 byte pieces and 3 control pieces included.

    Returns:
        The contents of a ``.model`` file.

    Raises:
        UserError: the vocabulary is too small or too large for the text.
    """
    model = io.BytesIO()
    try:
        _train(documents, model, vocab_size)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).split("] ")[-1]
        raise UserError(f"vocab_size {vocab_size} does not suit the text: {reason}") from error
    return model.getvalue()


def _train(documents: Iterable[str], model: io.BytesIO, vocab_size: int) -> None:
    SentencePieceTrainer.train(
        sentence_iterator=iter(documents),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=0.9999,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        max_sentence_length=2**30,
        # Threads would not change the result, but keep a laptop's other core free of surprises.
        num_threads=1,
        minloglevel=2,
    )
