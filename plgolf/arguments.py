"""Parsing a command line: what is wrong, in one line."""

import difflib
import re
from typing import NoReturn

from jsonargparse import ArgumentParser

from plgolf.errors import UserError


class OneLineErrors(ArgumentParser):
    """Says what is wrong in one line instead of after a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = " ".join(message.split())
        raise UserError(line + self._suggestion(line)) from ex

    def _suggestion(self, line: str) -> str:
        """Finds the setting that a misspelt one in the message was meant to be."""
        known = self._known_settings()
        for word in re.findall(r"(?:--|')([A-Za-z_][\w.]*)", line):
            close = difflib.get_close_matches(word, known, n=1, cutoff=0.8)
            if word not in known and close:
                return f" (did you mean {close[0]}?)"
        return ""

    def _known_settings(self) -> set[str]:
        known = {action.dest for action in self._actions}
        for action in self._actions:
            if isinstance(action.choices, dict):  # The subcommands' parsers.
                known.update(action.choices)
                for parser in action.choices.values():
                    known |= parser._known_settings()
        return known | {key.split(".")[0] for key in known}
