"""Packs the code of a run: the modules that it needs, without what is not used in them."""

import ast
import functools
import pydoc
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from plgolf.submission.archive import archive_code
from plgolf.submission.packing.minify import MINIFIER, minified
from plgolf.submission.packing.modules import Module, find_modules, read_module
from plgolf.submission.packing.tree_shaking import keep_used

_ENTRY = "plgolf.training.command.packed"
_MAIN = "plgolf.__main__"
_NOT_NEEDED = (
    *("plgolf.corpus", "plgolf.generation", "plgolf.report", "plgolf.training.finish.details"),
    *(f"plgolf.training.logs.console.{style}" for style in ("bar", "lines", "panel")),
    *("plgolf.training.requirements", "plgolf.training.unsupported", "plgolf.training.health.monitors"),
    *("plgolf.training.checkpoints.load_module", "plgolf.training.finish.more_scores"),
)
"""Imported inside functions to prepare a dataset, to log samples, pictures and details, to check callbacks,
to load a module from Python, for further scores, and for progress in styles that packed code does not use."""
_NEEDED_BY = {"evaluators": "plgolf.training.finish.more_scores.score_by"}
"""Functions whose modules a setting needs after all, by the name of the setting."""
_IF_NAMED = ("plgolf.container", "plgolf.quantize")
"""Imported inside functions for a format that is packed only if the configuration names its class."""
_NAMING = (*_IF_NAMED, "plgolf.training.late_qat")
"""Classes that need these rooms."""
_IF_IMPORTED = (
    *("plgolf.data.", "plgolf.model.", "plgolf.optim."),
    *("plgolf.training.health.watch", "plgolf.training.phases", "plgolf.training.finish.calibrate"),
)
"""Rooms whose functions import a module only where it is used, such as a kind of tokenizer."""
_OF_CHECKPOINTS = {
    *("state_dict", "load_state_dict", "consolidate_state_dict"),
    *("on_save_checkpoint", "on_load_checkpoint", "load_from_checkpoint"),
}
"""Methods of plgolf's classes that packed code does not have: it saves no checkpoints."""
_MODEL, _PARTS = "plgolf.model.gpt", "plgolf.model.parts"
_TECHNIQUES = ("first_values", "recurrence", "parallel", "lanes", "parts")
"""Settings of ``GPTConfig`` that are null, or have nothing in them, where a technique is not used."""


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

    These are the modules that the entry point, ``plgolf.training.command.packed``, and the classes of the
    configuration import, also inside functions, except those that prepare datasets, generate text, draw
    reports or pack, those of ``plgolf.data``, ``plgolf.model`` and ``plgolf.optim`` that this process has not
    imported, and techniques of the model that the configuration does not use. What saves and restores
    checkpoints, and what no packed module mentions, is removed from plgolf's modules.

    Args:
        config: the complete configuration as YAML, which becomes ``config.yaml``; none if empty.

    Returns:
        The packed code; the same sources, settings and kind of dataset give the same bytes with the same
        versions of Python and python-minifier.

    Raises:
        UserError: the source of a module cannot be read.
    """
    settings = yaml.safe_load(config) if config else {}
    class_paths = tuple(sorted(set(_class_paths(settings))))
    imported = frozenset(name for name in sys.modules if name.startswith(_IF_IMPORTED))
    files, failed = _pack_modules(class_paths, imported, _gpt_settings(settings) if config else "")
    return PackedCode(archive_code(files, config), len(files), MINIFIER, failed if MINIFIER else [])


@functools.cache
def _pack_modules(
    class_paths: tuple[str, ...], imported: frozenset[str], gpt: str
) -> tuple[dict[str, bytes], list[str]]:
    """Returns the sources to pack by path, and which of them the minifier failed on."""
    named = any(path.startswith(_NAMING) for path in class_paths)

    def is_needed(module: str) -> bool:
        missing = module.startswith(_IF_IMPORTED) and module not in imported
        missing |= module.startswith(_IF_NAMED) and not named
        return not missing and not module.startswith(_NOT_NEEDED)

    entry = ast.parse(f"from {_ENTRY} import main\nmain()")
    # A class may be named by another module than its own, which imports it.
    homes = [str(getattr(pydoc.locate(path), "__module__", "")) for path in class_paths]
    roots = [_ENTRY, *(path.rpartition(".")[0] for path in class_paths), *homes]
    modules = find_modules(roots, is_needed, read_module)
    if gpt:
        _remove_unused(modules, yaml.safe_load(gpt))
    _remove_checkpoints(modules)
    keep_used(modules, {"main", "read_artifact", *".".join(class_paths).split(".")})
    modules = {**find_modules(roots, is_needed, modules.get), _MAIN: Module(entry, "plgolf/__main__.py")}
    # An empty package is a namespace package, which needs no file.
    sources = {module.path: ast.unparse(module.tree) for module in modules.values() if module.tree.body}
    imports = re.findall(r"^\s*from .* import (.*)$", "\n".join(sources.values()), re.MULTILINE)
    private = frozenset(re.findall(r"\b_\w+", " ".join(imports)))
    short = {path: minified(source, private) for path, source in sources.items()}
    files = {path: (short[path] or source).encode() for path, source in sources.items()}
    return files, [path for path in files if not short[path]]


def _class_paths(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        yield from (path for name, path in _NEEDED_BY.items() if value.get(name))
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _class_paths(item)


def _gpt_settings(settings: Any) -> str:
    model = settings.get("model") if isinstance(settings, dict) else None
    return yaml.safe_dump((model or {}).get("gpt") or {})


def _remove_unused(modules: dict[str, Module], gpt: Mapping[str, Any]) -> None:
    """Turns settings of techniques that a model does not use into constants, which need no class.

    The modules of these classes are then not imported.
    """
    parts = {name for name, part in (gpt.get("parts") or {}).items() if part is not None}
    used = {name for name in _TECHNIQUES if gpt.get(name) is not None} - {"parts"} | parts
    used |= {"parts"} if parts else set()
    for name in (_MODEL, _PARTS):
        for node in ast.walk(modules[name].tree):
            if isinstance(node, ast.ClassDef):
                node.body = [_constant(item, used, every=name == _PARTS) for item in node.body]


def _remove_checkpoints(modules: Mapping[str, Module]) -> None:
    for name, module in modules.items():
        for node in ast.walk(module.tree) if name.startswith("plgolf.") else ():
            if isinstance(node, ast.ClassDef):
                node.body = [m for m in node.body if getattr(m, "name", None) not in _OF_CHECKPOINTS] or [
                    ast.Pass()
                ]


def _constant(item: ast.stmt, used: set[str], *, every: bool) -> ast.stmt:
    if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
        return item
    name = item.target.id
    if name in used or not (every or name in _TECHNIQUES):
        return item
    value = ast.parse("PartsConfig()" if name == "parts" else "None", mode="eval").body
    return ast.copy_location(ast.Assign([item.target], value, lineno=item.lineno), item)
