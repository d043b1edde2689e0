"""Decoding of ids that arrive one by one."""

import codecs
from collections.abc import Callable

from plgolf.data.tokenizer.base import Tokenizer


class TextStream:
    """Decodes ids one at a time; ``push`` and ``flush`` together return ``tokenizer.decode(ids)``.

    The bytes of a character may arrive in several ids; its text is returned with the last of them. An
    operator of a transform has no text: it changes that of the ids after it. The time of a push does not
    depend on the number of ids before it. A SentencePiece model must have no denormaliser.

    >>> from plgolf.data.tokenizer import ByteTokenizer
    >>> stream = TextStream(ByteTokenizer())
    >>> [stream.push(index) for index in (101, 199, 173)]
    ['a', '', 'é']
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._restore: Callable[[str], str] = str
        if tokenizer.transform:
            from plgolf.data.tokenizer.cased import CaseOpsTokenizer  # noqa: PLC0415 (packed only where used)

            assert isinstance(tokenizer, CaseOpsTokenizer)
            self._tokenizer, self._restore = tokenizer.inner, tokenizer.restorer()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._open: list[int] = []  # Byte pieces that the next ids may complete to a character.
        self._before: list[int] = []  # Stands for all earlier text: only the first space may be dropped.
        self._text_before = ""

    def push(self, index: int) -> str:
        """Returns the text that an id completes, which may be empty."""
        return self._restore(self._push(index))

    def flush(self) -> str:
        """Returns the text of bytes that no further id will complete."""
        return self._restore(self._flush())

    def _push(self, index: int) -> str:
        piece = self._tokenizer.bytes_of(index)
        if piece is None:
            return self._flush() + self._decode_piece(index)
        text = self._utf8.decode(piece)
        if self._tokenizer.byte_level:
            return text
        self._open.append(index)
        # SentencePiece replaces invalid bytes in its own way, but the bytes before those that Python holds
        # back are final for every decoder: a byte that may begin a character is never inside another one.
        return self._decode_bytes(len(self._open) - len(self._utf8.getstate()[0]))

    def _flush(self) -> str:
        text = self._utf8.decode(b"", final=True)
        return text if self._tokenizer.byte_level else self._decode_bytes(len(self._open))

    def _decode_bytes(self, count: int) -> str:
        if not count:
            return ""
        final, self._open = self._open[:count], self._open[count:]
        text = self._tokenizer.decode(final)
        self._remember(final[-1])
        return text

    def _decode_piece(self, index: int) -> str:
        text = self._tokenizer.decode([*self._before, index])[len(self._text_before) :]
        if text or not self._tokenizer.byte_counts.is_boundary[index]:
            self._remember(index)
        return text

    def _remember(self, index: int) -> None:
        if not self._text_before:
            self._before, self._text_before = [index], self._tokenizer.decode([index])
