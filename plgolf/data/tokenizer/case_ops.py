"""CaseOps: capitals become operators before lower-case words (https://github.com/openai/parameter-golf/pull/1855).

A tokenizer then needs one piece for a word however it is written. Any text comes back unchanged.
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plgolf.errors import UserError

OPERATORS = "\ue001\ue002\ue003\ue004"
"""Characters for private use, which a vocabulary reserves as ids of their own."""
_TITLE, _CAPITALS, _CAPITAL, ESCAPE = list(OPERATORS)
"""The next word begins with a capital; has no other letters; the next letter is a capital; the next character
is an operator in the text."""
# The first condition starts at the beginning of a run only, so that the time is linear.
_CHANGED = re.compile(f"(?<![A-Za-z])[a-z]*[A-Z][A-Za-z]*|[{OPERATORS}]")
_CAPITAL_LETTER = re.compile("[A-Z]")
_UNITS = re.compile(f"[{OPERATORS}]|[^{OPERATORS}]+")
_LETTERS = re.compile("[A-Za-z]+")
_ESCAPED = re.compile(b"\xee\x80\x84(\xee\x80[\x81-\x84])")


def transformed(text: str) -> str:
    r"""Returns a text without ASCII capitals, from which ``restored`` makes the text again.

    Letters outside ASCII stay as they are.

    >>> transformed("The iPhone of NASA").replace(_TITLE, "T").replace(_CAPITALS, "A").replace(_CAPITAL, "N")
    'Tthe iNphone of Anasa'
    """
    return _CHANGED.sub(_marked, text)


def _marked(match: re.Match[str]) -> str:
    run = match[0]
    if run in OPERATORS:
        return ESCAPE + run
    if len(run) > 1 and run.isupper():
        return _CAPITALS + run.lower()
    title = _TITLE if run[0].isupper() else ""
    return title + run[0].lower() + _CAPITAL_LETTER.sub(lambda letter: _CAPITAL + letter[0].lower(), run[1:])


def restored(text: str) -> str:
    """Returns the text that ``transformed`` made another of.

    Raises:
        UserError: an operator is where ``transformed`` writes none.
    """
    restore = Restorer(strict=True)
    result = restore(text)
    restore.finish()
    return result


class Restorer:
    """Restores a text that arrives in parts, each as far as it is known.

    A model may write operators anywhere: one without a letter to act on is left out.

    Args:
        strict: refuses such operators.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._escaped = self._capital = False
        """The next character is literal; the next letter is a capital."""
        self._word = ""
        """The operator that waits for its word."""
        self._inside = self._capitals = False
        """The last character was a letter; the word is in capitals."""

    def __call__(self, text: str) -> str:
        """Returns the text of the next part.

        Raises:
            UserError: an operator is misplaced, if this is strict.
        """
        units = _UNITS.findall(text)
        return "".join(self._operator(unit) if unit in OPERATORS else self._plain(unit) for unit in units)

    def finish(self) -> None:
        """Raises a UserError if an operator still waits, if this is strict."""
        self._check(not (self._escaped or self._word or self._capital), "must not end with an operator")

    def _operator(self, operator: str) -> str:
        if self._escaped:
            return self._literal(operator)
        if operator == ESCAPE:
            self._escaped = True
        elif operator == _CAPITAL:
            self._check(not self._capital, "must have a letter after U+E003")
            self._capital = True
        else:
            open_or_inside = self._word or self._capital or self._inside
            self._check(not open_or_inside, "must have U+E001 and U+E002 only before a word")
            self._word, self._capital, self._inside = operator, False, False
        return ""

    def _literal(self, character: str) -> str:
        self._escaped = False
        if _LETTERS.match(character):
            self._inside = True
        else:
            self._check(not self._word, "must have a letter after U+E001 and U+E002")
            self._word, self._inside, self._capitals = "", False, False
        return character

    def _plain(self, text: str) -> str:
        """Restores a part without operators, of which they change the letters at its start alone."""
        literal = self._literal(text[0]) if self._escaped else ""
        text = text[len(literal) :]
        letters = _LETTERS.match(text)
        word = self._letters(letters[0]) if letters else ""
        if rest := text[len(word) :]:
            self._check(not (self._word or self._capital), "must have a letter after an operator")
            self._word, self._capital, self._capitals = "", False, False
            self._inside = bool(_LETTERS.match(rest[-1]))
        return literal + word + rest

    def _letters(self, letters: str) -> str:
        if self._inside:
            self._check(not self._word, "must have U+E001 and U+E002 only before a word")
        else:
            self._capitals = self._word == _CAPITALS
        first = self._capital or (bool(self._word) and not self._inside)
        self._word, self._capital, self._inside = "", False, True
        if self._capitals:
            return letters.upper()
        return letters[0].upper() + letters[1:] if first else letters

    def _check(self, is_right: bool, rule: str) -> None:
        if self._strict and not is_right:
            raise UserError(f"text {rule}, as CaseOps writes them")


def original_bytes(text: str) -> NDArray[np.int64]:
    """Returns the bytes of the original that each UTF-8 byte of a transformed text stands for, int64 (n,).

    Operators stand for 0, and so does the escape of an operator in the text, which stands for itself.
    """
    encoded = text.encode()
    data = np.frombuffer(encoded, dtype=np.uint8)
    counts = np.ones(data.size, dtype=np.int64)
    second, third = data[1:], data[2:]
    found = (data[:-2] == 0xEE) & (second[: third.size] == 0x80) & (third >= 0x81) & (third <= 0x84)
    counts[(np.flatnonzero(found)[:, None] + np.arange(3)).ravel()] = 0
    for match in _ESCAPED.finditer(encoded):
        counts[slice(*match.span(1))] = 1
    return counts


def literal_operators(tokens: NDArray[Any], operators: NDArray[Any]) -> list[int]:
    """Returns the positions of operators that an escape makes text of.

    Args:
        tokens: ids (n,).
        operators: ids of ``OPERATORS``, in order.
    """
    found: list[int] = []
    for position in np.flatnonzero(tokens[:-1] == operators[-1]).tolist():
        # An escape may itself be text.
        if position not in found[-1:] and tokens[position + 1] in operators:
            found.append(position + 1)
    return found
