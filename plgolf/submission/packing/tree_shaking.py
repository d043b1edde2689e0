"""Removes functions, classes and constants that nothing mentions ("tree shaking")."""

import ast
import re
from collections.abc import Mapping

from plgolf.submission.packing.modules import Module

_HARMLESS = {"dataclass", "contextmanager", "cache", "no_grad", "inference_mode"}
"""Decorators without an effect beyond what they decorate."""


def words_in(tree: ast.AST) -> set[str]:
    """Returns every name that code mentions, in strings too: classes may be named there."""
    words: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                words.add(name)
            case ast.Constant(value=str(text)):
                words.update(re.findall(r"\w+", text))
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                for alias in names:
                    words.update({alias.name.rpartition(".")[2], alias.asname or alias.name})
    return words


def keep_used(modules: Mapping[str, Module], words: set[str]) -> None:
    """Removes top-level definitions and imports of plgolf's modules that no used code mentions.

    A definition is used if its name occurs anywhere in used code, so one too many may stay, but none is
    missing, unless its name is put together at run time. Other statements and other modules stay whole.

    Args:
        modules: by name; their trees are changed.
        words: names that are used from elsewhere.
    """
    words = set(words)
    own = {name: module.tree for name, module in modules.items() if name.split(".")[0] == "plgolf"}
    for name, module in modules.items():
        if name not in own:
            words |= words_in(module.tree)
    unused = [(tree, node) for tree in own.values() for node in tree.body]
    used: dict[int, set[str]] = {id(tree): set() for tree in own.values()}
    kept: set[int] = set()
    while True:
        for tree, node in (found := [(t, n) for t, n in unused if _is_used(n, words)]):
            mentioned = words_in(node)
            words |= mentioned
            used[id(tree)] |= mentioned
            kept.add(id(node))
        unused = [(tree, node) for tree, node in unused if id(node) not in kept]
        if not found:
            break
    for name, tree in own.items():
        # A package's imports are there for others, a module's for itself.
        here = words if modules[name].path.endswith("__init__.py") else used[id(tree)]
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                node.names = [a for a in node.names if (a.asname or a.name).partition(".")[0] in here]
        tree.body = [n for n in tree.body if id(n) in kept or getattr(n, "names", None)]


def _is_used(node: ast.stmt, words: set[str]) -> bool:
    """Returns True for a statement that defines a word, or that does anything but define."""
    match node:
        case ast.Import() | ast.ImportFrom():
            return False
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            decorators = {ast.unparse(d).partition("(")[0].rpartition(".")[2] for d in node.decorator_list}
            return name in words or name.startswith("__") or not decorators <= _HARMLESS
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name in words and name != "__all__"
    return True
