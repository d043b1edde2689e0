"""Shortens Python sources without changing what they do."""

import functools
import re
from importlib.metadata import version

try:
    from python_minifier import minify
except ModuleNotFoundError:
    MINIFIER = None
else:
    MINIFIER = f"python-minifier {version('python-minifier')}"
"""What ``minified`` uses; None if the package is not installed."""


@functools.cache
def minified(source: str, imported: frozenset[str] = frozenset()) -> str:
    """Shortens a module with python-minifier, if it is installed.

    Local variables and private names of the module become short. Names that other modules, settings or
    checkpoints may refer to stay, and so do the annotations, from which settings get their types.

    Args:
        source: a module without docstrings, as ``ast.unparse`` writes it.
        imported: private names that other modules import.

    Returns:
        The short source; ``source`` itself without python-minifier.
    """
    if MINIFIER is None:
        return source
    names = sorted(set(re.findall(r"\w+", source)))
    public = [name for name in names if not re.match("_[^_]", name) or name in imported]
    short: str = minify(
        source,
        rename_globals=True,
        preserve_globals=public,
        remove_annotations=False,
        hoist_literals=False,
    )
    return short
