"""What the documentation says of this repository is there."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


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
