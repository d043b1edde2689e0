"""What ``--help`` prints: one line per key, and everything there is to say of a key that is asked for."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from plgolf.arguments.mistakes import did_you_mean, nearest
from plgolf.arguments.settings import (
    CONFIG,
    Group,
    Setting,
    bracketed,
    groups_of,
    known_classes,
    settings_of_class,
)
from plgolf.arguments.wording import described, fitted, shown
from plgolf.errors import UserError

if TYPE_CHECKING:
    from plgolf.arguments.parsing import OneLineErrors

_PIPE_COLUMNS = 100
_ARGPARSE_TITLES = ("positional arguments", "options")
_MOST_TOLD = 30
_FEWEST_COLUMNS, _MOST_COLUMNS = 40, 120
ALL = "all"


def overview(parser: "OneLineErrors") -> str:
    """Returns a line per key: what it does, with its unit, and in brackets what it is by default.

    Args:
        parser: of one command, or of one that has subcommands.
    """
    page = _Page()
    commands = parser.commands
    page.paragraph(_usage(parser))
    page.paragraph(parser.description or "")
    if commands:
        page.heading("commands", "")
        page.rows((name, command.description or "", "") for name, command in commands.items())
        page.paragraph(f"{parser.program} COMMAND --help says more.")
        return page.text
    options = [("-h, --help [KEY]", f"this; all about a key, a group of keys, or {ALL}", "")]
    if parser.has_config:
        options += [
            (f"-c, --{CONFIG} FILE", "YAML file of settings; may be repeated, later ones win", ""),
            (
                "--print_config[=full]",
                "print the settings that differ from the defaults, or all",
                "",
            ),
        ]
    groups = groups_of(parser)
    # Those that nobody gave a title stand beside the options that are none of a configuration.
    untitled = [group for group in groups if group.title in _ARGPARSE_TITLES]
    page.heading("options", "")
    page.rows([_row(setting) for group in untitled for setting in group.settings] + options)
    for group in sorted(groups, key=lambda group: group.prefix in parser.brief):
        if group not in untitled:
            _brief_group(page, group, parser.brief)
    page.paragraph(" ".join(_notes(parser, groups)))
    return page.text


def details(parser: "OneLineErrors", topic: str) -> str:
    """Returns all there is to say of a key, of the keys of a group, of a class, or of everything.

    Args:
        parser: of one command.
        topic: such as ``data.seq_len``, ``model.optimizer``, ``model.optimizer=AdamW``, ``trainer``, ``all``.

    Raises:
        UserError: there is no such key, group or class.
    """
    topic, _, named = topic.lstrip("-").partition("=")
    page, known = _Page(), set()
    for group in groups_of(parser):
        parts = [group]
        for setting in group.settings:
            parts += _of_class(setting, named) if named and setting.key == topic else setting.class_settings
        for part in parts:
            known |= {setting.key for setting in part.settings}
            chosen = [s for s in part.settings if f"{s.key}.".startswith(f"{topic}.") or topic == ALL]
            if chosen:
                page.heading(part.prefix, part.title)
                for setting in chosen:
                    _detail(page, setting, classes=topic != ALL)
    if not page.text:
        prefixes = {key.rpartition(".")[0] for key in known} - {""}
        meant = did_you_mean(nearest(topic, known | prefixes))
        raise UserError(f"{topic:.100} is no setting of {parser.program}{meant}")
    return page.text


def _of_class(setting: Setting, name: str) -> list[Group]:
    classes = known_classes(setting)
    if name.rpartition(".")[2] not in classes:
        raise UserError(f"{setting.key} must name one of {', '.join(classes)}, got {name:.100}")
    return settings_of_class(classes[name.rpartition(".")[2]], setting)


def _notes(parser: "OneLineErrors", groups: list[Group]) -> Iterator[str]:
    yield "In brackets is the default. --help KEY says more of a key or a group."
    if parser.has_config:
        yield "A YAML file has the same keys, nested at the dots."
    named = [each.key for group in groups for each in group.settings if each.class_settings]
    if named:
        yield f"--help {named[0]}=CLASS says what another class takes."
    for prefix in parser.brief:
        yield f"--help {prefix} lists the keys of it that are left out here."


def _brief_group(page: "_Page", group: Group, brief: dict[str, set[str]]) -> None:
    kept = brief.get(group.prefix)
    page.heading(group.prefix, group.title)
    page.rows(_row(setting) for setting in group.settings if kept is None or setting.key in kept)
    for setting in group.settings:
        for inner in setting.class_settings:
            page.heading(f"{inner.prefix} of {shown(setting.default).rpartition('.')[2]}", inner.title)
            page.rows(_row(each) for each in inner.settings)


def _row(setting: Setting) -> tuple[str, str, str]:
    choices = "|".join(setting.choices)
    # What null and true and false are needs no telling.
    told = f"({choices}) " if set(setting.choices) - {"true", "false", "null"} else ""
    told = told if len(told) <= _MOST_TOLD else ""
    return _flag(setting), setting.text, "" if setting.switch else f"{told}{bracketed(setting)}"


def _detail(page: "_Page", setting: Setting, *, classes: bool) -> None:
    page.row(_flag(setting), setting.text + ".")
    kind = "a switch" if setting.switch else described(setting.hint)
    default = "required" if setting.required else f"by default {shown(setting.default)}"
    page.row("", f"{kind}; {default}.")
    if classes and (known := known_classes(setting)):
        page.row("", f"Classes: {', '.join(known)}.")


def _flag(setting: Setting) -> str:
    return setting.key.upper() if setting.positional else f"--{setting.key}"


def _usage(parser: "OneLineErrors") -> str:
    if parser.commands:
        return f"usage: {parser.program} COMMAND ..."
    words = [parser.program]
    for group in groups_of(parser):
        for setting in group.settings:
            if setting.positional:
                words.append(setting.key.upper())
            elif setting.required:
                words.append(f"{_flag(setting)}=VALUE")
    return " ".join(["usage:", *words, *(["[-c FILE]..."] if parser.has_config else []), "[--KEY=VALUE]..."])


class _Page:
    """Text as wide as the terminal, or 100 columns, bold and dim where that can be seen."""

    def __init__(self) -> None:
        columns = shutil.get_terminal_size((_PIPE_COLUMNS, 0)).columns
        self._columns = min(max(columns, _FEWEST_COLUMNS), _MOST_COLUMNS)
        self._styled = sys.stdout.isatty()
        self._lines: list[str] = []

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)

    def paragraph(self, text: str) -> None:
        if text:
            self._lines += [
                *([""] if self._lines else []),
                *textwrap.wrap(" ".join(text.split()), self._columns),
            ]

    def heading(self, prefix: str, title: str) -> None:
        self._lines.append("")
        title = fitted(title, "", self._columns - len(prefix) - 2)
        text = f"{prefix}: {title}" if prefix and title else prefix or title
        self._lines += [self._style(line, 1) for line in textwrap.wrap(text, self._columns)]

    def rows(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Prints rows of a flag, a text that may be cut at the end of a clause, and what must be said."""
        rows = list(rows)
        indent = min(max((len(flag) for flag, *_ in rows), default=0) + 4, self._columns - 30)
        for flag, text, must in rows:
            lines = list(self._wrapped(text, must, self._columns - indent))
            gap = " " * (indent - 2 - len(flag))
            if len(flag) > indent - 4:
                self._lines.append(f"  {self._style(flag, 1)}")
                flag, gap = "", " " * (indent - 2)  # noqa: PLW2901
            self._lines.append(f"  {self._style(flag, 1)}{gap}{lines[0]}".rstrip())
            self._lines += [" " * indent + line for line in lines[1:]]

    def row(self, flag: str, text: str) -> None:
        """Prints a flag on a line of its own and all of a text below it."""
        if flag:
            self._lines.append(f"  {self._style(flag, 1)}")
        self._lines += textwrap.wrap(
            text, self._columns, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
        )

    def _wrapped(self, text: str, must: str, columns: int) -> Iterator[str]:
        lines = textwrap.wrap(fitted(text, must, columns), columns, break_on_hyphens=False) or [""]
        for line in lines:
            yield line[: -len(must)] + self._style(must, 2) if must and line.endswith(must) else line

    def _style(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._styled and text else text
