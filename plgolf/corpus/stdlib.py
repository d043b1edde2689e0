"""Text that every machine already has: the sources of the running Python's standard library."""

import hashlib
import sysconfig
from pathlib import Path

from plgolf.corpus.text_files import TextFile
from plgolf.errors import UserError

_LEFT_OUT = frozenset(
    # Not in every distribution, and one generated file of 0.7 MB that would swamp either split.
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "pydoc_data"}
)
_VAL_FRACTION = 1 / 24


def stdlib_files(root: Path | None = None) -> list[TextFile]:
    """Finds the standard library's modules, all but tests and generated documentation.

    Args:
        root: folder to look in; by default where this Python keeps its library.

    Returns:
        Text files of one document each, by name relative to ``root``, sorted.

    Raises:
        UserError: there are none.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    paths = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*.py")
        if not _LEFT_OUT.intersection(path.relative_to(root).parts)
    }
    if not paths:
        raise UserError(
            f"{root}: this Python keeps no sources of its standard library to build a corpus from"
        )
    return [TextFile(paths[name], name, "txt") for name in sorted(paths)]


def is_validation(name: str) -> bool:
    """Says on which side of the split a module is, by a hash of its name: the same whatever the Python."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < _VAL_FRACTION * 2**64
