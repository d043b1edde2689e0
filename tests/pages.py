"""The fenced blocks of a page: what they are, and what commands they hold."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml))\n")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        language: the first word after the fence.
        info: what else stands there.
        text: its lines.
    """

    language: str
    info: str
    text: str

    @property
    def path(self) -> str | None:
        """The file that the block is, by its first line."""
        match = _FILE.match(self.text)
        return match[1] if match else None

    @property
    def content(self) -> str:
        """The file's content: the block without the line that names it."""
        return _FILE.sub("", self.text, count=1)


def blocks(page: Path) -> list[Block]:
    return [Block(language, info.strip(), text) for language, info, text in _FENCE.findall(page.read_text())]


def commands(page: Path) -> list[list[str]]:
    """The words of every ``plgolf`` command in the page's shell blocks, without comments."""
    lines = [
        line
        for block in blocks(page)
        if block.language == "sh"
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[words.index("plgolf") + 1 :] for words in split if "plgolf" in words]


def write_files(page: Path, folder: Path) -> list[str]:
    """Writes the files that the page shows; returns their paths."""
    files = {block.path: block.content for block in blocks(page) if block.path}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return list(files)
