"""Scripts that complete commands, keys and values in a shell: static, so that a Tab imports nothing."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from plgolf.arguments.parsing import OneLineErrors
from plgolf.arguments.settings import Setting, known_classes, settings_of
from plgolf.arguments.wording import described, fitted
from plgolf.errors import UserError

_COLUMNS = 70
_CONFIG = "--config"


class _Option(NamedTuple):
    flag: str
    text: str
    values: list[str]
    switch: bool


class _Command(NamedTuple):
    words: str
    text: str
    options: list[_Option]
    takes_files: bool


def completion(shell: str, parsers: Mapping[str, OneLineErrors]) -> str:
    """Writes the script for a shell.

    Args:
        shell: bash, zsh or fish.
        parsers: of the commands, by their first word.

    Raises:
        UserError: there is none for this shell.
    """
    if shell not in _SHELLS:
        raise UserError(f"--print_completion must be one of {', '.join(_SHELLS)}, got {shell:.100}")
    return _SHELLS[shell](list(_commands(parsers)))


def _commands(parsers: Mapping[str, OneLineErrors], before: str = "") -> Iterator[_Command]:
    """Yields each command after the one that it belongs to."""
    for name, parser in parsers.items():
        known = settings_of(parser)
        options = [
            _Option(f"--{key}", fitted(each.text, "", _COLUMNS), _values(each), each.switch)
            for key, each in known.items()
            if not each.positional
        ]
        options.append(_Option("--help", "all keys, or all about one", [], True))
        if parser.has_config:
            options.append(_Option(_CONFIG, "YAML file of settings", [], False))
            options.append(
                _Option("--print_config", "print what differs from the defaults, and exit", [], True)
            )
        files = any(each.positional for each in known.values())
        yield _Command(f"{before}{name}", parser.description or "", options, files)
        yield from _commands(parser.commands, f"{before}{name} ")


def _values(setting: Setting) -> list[str]:
    classes = described(setting.hint).startswith("a subclass")
    return setting.choices or (list(known_classes(setting)) if classes else [])


def _children(commands: list[_Command], parent: str) -> list[_Command]:
    return [each for each in commands if each.words.rpartition(" ")[0] == parent]


def _parents(commands: list[_Command]) -> list[str]:
    return list(dict.fromkeys(each.words.rpartition(" ")[0] for each in commands if " " in each.words))


def _leaves(commands: list[_Command]) -> list[_Command]:
    parents = _parents(commands)
    return [each for each in commands if each.words not in parents]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _by_values(commands: list[_Command]) -> dict[str, list[str]]:
    """Returns which options of which commands have the same few values."""
    found: dict[str, list[str]] = {}
    for command in _leaves(commands):
        for option in command.options:
            if option.values:
                found.setdefault(" ".join(option.values), []).append(f"'{command.words}:{option.flag}'")
    return found


def _bash(commands: list[_Command]) -> str:
    parents = _parents(commands)
    lines = [
        "# Completes plgolf in bash; written by plgolf --print_completion bash.",
        "_plgolf() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" at=$((COMP_CWORD - 1)) words=""',
        "    # Readline takes = for a word.",
        '    if [ "$cur" = "=" ]; then cur=""; elif [ "${COMP_WORDS[at]}" = "=" ]; then at=$((at - 1)); fi',
        '    local prev="${COMP_WORDS[at]}" command="${COMP_WORDS[1]}" first=2',
        f'    case "$command" in {"|".join(parents)}) command="$command ${{COMP_WORDS[2]}}"; first=3;; esac',
        '    if [ "$COMP_CWORD" -lt "$first" ]; then',
        '        case "$COMP_CWORD:${COMP_WORDS[1]}" in',
        *(
            f"            2:{parent}) words={_quoted(' '.join(_names(commands, parent)))};;"
            for parent in parents
        ),
        f"            *) words={_quoted(' '.join(_names(commands, '')))};;",
        "        esac",
        "    else",
        '        case "$command:$prev" in',
        "            *:-c|*:--config)",
        "                compopt -o filenames 2>/dev/null",
        """                COMPREPLY=($(compgen -f -X '!*.y*ml' -- "$cur") $(compgen -d -- "$cur"))""",
        "                return;;",
        *(
            f"            {'|'.join(keys)}) words='{values}';;"
            for values, keys in _by_values(commands).items()
        ),
        "            *:--help|*:--print_config) ;;",
        *(
            f"            {command.words!r}:{option.flag}) ;;"
            for command in _leaves(commands)
            for option in command.options
            if option.switch and option.flag not in ("--help", "--print_config")
        ),
        '            *:--*) [ "${cur#-}" = "$cur" ] && return;;  # A value, which may be a file.',
        "        esac",
        '        [ -n "$words" ] || case "$command" in',
        *(_bash_keys(command) for command in _leaves(commands)),
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "}",
        "complete -o default -F _plgolf plgolf",
    ]
    return "".join(f"{line}\n" for line in lines)


def _names(commands: list[_Command], parent: str) -> list[str]:
    return [each.words.rpartition(" ")[2] for each in _children(commands, parent)]


def _bash_keys(command: _Command) -> str:
    flags = " ".join(option.flag for option in command.options)
    keys = f"words={_quoted(flags)}"
    only = '[ "${cur#-}" != "$cur" ] && ' if command.takes_files else ""
    return f"            {command.words!r}) {only}{keys};;"


def _zsh(commands: list[_Command]) -> str:
    def named(parent: str) -> str:
        children = _children(commands, parent)
        return " ".join(_quoted(f"{each.words.rpartition(' ')[2]}:{each.text}") for each in children)

    lines = [
        "#compdef plgolf",
        "# Completes plgolf in zsh; written by plgolf --print_completion zsh.",
        "_plgolf() {",
        '    local -a keys; local command="${words[2]}" prev="${words[CURRENT-1]}" first=3',
        f"    if (( CURRENT == 2 )); then keys=({named('')}); _describe command keys; return; fi",
    ]
    for parent in _parents(commands):
        lines += [
            f'    if [[ "$command" == {parent} ]]; then',
            f"        if (( CURRENT == 3 )); then keys=({named(parent)}); _describe command keys; return; fi",
            '        command="$command ${words[3]}"',
            "    fi",
        ]
    lines += [
        """    if [[ "$PREFIX" == --*=* ]]; then prev="${PREFIX%%=*}"; compset -P '*='; fi""",
        '    case "$command:$prev" in',
        "        *:-c|*:--config) _files -g '*.y(a|)ml(-.)'; return;;",
        *(
            f"        {'|'.join(keys)}) compadd -- {values}; return;;"
            for values, keys in _by_values(commands).items()
        ),
        "        *:--help|*:--print_config) ;;",
        '        *:--*) if [[ "$PREFIX" != -* ]]; then _files; return; fi;;',
        "    esac",
        '    case "$command" in',
    ]
    for command in _leaves(commands):
        keys = " ".join(_quoted(f"{option.flag}:{option.text}") for option in command.options)
        lines.append(f"        {_quoted(command.words)}) keys=({keys});;")
    lines += [
        "    esac",
        """    if [[ "$PREFIX" == -* ]]; then _describe -o setting keys; else _files; fi""",
        "}",
        'if [[ "$funcstack[1]" == _plgolf ]]; then _plgolf "$@"; else compdef _plgolf plgolf; fi',
    ]
    return "".join(f"{line}\n" for line in lines)


def _fish(commands: list[_Command]) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    lines = ["# Completes plgolf in fish; written by plgolf --print_completion fish."]
    for each in commands:
        parent, _, name = each.words.rpartition(" ")
        siblings = " ".join(_names(commands, parent))
        seen = f"__fish_seen_subcommand_from {parent}; and " if parent else ""
        condition = f"{seen}not __fish_seen_subcommand_from {siblings}"
        lines.append(f"complete -c plgolf -f -n '{condition}' -a {name} -d {quoted(each.text)}")
    for command in _leaves(commands):
        name = command.words.rpartition(" ")[2]
        start = f"complete -c plgolf -n '__fish_seen_subcommand_from {name}'"
        for option in command.options:
            short = " -s c" if option.flag == _CONFIG else ""
            value = f" -x -a '{' '.join(option.values)}'" if option.values else "" if option.switch else " -r"
            lines.append(f"{start}{short} -l {option.flag[2:]}{value} -d {quoted(option.text)}")
    return "".join(f"{line}\n" for line in lines)


_SHELLS: dict[str, Callable[[list[_Command]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
