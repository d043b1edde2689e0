"""Where a result comes from: settings, sources, versions, hardware."""

import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from plgolf.model import flash
from plgolf.version import __version__


@dataclass(frozen=True)
class Provenance:
    """Where a run's settings came from; the command line fills it in.

    Args:
        recipe: configuration files in order.
        overrides: settings given on the command line.
        seed: of everything random.
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
    """Returns the commit of the sources that run; None if they are no checkout."""
    here = Path(__file__)
    try:
        # They may be installed within the checkout of a project that uses them.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
