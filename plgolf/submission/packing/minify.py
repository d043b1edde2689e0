"""Shortens Python sources without changing what they do."""

import re
from importlib.metadata import version

try:
    from python_minifier import minify
except ModuleNotFoundError:
    MINIFIER = None
else:
    MINIFIER = f"python-minifier {version('python-minifier')}"
"""What ``minified`` uses; None if the package is not installed."""


def minified(source: str, imported: frozenset[str] = frozenset()) -> str | None:
    """Shortens a module; returns None without python-minifier, or if it fails on this source.

    Local variables and private names become short, except those that other modules import. Names that
    settings or checkpoints may refer to stay, and so do the annotations, from which settings get their types.
    """
    if MINIFIER is None:
        return None
    names = sorted(set(re.findall(r"\w+", source)))
    public = [name for name in names if not re.match("_[^_]", name) or name in imported]
    try:
        return str(
            minify(
                source,
                rename_globals=True,
                preserve_globals=public,
                remove_annotations=False,
                hoist_literals=False,
            )
        )
    except Exception:  # It documents no errors; 3.4.0 raises a ValueError for some f-strings.
        return None
