"""Groups of runs: the seeds of one recipe."""

import glob
import itertools
import math
import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
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
"""The seed, and settings that do not change the score."""
_SEED = re.compile(r"[-_. /]*((?<![^\W\d_])(seed|s))?[-_. /]*\d*$")
"""The end of a name that tells seeds apart, such as -seed-1; the s of a word, as in focus-1, stays."""


@dataclass(frozen=True)
class Group:
    """Runs, at least one, that differ only in the seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def results(self) -> list[Result]:
        """Results of the runs that have finished with a finite loss."""
        results = [run.result for run in self.runs if run.result is not None]
        return [result for result in results if math.isfinite(result.roundtrip_val_loss)]

    @property
    def losses(self) -> list[float]:
        """Nats per token of the files on disk, a value for each of ``results``."""
        return [result.roundtrip_val_loss for result in self.results]

    @property
    def bpbs(self) -> list[float]:
        """Bits per byte of the files on disk, a value for each of ``results``."""
        return [result.roundtrip_val_bpb for result in self.results]

    @property
    def notes(self) -> list[str]:
        """What a reader should know before trusting a statistic, a sentence each."""
        seeds = [run.seed for run in self.runs if run.seed is not None and run.result is not None]
        commits = {result.git_commit for result in self.results if result.git_commit}
        missing = len(self.runs) - len(self.results)
        notes = []
        if len(set(seeds)) < len(seeds):
            notes.append(f"{self.name}: a seed occurs twice; the tests assume independent runs.")
        if len(commits) > 1:
            notes.append(f"{self.name}: its runs come from {len(commits)} different commits.")
        if missing:
            notes.append(
                f"{self.name}: {missing} of {len(self.runs)} runs have not finished or have no finite loss; "
                "the statistics leave them out."
            )
        return notes


def read_groups(words: Sequence[str]) -> list[Group]:
    """Reads runs, given as folders or patterns such as ``checkpoints/base-*``, and groups them.

    Runs whose settings differ only in the seed, in folders and in other settings that do not change the score
    form a group. The first run's group comes first. ``NAME=FOLDER,FOLDER`` makes a group of any runs.

    Raises:
        UserError: a folder does not hold a run, or is given twice.
    """
    given = [(name, folder) for word in words for name, folders in [_folders(word)] for folder in folders]
    paths = [folder.resolve() for _, folder in given]
    for (_, folder), path in zip(given, paths, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{folder}: must be given once")
    if len(given) > MAX_RUNS:
        raise UserError(f"runs must be at most {MAX_RUNS}, got {len(given)}")
    gathered: dict[tuple[str, Hashable], list[Run]] = {}
    for (name, folder), run_name in zip(given, _run_names(paths), strict=True):
        run = replace(read_run(folder), name=run_name)
        gathered.setdefault((name, None if name else _recipe(run)), []).append(run)
    options = [[name] if name else _names_of(runs) for (name, _), runs in gathered.items()]
    return list(map(Group, _group_names(options), map(tuple, gathered.values())))


def _folders(word: str) -> tuple[str, list[Path]]:
    """Splits a word into the name of a group, empty without one, and folders."""
    if os.path.exists(word):
        return "", [Path(word)]
    name, equals, listed = word.partition("=")
    if not equals or os.sep in name:
        return "", _matching(word)
    if not name or not listed:
        raise UserError(f"{word}: must be NAME=FOLDER,FOLDER")
    return name, [folder for pattern in listed.split(",") for folder in _matching(pattern)]


def _matching(pattern: str) -> list[Path]:
    if not _PATTERN.search(pattern):
        return [Path(pattern)]
    found = [Path(path) for path in sorted(glob.glob(pattern)) if Path(path).is_dir()]
    if not found:
        raise UserError(f"{pattern}: matches no folder")
    return found


def _recipe_settings(run: Run) -> dict[str, str]:
    return {key: value for key, value in run.settings.items() if not _NOT_THE_RECIPE.fullmatch(key)}


def _recipe(run: Run) -> Hashable:
    if run.settings:
        return frozenset(_recipe_settings(run).items())
    if run.result is not None and run.result.recipe:
        given = (word for word in run.result.overrides if not _NOT_THE_RECIPE.match(word.lstrip("-")))
        return (*run.result.recipe, *given)
    return run.folder.resolve()


def _run_names(folders: Sequence[Path]) -> list[str]:
    """Returns the end of each path, with as many parents as it takes for every name to be different."""
    names = [folder.name or "run" for folder in folders]
    for depth in range(2, max((len(folder.parts) for folder in folders), default=0)):
        if len(set(names)) == len(names):
            break
        names = ["/".join(folder.parts[1:][-depth:]) for folder in folders]
    return names


def _names_of(runs: Sequence[Run]) -> list[str]:
    """Returns names for a group, the best first, such as base for base-s1 and base-s2; some are empty."""
    names = [run.name for run in runs]
    if len(runs) == 1:
        return names
    leaves = {run.folder.resolve().name for run in runs}
    common = _SEED.sub("", os.path.commonprefix(names))  # noqa: RUF071 (names, not paths)
    result = runs[0].result
    recipe = "+".join(Path(file).stem for file in result.recipe) if result else ""
    return [common, leaves.pop() if len(leaves) == 1 else "", recipe, names[0]]


def _group_names(options: Sequence[Sequence[str]]) -> list[str]:
    """Chooses for every group its first name that no other group could have as well."""
    names: list[str] = []
    for own in options:
        count = [sum(option in other for other in options) for option in own]
        free = [option for option, groups in zip(own, count, strict=True) if option and groups == 1]
        best = next(iter(free), own[-1])
        numbered = (f"{best} ({number})" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([best], numbered) if name not in names))
    return names


def settings_apart(groups: Sequence[Group]) -> list[list[str]]:
    """Returns the settings in which groups differ; none if a group has no ``config.yaml``.

    A row has the setting's key, then its value in the first run of each group, a dash where it has none.
    """
    found = [_recipe_settings(group.runs[0]) for group in groups]
    if not all(found):
        return []
    keys = sorted(set().union(*found))
    rows = [[key, *(settings.get(key, "-") for settings in found)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]
