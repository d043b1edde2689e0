"""Removes functions, classes and constants that nothing mentions ("tree shaking")."""

import ast
import re
from collections.abc import Mapping

from plgolf.submission.packing.modules import Module

_HARMLESS = {"dataclass", "contextmanager", "cache", "no_grad", "inference_mode"}
"""Decorators without an effect beyond what they decorate."""


def words_in(tree: ast.AST) -> set[str]:
    """Returns every name that code mentions, in strings too: classes may be named there.

    Imports count only for what they rename.
    """
    words: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                words.add(name)
            case ast.Constant(value=str(text)):
                words.update(re.findall(r"\w+", text))
            case ast.alias(name=name, asname=str()):
                words.add(name)
    return words


def keep_used(modules: Mapping[str, Module], words: set[str]) -> None:
    """Removes top-level definitions and imports of plgolf's modules that no other code mentions.

    A definition is used if its name occurs anywhere, so one too many may stay, but none is missing, unless
    its name is put together at run time. Other statements and other modules stay whole.

    Args:
        modules: by name; their trees are changed.
        words: names that are used from elsewhere.
    """
    own = [module for name, module in modules.items() if name.split(".")[0] == "plgolf"]
    used = words.union(*(words_in(module.tree) for module in modules.values() if module not in own))
    unused = {node for module in own for node in module.tree.body}
    while found := {node for node in unused if _is_used(node, used)}:
        used = used.union(*map(words_in, found))
        unused -= found
    for module in own:
        tree = module.tree
        tree.body = [node for node in tree.body if node not in unused]
        # A package's imports are there for others, a module's for itself.
        here = used if module.path.endswith("__init__.py") else words_in(tree)
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                node.names = [a for a in node.names if (a.asname or a.name).partition(".")[0] in here]
        tree.body = [node for node in tree.body if getattr(node, "names", True)]


def _is_used(node: ast.stmt, words: set[str]) -> bool:
    """Returns True for a statement that defines a word, or that does anything but define."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            decorators = {ast.unparse(d).partition("(")[0].rpartition(".")[2] for d in node.decorator_list}
            return name in words or name.startswith("__") or not decorators <= _HARMLESS
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name in words and name != "__all__"
    return True
