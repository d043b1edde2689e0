"""The modules that code imports, as syntax trees without docstrings and annotations."""

import ast
import functools
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from plgolf.errors import UserError


@dataclass
class Module:
    """A module to pack.

    Args:
        tree: its syntax tree.
        path: its file in the archive.
    """

    tree: ast.Module
    path: str


def find_modules(
    roots: Iterable[str], needed: Callable[[str], bool], read: Callable[[str], Module | None]
) -> dict[str, Module]:
    """Follows imports to plgolf's modules and to the user's, but not to installed packages.

    Args:
        roots: names of the modules to begin with; installed ones are left out.
        needed: returns True for the name of an imported module that is to be packed.
        read: returns a module by name; None for what is not to be packed.

    Returns:
        Modules by name, packages included.
    """
    found: dict[str, Module] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        module = None if name in found else read(name)
        if module is not None:
            found[name] = module
            todo += [name.rpartition(".")[0], *filter(needed, _imports(module.tree))]
    return found


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yields the names of the modules that a module may import, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            # What is imported from a package may be a module or not.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def read_module(name: str) -> Module | None:
    """Reads a module's source; returns None for installed modules and for what is not a module.

    Raises:
        UserError: a source file cannot be read.
    """
    file = _origin(name) if _is_own(name.partition(".")[0]) else None
    if file is None or file.suffix != ".py":
        return None
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError) as error:
        raise UserError(f"{file}: cannot be packed: {error}") from error
    _strip(tree)
    path = name.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")
    return Module(tree, path)


@functools.cache
def _is_own(package: str) -> bool:
    """Returns True for plgolf and for what is imported from the user's folders, not from a library."""
    path = _origin(package)
    if package == "plgolf" or path is None:
        return package == "plgolf"
    libraries = {"site-packages", "dist-packages"}
    return not (libraries & set(path.parts) or path.is_relative_to(sysconfig.get_path("stdlib")))


def _origin(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # A function or a class of a module that is not a package.
            return None
        file = spec.origin if spec and spec.has_location else None
    return Path(file) if file else None


def _strip(tree: ast.Module) -> None:
    """Removes docstrings, ``TYPE_CHECKING`` blocks and the annotations of functions.

    ``__init__`` keeps its annotations, since settings get their types from these, and so do decorated
    functions, whose decorators may read them.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            body = [kept for part in node.body for kept in _kept(part, node)]
            node.body = body or ([] if node is tree else [ast.Pass()])
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            node.returns = None
            for argument in ast.walk(node.args) if node.name != "__init__" else ():
                if isinstance(argument, ast.arg):
                    argument.annotation = None
    ast.fix_missing_locations(tree)


def _kept(node: ast.stmt, parent: ast.AST) -> list[ast.stmt]:
    match node:
        case ast.Expr(value=ast.Constant()):
            return []
        case ast.If(test=test, orelse=orelse) if ast.unparse(test).endswith("TYPE_CHECKING"):
            return orelse
        case ast.AnnAssign(target=target, value=value) if not isinstance(parent, ast.ClassDef):
            return [] if value is None else [ast.Assign([target], value)]
    return [node]
