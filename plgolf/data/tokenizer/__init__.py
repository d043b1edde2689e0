"""Tokenizers: what turns text into ids and back, and knows how many bytes an id stands for."""

from plgolf.data.tokenizer.base import Tokenizer
from plgolf.data.tokenizer.bytewise import ByteTokenizer
from plgolf.data.tokenizer.files import load_tokenizer, tokenizer_of
from plgolf.data.tokenizer.sentencepiece import SPACE, SentencePieceTokenizer
from plgolf.data.tokenizer.streaming import TextStream

__all__ = [
    "SPACE",
    "ByteTokenizer",
    "SentencePieceTokenizer",
    "TextStream",
    "Tokenizer",
    "load_tokenizer",
    "tokenizer_of",
]
