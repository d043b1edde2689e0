"""Writes the pages of ``--help``: one line per key, or everything about some keys."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from plgolf.arguments.settings import CONFIG, ListingParser, Setting
from plgolf.arguments.suggestions import did_you_mean, nearest
from plgolf.arguments.wording import describe_type, format_value, shorten
from plgolf.errors import UserError

_PIPE_COLUMNS = 100
_MIN_COLUMNS, _MAX_COLUMNS = 40, 120
_MAX_CHOICES_CHARACTERS = 30
_ALL = "all"
_OPTIONS = [("-h, --help [KEY]", f"this page, or everything about a key, a group or {_ALL}", "")]
_CONFIG_OPTIONS = [
    (f"-c, --{CONFIG} FILE", "YAML file of settings, - for stdin; may be repeated, later ones win", ""),
    ("--print_config[=full]", "print the settings that differ from the defaults, or all", ""),
]
_Row = tuple[str, str, str]
"""A flag, a text that may lose its last clauses, and its suffix."""


def overview(parser: ListingParser, brief: Mapping[str, set[str]]) -> str:
    """Returns one line per key: what it does, its unit, and its default in brackets.

    Args:
        parser: the parser of a command, or of the commands below a first word.
        brief: the keys to show of groups with many keys, by prefix; these groups come last.
    """
    columns = _columns()
    required = [setting for setting in parser.settings.values() if setting.required]
    words = [setting.flag if setting.positional else f"{setting.flag}=VALUE" for setting in required]
    words += ["[-c FILE]..."] if parser.has_config else []
    usage = "COMMAND ..." if parser.commands else " ".join([*words, "[--KEY=VALUE]..."])
    lines = textwrap.wrap(f"usage: {parser.program} {usage}", columns)
    lines += ["", *textwrap.wrap(" ".join((parser.description or "").split()), columns)]
    for heading, rows in _sections(parser, brief):
        lines += ["", *textwrap.wrap(shorten(heading, "", columns), columns), *_lines(rows, columns)]
    lines += ["", *textwrap.wrap(" ".join(_notes(parser, brief)), columns)]
    return "".join(f"{line}\n" for line in lines)


def details(parser: ListingParser, topic: str) -> str:
    """Returns everything about a topic: ``data.seq_len``, ``model.optimizer=AdamW``, ``trainer``, ``all``.

    Raises:
        UserError: the topic is not a key, group or class of this command.
    """
    topic, _, name = topic.lstrip("-").partition("=")
    known = parser.all_settings
    if name and topic in known:
        classes = known[topic].known_classes
        named = classes.get(name.rpartition(".")[2])
        if named is None:
            raise UserError(f"{topic} must name one of {', '.join(classes)}, got {name:.100}")
        known = {topic: known[topic], **known[topic].settings_of_class(named)}
    chosen = [each for each in known.values() if topic == _ALL or f"{each.key}.".startswith(f"{topic}.")]
    if not chosen:
        prefixes = {key.rpartition(".")[0] for key in known} - {""}
        meant = did_you_mean(nearest(topic, [*known, *prefixes]))
        raise UserError(f"{parser.program} has no setting {topic:.100}{meant}")
    return "".join(f"{line}\n" for setting in chosen for line in _detail(setting))


def _columns() -> int:
    columns = shutil.get_terminal_size((_PIPE_COLUMNS, 0)).columns
    return min(max(columns, _MIN_COLUMNS), _MAX_COLUMNS)


def _sections(parser: ListingParser, brief: Mapping[str, set[str]]) -> Iterator[tuple[str, list[_Row]]]:
    if parser.commands:
        yield "commands", [(name, each.description or "", "") for name, each in parser.commands.items()]
        return
    groups = parser.setting_groups
    first = [setting for group in groups if not group.title for setting in group.settings]
    rows = [_row(setting) for setting in first]
    yield "options", [*rows, *_OPTIONS, *(_CONFIG_OPTIONS if parser.has_config else [])]
    yield from _of_classes(first)
    for group in sorted(groups, key=lambda group: group.prefix in brief):
        if group.title:
            kept = [s for s in group.settings if group.prefix not in brief or s.key in brief[group.prefix]]
            yield ": ".join(filter(None, [group.prefix, group.title])), [_row(setting) for setting in kept]
            yield from _of_classes(kept)


def _of_classes(settings: Iterable[Setting]) -> Iterator[tuple[str, list[_Row]]]:
    """Yields the sections of the classes that are defaults of settings."""
    for setting in settings:
        for inner in setting.groups_of_class(setting.default_class):
            heading = f"{inner.prefix} of {inner.settings[0].owner}: {inner.title}"
            yield heading, [_row(each) for each in inner.settings]


def _notes(parser: ListingParser, brief: Mapping[str, set[str]]) -> Iterator[str]:
    if parser.commands:
        yield f"{parser.program} COMMAND --help lists the settings of one."
        return
    yield "Defaults are in brackets. --help KEY says more about a key or a group."
    if parser.has_config:
        yield "A YAML file has the same keys, nested at the dots."
    for key in [key for key, each in parser.settings.items() if each.default_class][:1]:
        yield f"--help {key}=CLASS lists the settings of another class."
    for prefix in brief:
        yield f"--help {prefix} lists the keys of that group that are left out here."


def _row(setting: Setting) -> _Row:
    choices = f"({'|'.join(setting.choices)}) "
    # true, false and null need no list.
    shown = set(setting.choices) - {"true", "false", "null"} and len(choices) <= _MAX_CHOICES_CHARACTERS
    suffix = "" if setting.num_words == 0 else f"{choices if shown else ''}{setting.bracketed_default}"
    return setting.flag, setting.text, suffix


def _lines(rows: Iterable[_Row], columns: int) -> Iterator[str]:
    rows = list(rows)
    indent = min(max((len(flag) for flag, *_ in rows), default=0) + 4, columns - 30)
    for flag, text, suffix in rows:
        room = columns - indent
        lines = textwrap.wrap(shorten(text, suffix, room), room, break_on_hyphens=False) or [""]
        if len(flag) > indent - 4:  # It has a line of its own.
            lines.insert(0, "")
        yield f"  {flag:<{indent - 2}}{lines[0]}".rstrip()
        yield from (" " * indent + line for line in lines[1:])


def _detail(setting: Setting) -> Iterator[str]:
    kind = "a switch" if setting.num_words == 0 else describe_type(setting.hint)
    default = "required" if setting.required else f"default {format_value(setting.default)}"
    classes = ", ".join(setting.known_classes)
    yield f"  {setting.flag}"
    for text in (setting.text, f"{kind}; {default}", classes and f"Classes: {classes}"):
        for line in textwrap.wrap(text and f"{text}.", _columns() - 6, break_on_hyphens=False):
            yield f"      {line}"
