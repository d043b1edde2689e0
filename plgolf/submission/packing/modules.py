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
    roots: Iterable[str], needed: Callable[[str], bool], known: dict[str, Module] | None = None
) -> dict[str, Module]:
    """Follows imports to plgolf's modules and to the user's, but not to installed packages.

    Args:
        roots: names of the modules to begin with; installed ones are left out.
        needed: returns True for the name of an imported module that is to be packed.
        known: modules that are not read from their files.

    Returns:
        Modules by name, packages included.

    Raises:
        UserError: a source file cannot be read.
    """
    found: dict[str, Module] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        module = _read(name) if known is None else known.get(name)
        if module is None:
            continue
        found[name] = module
        package = name.rpartition(".")[0]
        todo += [package] if package else []
        todo += filter(needed, _imports(module.tree))
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


def imported_names(tree: ast.Module) -> set[str]:
    """Returns the names that a module imports from others."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names}


def _read(name: str) -> Module | None:
    """Reads a module's source; returns None for installed modules and for what is not a module."""
    file = _source_file(name)
    if file is None:
        return None
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError) as error:
        raise UserError(f"{file}: cannot be packed: {error}") from error
    path = name.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")
    return Module(ast.fix_missing_locations(_Strip().visit(tree)), path)


def _source_file(name: str) -> Path | None:
    if not _is_own(name.partition(".")[0]):
        return None
    path = _origin(name)
    return path if path and path.suffix == ".py" else None


@functools.cache
def _is_own(package: str) -> bool:
    """Returns True for plgolf and for what is imported from the user's folders, not from a library."""
    path = _origin(package)
    if package == "plgolf" or path is None:
        return package == "plgolf"
    libraries = {"site-packages", "dist-packages"}
    installed = libraries & set(path.parts) or path.is_relative_to(sysconfig.get_path("stdlib"))
    return not installed


def _origin(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # A function or a class of a module that is not a package.
            return None
        file = spec.origin if spec and spec.has_location else None
    return Path(file) if file else None


class _Strip(ast.NodeTransformer):
    """Removes docstrings, ``TYPE_CHECKING`` blocks and the annotations that nothing reads.

    Arguments of ``__init__`` and fields of dataclasses keep theirs, since settings get their types from
    these, and so do decorated functions, whose decorators may read them.
    """

    in_fields = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._visit(node, in_fields=False)
        if node.decorator_list:
            return node
        node.returns = None
        for argument in ast.walk(node.args) if node.name != "__init__" else ():
            if isinstance(argument, ast.arg):
                argument.annotation = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        named_tuple = any(ast.unparse(base).endswith("NamedTuple") for base in node.bases)
        self._visit(node, in_fields=named_tuple or bool(node.decorator_list))
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self._visit(node, in_fields=False)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if self.in_fields:
            return node
        return None if node.value is None else ast.Assign([node.target], node.value)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else node

    def _visit(self, node: ast.FunctionDef | ast.ClassDef | ast.Module, *, in_fields: bool) -> None:
        before, self.in_fields = self.in_fields, in_fields
        self.generic_visit(node)
        self.in_fields = before
        body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
        node.body = body or ([] if isinstance(node, ast.Module) else [ast.Pass()])
