"""Records the origin of a result: settings, source commit and library versions."""

import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from plgolf.model import flash
from plgolf.version import __version__


@dataclass(frozen=True)
class Provenance:
    """Origin of a run's settings; the command line fills it in.

    Args:
        recipe: configuration files in order.
        overrides: settings given on the command line.
        seed: seed of all random numbers.
        config: the complete configuration as YAML.
    """

    recipe: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    seed: int | None = None
    config: str = ""


def versions() -> dict[str, str]:
    """Returns the versions of plgolf, Python and the libraries that a score depends on."""
    packages = ("torch", "lightning", "torchmetrics", "sentencepiece", "numpy")
    newest = flash.in_use()
    return {
        "plgolf": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        **({"flash_attention": newest} if newest else {}),
    }


def git_commit() -> str | None:
    """Returns the commit of the running sources; None if they are not a git checkout."""
    here = Path(__file__)
    try:
        # They may be installed inside the checkout of another project.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
