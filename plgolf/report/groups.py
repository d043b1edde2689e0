"""Which runs are seeds of one recipe."""

import glob
import os
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plgolf.errors import UserError
from plgolf.report.records import Result
from plgolf.report.runs import Run, read_run

MAX_RUNS = 200
_PATTERN = re.compile(r"[*?\[]")
_NOT_THE_RECIPE = re.compile(
    r"(seed_everything|(.*\.)?run_name|ckpt_path|weights_only|resume|export\.dir|(console|checkpoint|peers)(\..*)?"
    r"|trainer\.(default_root_dir|logger|enable_progress_bar|enable_model_summary|log_every_n_steps|profiler)(\..*)?)"
)
"""Settings that no score depends on, and the seed."""
_SEED = re.compile(r"[-_. ]*((?<![^\W\d_])(seed|s))?[-_. ]*\d*$")
"""What the names of seeds have in common at their end, beyond the group's: no s of a word, as in focus-1."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed.

    Args:
        name: what the group is called.
        runs: at least one.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def results(self) -> list[Result]:
        """Of the runs that have finished."""
        return [run.result for run in self.runs if run.result is not None]

    @property
    def notes(self) -> list[str]:
        """What a reader should know before believing a statistic."""
        seeds = [run.seed for run in self.runs if run.seed is not None and run.result is not None]
        commits = {result.git_commit for result in self.results if result.git_commit}
        said = []
        if len(set(seeds)) < len(seeds):
            said.append(f"{self.name}: a seed occurs twice; the tests assume independent runs.")
        if len(commits) > 1:
            said.append(f"{self.name}: its runs are of {len(commits)} different commits.")
        if len(self.results) < len(self.runs):
            unfinished = len(self.runs) - len(self.results)
            said.append(
                f"{self.name}: {unfinished} of {len(self.runs)} runs have not finished and are left out."
            )
        return said


def read_groups(words: Sequence[str]) -> list[Group]:
    """Reads runs and groups them.

    Runs whose configurations differ in no more than the seed and in folders and the like are a group; the
    first run's group comes first. ``NAME=FOLDER,FOLDER`` makes a group of its own, whatever is in it.

    Args:
        words: folders, patterns such as ``checkpoints/base-*``, or groups by name.

    Raises:
        UserError: a folder is no run's, or is named twice.
    """
    named, seen = [], set[Path]()
    for word in words:
        name, folders = _folders(word)
        for folder in folders:
            if folder.resolve() in seen:
                raise UserError(f"{folder}: is named twice")
            seen.add(folder.resolve())
            named.append((name, folder))
    if len(named) > MAX_RUNS:
        raise UserError(f"runs must be at most {MAX_RUNS}, got {len(named)}")
    read = [(name, read_run(folder)) for name, folder in named]
    gathered: dict[Hashable, list[Run]] = {}
    names: dict[Hashable, str] = {}
    for name, run in read:
        key = ("named", name) if name else _recipe(run)
        gathered.setdefault(key, []).append(run)
        names[key] = name
    groups = [Group(names[key] or _common_name(runs), tuple(runs)) for key, runs in gathered.items()]
    return [Group(name, group.runs) for name, group in zip(_distinct(groups), groups, strict=True)]


def _folders(word: str) -> tuple[str, list[Path]]:
    """Takes a word apart into the name of a group, if it has one, and folders."""
    if os.path.exists(word):
        return "", [Path(word)]
    name, equals, listed = word.partition("=")
    if not equals or os.sep in name:
        name, listed = "", word
    elif not name or not listed:
        raise UserError(f"{word}: must be NAME=FOLDER,FOLDER")
    patterns = listed.split(",") if equals else [listed]
    return name, [folder for pattern in patterns for folder in _matching(pattern)]


def _matching(pattern: str) -> list[Path]:
    if not _PATTERN.search(pattern):
        return [Path(pattern)]
    found = [Path(path) for path in sorted(glob.glob(pattern)) if Path(path).is_dir()]
    if not found:
        raise UserError(f"{pattern}: matches no folder")
    return found


def recipe_settings(run: Run) -> dict[str, str]:
    """Returns the settings that runs of a group share."""
    if run.settings is None:
        return {}
    return {key: value for key, value in run.settings.items() if not _NOT_THE_RECIPE.fullmatch(key)}


def _recipe(run: Run) -> Hashable:
    if run.settings is not None:
        return frozenset(recipe_settings(run).items())
    if run.result is not None and run.result.recipe:
        given = (word for word in run.result.overrides if not _NOT_THE_RECIPE.match(word.lstrip("-")))
        return (*run.result.recipe, *given)
    return run.folder.resolve()


def _common_name(runs: Sequence[Run]) -> str:
    """Names a group after what its runs' names begin with: base-s1337 and base-s1338 are base."""
    names = [run.name for run in runs]
    common = os.path.commonprefix(names)  # noqa: RUF071 (of names, not of paths)
    if len(names) == 1 or common == names[0] == names[-1]:
        return names[0]
    return _SEED.sub("", common) or names[0]


def _distinct(groups: Iterable[Group]) -> list[str]:
    names: list[str] = []
    for group in groups:
        name, count = group.name, 2
        while name in names:
            name, count = f"{group.name} ({count})", count + 1
        names.append(name)
    return names


def settings_apart(groups: Sequence[Group]) -> list[list[str]]:
    """Returns the settings in which groups differ.

    Returns:
        A row for each setting: its key, then its value in each group's first run, a dash where it has none.
        None at all if a group has no ``config.yaml``.
    """
    found = [recipe_settings(group.runs[0]) for group in groups]
    if not all(found):
        return []
    keys = sorted(set().union(*found))
    rows = [[key, *(settings.get(key, "-") for settings in found)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]
