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
    """Shortens a module with python-minifier, if it is installed.

    Local variables and private names of the module become short. Names that other modules, settings or
    checkpoints may refer to stay, and so do the annotations, from which settings get their types.

    Args:
        source: a module without docstrings, as ``ast.unparse`` writes it.
        imported: private names that other modules import.

    Returns:
        The short source; None without python-minifier, or if it fails on this source.
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
