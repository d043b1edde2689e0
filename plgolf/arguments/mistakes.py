"""What is wrong with a command line or a YAML file, in one line, and what was probably meant."""

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plgolf.arguments.settings import Setting, known_classes, links_of, settings_of, settings_of_class
from plgolf.arguments.wording import described, shown
from plgolf.errors import UserError

if TYPE_CHECKING:
    from plgolf.arguments.parsing import OneLineErrors

_MOST_SUGGESTED = 3
_CLEARLY_MEANT = 0.9
_MOST_CLASSES = 8
_SHOWN_LETTERS = 100
_INNER_UNKNOWN = re.compile(
    r"Group '(?P<group>[^']+)' does not accept option '(?P<name>[^']+)'"
    r"|Option '(?P<option>[^']+)' is not accepted"
    r"|unrecognized arguments: --(?P<flag>[^\s=]+)"
)
_CLASS_PATH = re.compile(r"class_path'?[=:] ?'([^']*)'")
_ELSEWHERE = re.compile(r"Expected a dot import path string: (\S+)")
_VALUE = re.compile(r"(?:Got value: |Given value: )(.*?)(?:\.? Got value: .*)?$", re.MULTILINE)


def explain(message: str, parser: "OneLineErrors") -> str:
    """Turns what jsonargparse says into a line of ours.

    Args:
        message: its message, of several lines.
        parser: of the command that the words were for.
    """
    line = " ".join(message.split())
    for pattern, told in _RULES:
        if found := pattern.match(line):
            return told(found, parser, message) or line
    return line


