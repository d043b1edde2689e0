"""Packs the code of a run: the modules that it needs, without what is not used in them."""

import ast
import functools
import pydoc
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from plgolf.submission.archive import archive_files
from plgolf.submission.packing.minify import MINIFIER, minified
from plgolf.submission.packing.modules import Module, find_modules, imported_names
from plgolf.submission.packing.short_names import shorten_names
from plgolf.submission.packing.tree_shaking import keep_used, words_in

ENTRY = "plgolf.training.command.packed"
_MAIN = "plgolf.__main__"
_NOT_NEEDED = (
    *("plgolf.corpus", "plgolf.generation", "plgolf.report", "plgolf.training.finish.details"),
    *(f"plgolf.training.logs.console.{style}" for style in ("bar", "lines", "panel")),
    *("plgolf.training.unsupported", "plgolf.training.health.monitors"),
)
"""Imported inside functions to prepare a dataset, to log samples, pictures and details, to check callbacks,
and for progress in styles that packed code does not use."""
_IF_IMPORTED = "plgolf.data."
"""Room whose functions import the modules of one kind of dataset, such as a kind of tokenizer."""
_ALSO_USED = {"read_artifact"}
"""What ``check.py`` calls besides the entry point."""


@dataclass(frozen=True)
class PackedCode:
    """Code that was packed.

    Args:
        archive: contents of ``code.tar.bz2``.
        num_modules: Python files in it.
        minifier: program that shortened them, with its version; None if only docstrings, comments and
            unused parts were removed.
        not_minified: files that the minifier failed on.
    """

    archive: bytes
    num_modules: int
    minifier: str | None
    not_minified: list[str]


def pack_code(config: str = "") -> PackedCode:
    """Packs the modules that train, export and score as this process does.

    Which modules these are follows from the imports of the entry point, ``plgolf.training.command.packed``,
    and from the classes that the configuration names. Modules that are imported inside functions are packed
    too, except those that prepare datasets, generate text, draw reports or pack, and those of ``plgolf.data``
    that this process has not imported. What no packed module mentions is removed from plgolf's modules.

    Args:
        config: the complete configuration as YAML, which becomes ``config.yaml``; none if empty.

    Returns:
        The packed code; the same sources, settings and kind of dataset give the same bytes with the same
        versions of Python and python-minifier.

    Raises:
        UserError: the source of a module cannot be read.
    """
    class_paths = tuple(sorted(set(_class_paths(yaml.safe_load(config))))) if config else ()
    imported = frozenset(name for name in sys.modules if name.startswith(_IF_IMPORTED))
    files, failed = _pack_modules(class_paths, imported)
    extra = {"config.yaml": config.encode()} if config else {}
    return PackedCode(archive_files({**files, **extra}), len(files), MINIFIER, failed if MINIFIER else [])


@functools.cache
def _pack_modules(
    class_paths: tuple[str, ...], imported: frozenset[str]
) -> tuple[dict[str, bytes], list[str]]:
    """Returns the sources to pack by path, and which of them the minifier failed on."""

    def is_needed(module: str) -> bool:
        missing = module.startswith(_IF_IMPORTED) and module not in imported
        return not missing and not module.startswith(_NOT_NEEDED)

    entry = ast.parse(f"from {ENTRY} import main\nmain()")
    roots = [ENTRY, *(path.rpartition(".")[0] for path in class_paths), *map(_home, class_paths)]
    modules = find_modules(roots, is_needed)
    words = words_in(entry) | {word for path in class_paths for word in path.split(".")} | _ALSO_USED
    keep_used(modules, words)
    modules = {**find_modules(roots, is_needed, modules), _MAIN: Module(entry, "plgolf/__main__.py")}
    if MINIFIER is not None:
        shorten_names((module.tree for module in modules.values()), words)
    # An empty package is a namespace package, which needs no file.
    kept = [module for module in modules.values() if module.tree.body]
    private = {name for module in kept for name in imported_names(module.tree) if name.startswith("_")}
    files, failed = {}, []
    for module in kept:
        source = ast.unparse(module.tree)
        short = minified(source, frozenset(private))
        failed += [] if short else [module.path]
        files[module.path] = (short or source).encode()
    return files, failed


def _home(class_path: str) -> str:
    """Returns the module in which a class is defined, which may be named by another that imports it."""
    return str(getattr(pydoc.locate(class_path), "__module__", ""))


def _class_paths(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _class_paths(item)
