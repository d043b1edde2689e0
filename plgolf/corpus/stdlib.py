"""Text that every machine has: the source code of Python's standard library."""

import hashlib
import sysconfig
from pathlib import Path

from plgolf.corpus.text_files import TextFile
from plgolf.errors import UserError

_LEFT_OUT = frozenset(
    # Not part of every distribution; pydoc_data is one generated file of 0.7 MB.
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "pydoc_data"}
)
_VAL_FRACTION = 1 / 24


def stdlib_files(root: Path | None = None) -> list[TextFile]:
    """Finds the modules of the standard library, by default this Python's, without tests.

    Returns:
        Text files of one document each, sorted by their names relative to ``root``.

    Raises:
        UserError: the folder has no modules.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    paths = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*.py")
        if not _LEFT_OUT.intersection(path.relative_to(root).parts)
    }
    if not paths:
        rule = "must hold the sources of the standard library, which this Python came without"
        raise UserError(f"{root}: {rule}")
    return [TextFile(paths[name], name, "txt") for name in sorted(paths)]


def is_validation(name: str) -> bool:
    """Returns True if a module is for validation, by a hash of its name: the same with every Python."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < _VAL_FRACTION * 2**64
