"""What every tokenizer can do."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plgolf.data.byte_counts import ByteCounts

Ids = NDArray[np.integer[Any]]


class Tokenizer(ABC):
    """Text to ids and back; every method is safe to call from several threads.

    Attributes:
        kind: ``sentencepiece`` or ``byte``.
        vocab_size: ids are below it.
        bos_id: begin-of-sequence, before each document.
        lossless: decoding gives back every text, and ``byte_counts`` sum up to exactly its UTF-8 bytes.
        file_name: what the file is called inside a dataset.
    """

    kind: str
    vocab_size: int
    bos_id: int
    lossless: bool
    file_name: str

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Encodes texts one by one, without begin-of-sequence, and without holding the GIL for long."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Decodes ids; what is not UTF-8, as where a text is cut inside a character, becomes U+FFFD.

        An id that stands for no text cuts it, too.
        """

    @abstractmethod
    def byte_of(self, index: int) -> int | None:
        """Returns the byte that an id stands for, None if it is of a piece of text or of none."""

    @abstractmethod
    def normalize(self, text: str) -> str:
        """Returns what the ids of a text depend on; texts of equal ids have equal normal forms."""

    @cached_property
    @abstractmethod
    def byte_counts(self) -> ByteCounts[NDArray[np.generic]]:
        """Bytes of each id by the challenge's rule, as numpy tables."""

    @abstractmethod
    def raw_bytes(self, text: str, ids: Ids) -> NDArray[np.int64]:
        """Shares the UTF-8 bytes of a text among its tokens.

        Args:
            text: the text.
            ids: what it is encoded as, at least one.

        Returns:
            One count a token, int64; they sum up to the bytes of the text, also where the tokenizer rewrites
            or drops some of it.
        """

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Returns the contents of the tokenizer's file."""

    def encode(self, text: str) -> Ids:
        """Encodes one text, without begin-of-sequence."""
        return self.encode_batch([text])[0]

    @property
    def sha256(self) -> str:
        """Hash of the tokenizer's file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def decode_documents(self, tokens: NDArray[np.generic]) -> list[str]:
        """Decodes a stream with the begin-of-sequence id before each document.

        Args:
            tokens: (n,); what comes before the first begin-of-sequence counts as a document.

        Returns:
            The documents' texts, empty ones left out.
        """
        documents = np.split(tokens, np.flatnonzero(tokens == self.bos_id))
        # Without what stands for no text: SentencePiece would print a sign for each unknown piece.
        speaks = np.logical_not(self.byte_counts.is_boundary)
        texts = (self.decode(document[speaks[document]].tolist()) for document in documents)
        return [text for text in texts if text]
