"""Gives functions and constants of plgolf short names, the same ones in all packed modules."""

import ast
import itertools
import re
import string
from collections.abc import Iterable, Iterator
from typing import Any

from plgolf.submission.packing.tree_shaking import words_in


def shorten_names(trees: Iterable[ast.Module], keep: set[str]) -> None:
    """Renames what modules define at their top level, where nothing else has the name.

    Classes keep their names, which settings, checkpoints and messages show, and so does what is also an
    attribute, an argument, a part of a short string or imported from elsewhere.

    Args:
        trees: all modules, which are changed.
        keep: names that something else refers to.
    """
    trees = list(trees)
    defined = {name for tree in trees for node in tree.body for name in _defined_by(node)}
    taken = keep.union(*map(words_in, trees))
    kept = keep.union(*(_other_uses(node) for tree in trees for node in ast.walk(tree)))
    fresh = (name for name in _short_names() if name not in taken)
    # Private names are shortened by the minifier, module by module.
    names = sorted(name for name in defined - kept if not name.startswith("_") and len(name) > 2)
    renamer = _Renamer(dict(zip(names, fresh, strict=False)))
    for tree in trees:
        renamer.visit(tree)


def _defined_by(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
            yield name


def _other_uses(node: ast.AST) -> set[str]:
    """Returns names that are not variables, or that ``_Renamer`` does not see."""
    names: set[Any] = set()
    match node:
        case ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=name):
            names = {name}
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            names = {name}
        case ast.Constant(value=str(text)):
            names = set(re.findall(r"\w+", text))
        case ast.ClassDef(name=name, body=body):
            stored = [n for part in body if not isinstance(part, ast.FunctionDef) for n in ast.walk(part)]
            methods = {part.name for part in body if isinstance(part, ast.FunctionDef)}
            names = {name, *methods, *(n.id for n in stored if isinstance(n, ast.Name))}
        case ast.ImportFrom(module=str(module), names=aliases):
            # Parts of module names are names of files.
            names = {*module.split("."), *(alias.asname for alias in aliases)}
            names |= {alias.name for alias in aliases if module.split(".")[0] != "plgolf"}
        case ast.Import(names=aliases):
            names = {part for alias in aliases for part in (*alias.name.split("."), alias.asname)}
        case ast.Global(names=listed) | ast.Nonlocal(names=listed):
            names = set(listed)
    return {name for name in names if name}


def _short_names() -> Iterator[str]:
    for first, second in itertools.product(string.ascii_uppercase, string.ascii_lowercase):
        yield first + second


class _Renamer(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        for alias in node.names:
            alias.name = self.names.get(alias.name, alias.name)
        return node
