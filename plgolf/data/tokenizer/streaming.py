"""Text of ids that come one by one."""

import codecs

from plgolf.data.tokenizer.base import Tokenizer


class TextStream:
    """Decodes ids one at a time: what ``push`` and ``flush`` return is, joined, ``tokenizer.decode(ids)``.

    A character of several bytes may come as several ids; its text is returned with the last of them. Each id
    takes the same time, however many came before it.

    Args:
        tokenizer: what the ids are of; it must decode without a denormaliser, as all known ones do.

    >>> from plgolf.data.tokenizer import ByteTokenizer
    >>> stream = TextStream(ByteTokenizer())
    >>> [stream.push(index) for index in (101, 199, 173)]
    ['a', '', 'é']
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._open: list[int] = []  # Bytes that the next ids may make a character of.
        self._before: list[int] = []  # Stands for all text so far: a first space may be dropped, a later not.
        self._text_before = ""

    def push(self, index: int) -> str:
        """Returns the text that an id completes, which may be empty."""
        byte = self._tokenizer.byte_of(index)
        if byte is None:
            return self.flush() + self._piece(index)
        self._open.append(index)
        self._utf8.decode(bytes([byte]))
        # What comes before the bytes that Python holds back is settled for every decoder: a byte that may
        # begin a character is never inside of another one.
        return self._bytes(len(self._open) - len(self._utf8.getstate()[0]))

    def flush(self) -> str:
        """Returns the text of bytes that no further id will complete."""
        self._utf8.reset()
        return self._bytes(len(self._open))

    def _bytes(self, count: int) -> str:
        if not count:
            return ""
        settled, self._open = self._open[:count], self._open[count:]
        text = self._tokenizer.decode(settled)
        self._remember(settled[-1])
        return text

    def _piece(self, index: int) -> str:
        text = self._tokenizer.decode([*self._before, index])[len(self._text_before) :]
        if text or not self._tokenizer.byte_counts.is_boundary[index]:
            self._remember(index)
        return text

    def _remember(self, index: int) -> None:
        if not self._text_before:
            self._before, self._text_before = [index], self._tokenizer.decode([index])
