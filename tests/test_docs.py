"""What the documentation says of this repository is there."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hook_order import PAGE, on_page, rewritten, sections
from pages import PAGES, REPOSITORY, blocks

from plgolf.cli import main
from plgolf.data.streams import StreamConfig
from plgolf.model.parts import PartsConfig
from plgolf.optim.polynomials import POLYNOMIALS
from plgolf.quantize.coders import CoderName
from plgolf.quantize.plan import CodecConfig


def test_every_fault_of_the_matrix_has_its_test():
    written = "\n".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    matrix = (REPOSITORY / "docs" / "reliability.md").read_text()
    table = matrix[matrix.index("| fault |") :].split("\n\n")[0]
    rows = table.splitlines()[2:]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rsplit("|", 2)[1])
        assert named, row
        for name in named:
            assert f"def {name}(" in written, name


def test_links_lead_somewhere():
    folders = (REPOSITORY, REPOSITORY / "docs", REPOSITORY / "benchmarks")
    for page in (page for folder in folders for page in folder.glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_every_technique_has_its_line():
    names = [field.name for table in (PartsConfig, CodecConfig) for field in fields(table)]
    names += [*POLYNOMIALS, *get_args(get_type_hints(StreamConfig)["kind"]), *get_args(CoderName)]
    page = (REPOSITORY / "docs" / "techniques.md").read_text()
    missing = [name for name in names if not re.search(rf"\b{name}\b", page) and name != "quintic"]
    assert missing == []


def python_of(page: Path) -> list[str]:
    """The page's Python that is no file; what is fenced as ``python no-run`` is left out."""
    return [b.text for b in blocks(page) if b.language == "python" and not b.path and b.info != "no-run"]


def test_the_pages_that_are_to_be_read_are_short():
    for name, most in (("extending", 250), ("own_classes", 250), ("troubleshooting", 250), ("recipes", 200)):
        assert len((REPOSITORY / "docs" / f"{name}.md").read_text().splitlines()) <= most, name


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("--modle.gpt.dim=3", "plgolf fit has no setting modle.gpt.dim (did you mean --model.gpt.dim?)"),
        ("--model.gpt.vocab_size=1024", "vocab_size must equal the "),
        ("--data.micro_batch_sequences=5", "data.micro_batch_sequences must divide the "),
        ("--trainer.accumulate_grad_batches=3", "trainer.accumulate_grad_batches must be left alone"),
        ("--trainer.max_steps=-1", "clock.max_seconds or trainer.max_steps must be set, got neither"),
    ],
)
def test_mistakes_are_called_what_the_page_calls_them(mistake, message, golden_recipe, capfd, monkeypatch):
    monkeypatch.chdir(golden_recipe.parent)
    assert main(["fit", "-c", str(golden_recipe), mistake]) == 2
    assert message in capfd.readouterr().err
    assert message in PAGE.read_text()


@pytest.mark.slow
def test_the_hooks_of_a_run_come_in_the_order_of_the_page(golden_recipe, tmp_path):
    page = {title: [name for name, _ in lines] for title, lines in on_page(PAGE.read_text()).items()}
    recorded = sections(golden_recipe, tmp_path)
    assert list(page) == list(recorded)
    for title, names in recorded.items():
        assert page[title] == names, f"{title}: `python tests/hook_order.py` corrects the page"
    # A change of the order would show.
    title, names = next(iter(recorded.items()))
    assert rewritten(PAGE.read_text(), {**recorded, title: names[::-1]}) != PAGE.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=lambda path: path.stem)
def test_python_blocks_run(page, quickstart, tmp_path):
    code = python_of(page)
    shutil.copytree(quickstart, tmp_path, dirs_exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", "\n".join(code)]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
