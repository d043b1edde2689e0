"""Tokenizers: text to ids and back, and the number of bytes of each id."""

from plgolf.data.tokenizer.base import Tokenizer
from plgolf.data.tokenizer.bytewise import ByteTokenizer
from plgolf.data.tokenizer.files import load_tokenizer, tokenizer_of
from plgolf.data.tokenizer.sentencepiece import NO_BYTE_FALLBACK, SPACE, SentencePieceTokenizer
from plgolf.data.tokenizer.streaming import TextStream

__all__ = [
    "NO_BYTE_FALLBACK",
    "SPACE",
    "ByteTokenizer",
    "SentencePieceTokenizer",
    "TextStream",
    "Tokenizer",
    "load_tokenizer",
    "tokenizer_of",
]
