"""The parser of a command line: one-line errors, a help that reads well, its configuration printed."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from plgolf.arguments.bounded_yaml import OutOfBoundsError, check_string, read_settings
from plgolf.arguments.commented import commented
from plgolf.arguments.help import details, overview
from plgolf.arguments.mistakes import check_keys, explain
from plgolf.arguments.settings import CONFIG
from plgolf.errors import UserError

_FULL, _MINIMAL = "full", "minimal"


class OneLineErrors(ArgumentParser):
    """Says what is wrong in one line instead of after a page of usage, and helps with a line per key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "add_help": False, "print_config": None})
        self.brief: dict[str, set[str]] = {}
        """Of groups with many keys, by prefix, the keys that the overview shows."""
        self.required_keys: set[str] = set()
        """What must be given."""
        self._in_use: OneLineErrors = self
        self.printed = ""
        """How the configuration is to be printed; empty if it is not."""
        self.add_argument("-h", "--help", action=_Help)
        self.add_argument("--print_config", action=_PrintConfig)

    @property
    def program(self) -> str:
        """What calls the command."""
        return self.prog.replace(" [options]", "")

    @property
    def name(self) -> str:
        """The command's own name."""
        return self.program.rpartition(" ")[2]

    @property
    def has_config(self) -> bool:
        """Whether it takes YAML files."""
        return any(action.dest == CONFIG for action in self._actions)

    @property
    def commands(self) -> "dict[str, OneLineErrors]":
        """The parsers of the subcommands."""
        for action in self._actions:
            if isinstance(action.choices, dict):
                return action.choices
        return {}

    @property
    def siblings(self) -> "list[OneLineErrors]":
        """The other commands beside this one."""
        parent = getattr(self, "parent_parser", None)
        return [other for other in parent.commands.values() if other is not self] if parent else []

    def describe(self, texts: Mapping[str, str]) -> None:
        """Says in other words what keys and groups are that are someone else's."""
        for action in self._actions:
            action.help = texts.get(action.dest, action.help)
        for name, group in (self.groups or {}).items():
            group.title = texts.get(name, group.title)

    def untitle_last_group(self) -> None:
        """Lists the settings of the last group without a title, among the first."""
        last = self._action_groups[-1]
        self._action_groups = self._action_groups[:-1]
        self._optionals._group_actions += last._group_actions

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        return overview(self)

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        loaded = read_settings(Path(os.fspath(path)))
        check_keys(loaded, str(path), self)
        parsed: Namespace = super().parse_path(path, *args, **kwargs)
        return parsed

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Namespace:
        # An empty value, so that it does not take the next word for its own.
        words = ["--print_config=" if word == "--print_config" else word for word in args or ()]
        word = ""
        try:
            for word in words:
                check_string(word.partition("=")[2] if word.startswith("-") else word)
        except OutOfBoundsError as error:
            raise UserError(f"{word:.20}...: {error}") from error
        self.required_keys = {action.dest for action in self._actions if action.required}
        self._in_use = self.commands.get(words[0], self) if words else self
        parsed: Namespace = super().parse_args(words, *rest, **kwargs)
        if not hasattr(self, "parent_parser") and self._in_use.printed:
            self._print(parsed if self._in_use is self else parsed[self._in_use.name])
        return parsed

    def _print(self, settings: Namespace) -> NoReturn:
        command = self._in_use
        text = command.dump(settings, skip_unset=False)
        if command.printed == _MINIMAL:
            text = commented(yaml.safe_load(text), command)
        sys.stdout.write(text)
        self.exit()
        raise AssertionError

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # The parser of a class that a setting names; the setting's own goes on.
            super().error(message, ex)
        if isinstance(ex, UserError):
            raise UserError(str(ex)) from ex
        raise UserError(explain(message, self._in_use)) from ex


class _Help(argparse._HelpAction):
    """Prints the overview, or all there is to say of a key."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, argparse.SUPPRESS)
        self.nargs = "?"

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        parser = parser.commands.get(values, parser)
        asked_for = values and parser.name != values
        sys.stdout.write(details(parser, values) if asked_for else overview(parser))
        parser.exit()


class _PrintConfig(argparse.Action):
    """Notes that the configuration is to be printed once all of it is known."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, default=argparse.SUPPRESS)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values not in ("", _FULL) or not parser.has_config:
            raise UserError(f"--print_config must be alone or --print_config={_FULL}, got {values}")
        parser.printed = values or _MINIMAL