def check_keys(loaded: Mapping[str, Any], where: str, parser: "OneLineErrors") -> None:
    """Checks that a YAML file has no other keys than the parser's.

    Args:
        loaded: what is in it.
        where: the file.
        parser: of the command that it is for.

    Raises:
        UserError: a key is unknown, or has something else than settings below it.
    """
    known = settings_of(parser)
    groups = {key[:end] for key in known for end in range(len(key)) if key[end] == "."} - set(known)
    classes = tuple(f"{key}." for key, setting in known.items() if setting.bases)

    def check(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{str(name).removesuffix('+')}"
            if key in known or key.startswith(classes):
                continue
            if key not in groups:
                raise UserError(f"{where}: {unknown_key(_deepest(key, value), parser)}")
            if isinstance(value, Mapping):
                check(value, f"{key}.")
            elif not isinstance(value, str):  # A string is the path of another file.
                held = f"{key} must hold settings by name"
                raise UserError(f"{where}: {held}, got {shown(value):.{_SHOWN_LETTERS}}")

    check(loaded, "")


def _deepest(key: str, value: Any) -> str:
    """Follows an unknown key down to the name that says what was meant."""
    while isinstance(value, Mapping) and len(value) == 1:
        (name, value), *_ = value.items()
        key = f"{key}.{name}"
    return key


def unknown_key(key: str, parser: "OneLineErrors", *, flag: bool = False) -> str:
    """Says that there is no such setting, and which was probably meant."""
    if source := links_of(parser).get(key):
        return f"{key} must be given as {source}"
    known = settings_of(parser)
    near = nearest(key, known)
    for sibling in parser.siblings:
        if key in settings_of(sibling):
            return f"{key} is no setting of {parser.program}, only of {sibling.program}"
    meant = did_you_mean([f"--{name}" for name in near] if flag else near)
    told = meant or f"; {parser.program} --help lists them"
    return f"{key:.{_SHOWN_LETTERS}} is no setting of {parser.program}{told}"


def nearest(key: str, known: Iterable[str]) -> list[str]:
    """Finds what a key was meant to be: a key of the same name in another group, or a misspelt one."""
    known = list(known)

    def named(names: Iterable[str]) -> list[str]:
        found = [other for other in known if other.rpartition(".")[2] in names]
        near = sorted(found, key=lambda other: -difflib.SequenceMatcher(None, key, other).ratio())
        clear = near and difflib.SequenceMatcher(None, key, near[0]).ratio() > _CLEARLY_MEANT
        return near[: 1 if clear else _MOST_SUGGESTED]

    name = key.rpartition(".")[2]
    names = {other.rpartition(".")[2] for other in known}
    return (
        named([name])
        or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        or named(difflib.get_close_matches(name, names, n=1, cutoff=0.75))
    )


def did_you_mean(near: Iterable[str]) -> str:
    """Returns the question, or nothing."""
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _unknown_word(words: str, parser: "OneLineErrors") -> str:
    word = words.split(maxsplit=1)[0]
    if word.startswith("--"):
        return unknown_key(word[2:].split("=")[0], parser, flag=True)
    if word.endswith((".yaml", ".yml")):
        return f"{word} must follow -c (did you mean -c {word}?)"
    return f"{parser.program} takes settings as --KEY=VALUE, got {word:.{_SHOWN_LETTERS}}"


def _missing_file(path: str) -> str:
    wanted = Path(path)
    if wanted.is_relative_to(Path.cwd()):
        wanted = wanted.relative_to(Path.cwd())
    there = [file for folder in {wanted.parent, Path("configs")} for file in sorted(folder.glob("*.y*ml"))]
    there += sorted(Path("configs").glob("*/*.yaml"))
    by_name = {file.stem: str(file) for file in reversed(there)}
    near = difflib.get_close_matches(str(wanted), [str(file) for file in there], n=1, cutoff=0.85)
    near = near or [by_name[s] for s in difflib.get_close_matches(wanted.stem, by_name, n=1)]
    return f"{wanted}: no such file (-c){did_you_mean(near)}"


def _bad_value(message: str, parser: "OneLineErrors") -> str:
    """Explains a value that is none of its setting's; empty if that is not understood."""
    keys = re.findall(r"Parser key \"([^\"]+)\"", message)
    known = settings_of(parser)
    setting = known.get(keys[0])
    if setting is None:
        found = re.search(r"Unable to load config ['\"](.*?)['\"]", message)
        return f"{keys[0]} must hold settings by name, got {found[1]:.{_SHOWN_LETTERS}}" if found else ""
    if setting.bases:
        explained = _bad_class(message, setting, known, keys[1:])
        if explained:
            return explained
    values = _VALUE.findall(message)
    return _wrong_type(setting, values[-1]) if values else ""


def _bad_class(message: str, setting: Setting, known: Mapping[str, Setting], inner: list[str]) -> str:
    key = setting.key
    paths = _CLASS_PATH.findall(message)
    classes = known_classes(setting)
    for path in paths:
        if named := classes.get(path.rpartition(".")[2]):
            groups = settings_of_class(named, setting)
            known = {**known, **{each.key: each for group in groups for each in group.settings}}
    if inner and (part := known.get(f"{key}.{inner[-1]}")):
        return _wrong_type(part, (_VALUE.findall(message) or [""])[0])
    if found := _INNER_UNKNOWN.search(message):
        name = found["option"] or found["flag"] or f"{found['group']}.{found['name']}"
        below = [other for other in known if other.startswith(f"{key}.")]
        meant = did_you_mean(nearest(f"{key}.{name}", below))
        return f"{key}.{name} is no setting of {_class_of(setting, paths)}{meant}"
    if found := re.search(r"arguments are required: (\S+)", message):
        return f"{key}.{found[1]} must be given for {_class_of(setting, paths)}"
    value = (_VALUE.findall(message) or [""])[-1]
    for path in paths or re.findall(r"^[A-Za-z_][\w.]*$", value) or _ELSEWHERE.findall(message)[:1]:
        if problem := _problem_with(path, setting, classes):
            return f"{key} must name {_kinds(setting)}, got {path:.{_SHOWN_LETTERS}}{problem}"
    return ""


def _class_of(setting: Setting, paths: list[str]) -> str:
    return (paths[-1] if paths else shown(setting.default)).rpartition(".")[2]


def _kinds(setting: Setting) -> str:
    return " or ".join(f"a subclass of {base.__name__}" for base in setting.bases)


def _problem_with(path: str, setting: Setting, classes: Mapping[str, type]) -> str:
    """Says what is wrong with a class's name and which was meant; empty if nothing is."""
    module, _, name = path.rpartition(".")
    place: object = None
    problem = ""
    if module:
        try:
            place = importlib.import_module(module)
        except Exception:  # Whatever a module does when it is imported.
            problem = f": there is no module {module}"
        else:
            named = getattr(place, name, None)
            problem = f": {module} has no {name}" if named is None else ", which is none"
            if isinstance(named, type) and issubclass(named, tuple(setting.bases)):
                return ""
    elif name in classes:
        return ""
    near = difflib.get_close_matches(name, classes, n=1, cutoff=0.75)
    if near and getattr(place, near[0], None) is classes[near[0]]:
        near = [f"{module}.{near[0]}"]
    known = ", ".join(list(classes)[:_MOST_CLASSES])
    return problem + (did_you_mean(near) or f" (known: {known})")


def _wrong_type(setting: Setting, value: str) -> str:
    value = value.strip().strip("'\"")[:_SHOWN_LETTERS]
    words = {"None": "nothing", "": "something else"}
    line = f"{setting.key} must be {described(setting.hint)}"
    wrong = [word for word in re.findall(r"[\w-]+", value) if word not in setting.words]
    near = difflib.get_close_matches(wrong[0], setting.words, n=1, cutoff=0.5) if wrong else []
    if not setting.choices and setting.default is not None and not isinstance(setting.default, dict):
        line += f", such as {shown(setting.default)}"
    return f"{line}, got {words.get(value, value)}{did_you_mean(near)}"


def _unknown_command(name: str, parser: "OneLineErrors") -> str:
    meant = did_you_mean(difflib.get_close_matches(name, parser.commands, n=1))
    return f"no command {name} of {parser.program}, there are {', '.join(parser.commands)}{meant}"


_Told = Callable[[re.Match[str], "OneLineErrors", str], str]
_RULES: list[tuple[re.Pattern[str], _Told]] = [
    (re.compile(pattern), told)
    for pattern, told in (
        (r"Parser key \"config\": .*?'([^']*)'", lambda found, _, __: _missing_file(found[1])),
        (
            r"Linked \"(.+?)\" must be given via \"(.+?)\"",
            lambda found, _, __: f"{found[1]} must be given as {found[2]}",
        ),
        (
            r"argument (\S+?)(?:/\S+)?: expected (?:one|at least one) argument",
            lambda found, _, __: f"{found[1]} must have a value",
        ),
        (r"unrecognized arguments: (.*)", lambda found, parser, _: _unknown_word(found[1], parser)),
        (
            r"(?:the following arguments are required: |Key \")(?:\w+\.)?(\w+)",
            lambda found, _, __: f"{found[1]} must be given",
        ),
        (
            r"(?:Subcommand .* does not accept option|Option) ['\"]([^'\"]+)",
            lambda found, parser, _: unknown_key(found[1], parser),
        ),
        (
            r"argument subcommand: invalid choice: '([^']*)'",
            lambda found, parser, _: _unknown_command(found[1], parser),
        ),
        (r"Parser key", lambda _, parser, message: _bad_value(message, parser)),
    )
]
"""What jsonargparse's messages begin with, and what is said instead."""
