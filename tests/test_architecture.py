"""The house rules of docs/design.md, checked on the sources."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import plgolf

PACKAGE = Path(plgolf.__file__).parent
LEAVES = {
    "arguments",
    "config",
    "console",
    "distributed",
    "hardware",
    "progress",
    "errors",
    "files",
    "roles",
    "tensor_file",
    "version",
}
ALLOWED = {
    "version": set(),
    "errors": set(),
    "files": {"errors"},
    "console": set(),
    "roles": set(),
    "config": {"errors"},
    "distributed": set(),
    "hardware": {"errors"},
    "progress": set(),
    "metrics": set(),
    "arguments": {"errors", "files"},
    "tensor_file": {"errors"},
    "model": LEAVES,
    "optim": LEAVES,
    "quantize": LEAVES | {"model"},
    "data": LEAVES,
    "interop": {"reference"},
    "reference": LEAVES | {"model", "quantize"},
    "header": LEAVES | {"model"},
    "container": LEAVES | {"model", "quantize", "header"},
    "evaluate": LEAVES | {"model", "data"},
    "artifact": LEAVES | {"model", "reference", "header", "container"},
    "submission": LEAVES,
    "corpus": LEAVES | {"data"},
    "generation": LEAVES | {"model", "data", "evaluate", "artifact"},
    "report": LEAVES,
    "training": LEAVES
    | {"model", "optim", "data", "corpus", "evaluate", "reference", "artifact", "submission"}
    | {"header", "quantize"}
    | {"generation", "report"},
    "cli": LEAVES | {"corpus", "generation", "report", "training"},
    "__init__": LEAVES | {"model", "optim", "evaluate", "generation"},
    "__main__": {"cli"},
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def test_imports_point_one_way():
    assert len(SOURCES) > 30
    for path in SOURCES:
        ours = {n.split(".")[1] for n in imported(path) if n.startswith("plgolf.")}
        assert ours - {room(path)} <= ALLOWED[room(path)], path


def test_only_the_shell_knows_lightning():
    parsers = {"corpus/cli.py", "generation/cli.py"}
    for path in SOURCES:
        outside = {n.split(".")[0] for n in imported(path)} & {"lightning", "jsonargparse"}
        if room(path) == "arguments" or path.relative_to(PACKAGE).as_posix() in parsers:
            assert outside <= {"jsonargparse"}, path
        else:
            assert not outside or room(path) == "training", path


def test_making_datasets_reports_and_help_texts_needs_no_torch():
    code = (
        "import sys; import plgolf.corpus.cli, plgolf.generation.cli, plgolf.report.cli, plgolf.cli; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


STILL_LARGE = {"ArtifactExport", "GolfCLI", "GolfModule", "ShardDataModule", "TrainClock"}
"""Classes over the limit: settings, hooks of Lightning and their documentation in one class."""


def test_files_classes_and_functions_stay_small_and_well_named():
    found = set()
    for path in SOURCES:
        assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
        assert len(path.read_text().splitlines()) <= 250, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                length = node.end_lineno - node.lineno + 1
                limit = 50 if isinstance(node, ast.FunctionDef) else 150
                found |= {node.name} if length > limit else set()
    assert found == STILL_LARGE, "one that is small again leaves the list; none enters it"


def test_settings_never_come_from_environment_variables():
    for path in SOURCES:
        assert not re.search(r"os\.environ|getenv", path.read_text()), path


def test_no_text_names_an_extra_of_an_unclaimed_package():
    """``plgolf`` is not on the package index, where anyone could take the name."""
    root = PACKAGE.parent
    pages = [*root.glob("*.md"), *(root / "docs").glob("*.md"), *(root / "configs").rglob("*.yaml"), *SOURCES]
    assert [str(page) for page in pages if re.search(r"plgolf\[|install plgolf", page.read_text())] == []
