"""Writes the scripts that complete commands, keys and values in a shell, with shtab.

The scripts are static: pressing Tab starts no Python.
"""

import argparse
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from plgolf.arguments.settings import CONFIG, ListingParser, Setting
from plgolf.arguments.wording import shorten, union_members
from plgolf.errors import UserError

_COLUMNS = 70
_SHELLS = ("bash", "zsh", "fish")
_BASH_EQUALS = """
# Readline splits --key=value into three words; shtab expects two.
_plgolf() {
    local -a words=()
    local at cword=$COMP_CWORD
    for at in "${!COMP_WORDS[@]}"; do
        if [[ "${COMP_WORDS[at]}" == "=" && $at -gt 1 && "${COMP_WORDS[at-1]}" == --* ]]; then
            if [[ $at == "$COMP_CWORD" ]]; then words+=(""); else (( at <= COMP_CWORD && cword-- )); fi
        else
            words+=("${COMP_WORDS[at]}")
        fi
    done
    local -a COMP_WORDS=("${words[@]}")
    local COMP_CWORD=$cword
    _shtab_plgolf
}
complete -o default -F _plgolf plgolf
"""


def completion(shell: str, parsers: Mapping[str, ListingParser], not_offered: Container[str] = ()) -> str:
    """Returns the script for bash, zsh or fish, which offers no class of ``not_offered``.

    Raises:
        UserError: the shell is another one, or shtab is not installed.
    """
    if shell not in _SHELLS:
        raise UserError(f"--print_completion must be one of {', '.join(_SHELLS)}, got {shell:.100}")
    try:
        import shtab  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise UserError("--print_completion needs a package: pip install shtab") from error
    root = argparse.ArgumentParser("plgolf", add_help=False)
    # In zsh, a key that ends with = takes its value after it or as the next word.
    _Tree(shtab, "=" if shell == "zsh" else "", not_offered).add_commands(root, parsers)
    return f"{shtab.complete(root, shell)}\n{_BASH_EQUALS if shell == 'bash' else ''}"


@dataclass
class _Tree:
    """Turns parsers into the plain ones of argparse that shtab reads."""

    shtab: ModuleType
    equals: str
    not_offered: Container[str]

    def add_commands(self, root: argparse.ArgumentParser, parsers: Mapping[str, ListingParser]) -> None:
        commands = root.add_subparsers()
        for name, parser in parsers.items():
            added = commands.add_parser(name, help=parser.description, add_help=False)
            if parser.commands:
                self.add_commands(added, parser.commands)
                continue
            for setting in parser.all_settings.values():
                self._add_setting(added, setting)
            added.add_argument("--help", action="store_true", help="all keys, or everything about one")
            if parser.has_config:
                config = f"--{CONFIG}{self.equals}"
                recipe: Any = added.add_argument("-c", config, help="YAML file of settings")
                recipe.complete = self.shtab.glob("*.yaml", "*.yml")
                printed = "print what differs from defaults"
                added.add_argument("--print_config", action="store_true", help=printed)

    def _add_setting(self, parser: argparse.ArgumentParser, setting: Setting) -> None:
        text = shorten(setting.text, "", _COLUMNS).replace("%", "%%")
        if setting.num_words == 0:
            parser.add_argument(setting.flag, action="store_true", help=text)
            return
        takes_text = any(option in (str, Path) for option in union_members(setting.hint))
        known = [] if takes_text else setting.known_classes
        choices = setting.choices or [name for name in known if name not in self.not_offered] or None
        name = setting.key if setting.positional else f"{setting.flag}{self.equals}"
        how: Any = {"nargs": setting.num_words, "metavar": setting.key}
        added: Any = parser.add_argument(name, choices=choices, help=text, **how)
        if takes_text:
            added.complete = self.shtab.FILE
