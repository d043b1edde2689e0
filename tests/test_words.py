"""Keeps phrases that are not plain English out of the sources, the pages and the recipes."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pages import REPOSITORY


def files(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(REPOSITORY.glob(pattern))]


SOURCES = files("plgolf/**/*.py", "benchmarks/**/*.py")
TEXTS = files(
    "*.md", "docs/*.md", "benchmarks/*.md", "checkpoints/*.md", "configs/**/*.md", "configs/**/*.yaml"
)

_COMPARED = "longer|more|less|fewer|larger|smaller|better|worse|faster|slower|earlier|later|higher|lower"


class Phrase(NamedTuple):
    """A banned phrase.

    Args:
        pattern: finds it in text whose white space is single spaces.
        instead: what to write.
        bad: text that it must find.
        good: texts that it must not find.
    """

    pattern: str
    instead: str
    bad: tuple[str, ...]
    good: tuple[str, ...] = ()


PHRASES = [
    Phrase(
        rf"(?i)\b(?<!there )(?:is|are|was|were) no (?!(?:{_COMPARED})\b)\w",
        "is not a, there is no, has no",
        ("the file is no artifact", "steps that are no numbers", "What was no file"),
        (
            "the loss is no longer finite",
            "it is no larger than a shard",
            "there is no GPU",
            "if there are no shards",
            "There was no reason",
            "the model has no head",
            "the answer is no.",
            "this normal form",
        ),
    ),
    Phrase(
        r"\b(?i:that|which) (?:is|are) none\b",
        "the word for what it is, such as NaN or missing",
        ("a number that is none", "for gradients which are none"),
        ("a value that is None", "that is nonempty"),
    ),
    Phrase(r"(?i)\banew\b", "again", ("starts anew",), ("is a new file", "renewed")),
    Phrase(r"(?i)\bamid\b", "during, inside", ("ends amid a step",), ("a pyramid",)),
    Phrase(r"(?i)\bas ever\b", "as before, still", ("trains as ever",), ("as every rank does", "was ever")),
    Phrase(r"(?i)\bwhoever\b", "the caller, anyone who", ("Whoever calls it",), ("who ever calls it",)),
    Phrase(r"(?i)\bwhat becomes of\b", "the result of", ("what becomes of a file",), ("what it becomes",)),
    Phrase(
        r"(?i)\bgoes on\b(?! (?:the|a|an|top|each|its|one|line)\b)",
        "continues, resumes",
        ("a run goes on after it", "the rest goes on."),
        ("the cap goes on the logits", "it goes on top", "it goes only once"),
    ),
    Phrase(
        r"^Of\b",
        "a noun",
        ("Of a header, by version.",),
        ("Number of ranks. Of these, two", "Offset", "of one, if there is one"),
    ),
    Phrase(r"\bSays whether\b", "Returns True if", ("Says whether it fits.",), ("The help says whether",)),
    Phrase(r"\bDoes the same\b", "the action", ("Does the same on a GPU.",), ("if it does the same",)),
]


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the texts of a file, each with the number of its first line and single spaces."""
    text = path.read_text()
    if path.suffix == ".py":
        found = [*_strings(ast.parse(text)), *_comments(text)]
    elif path.suffix == ".yaml":
        found = _comments(text)
    else:
        found = _paragraphs(text)
    for line, part in found:
        yield line, " ".join(part.split())


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields the strings of a program; the letter X stands for a value inside an f-string."""
    inner = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
            inner |= set(node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inner:
            yield node.lineno, node.value


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Yields comments; those on consecutive lines are one text."""
    first, last, words = 0, -1, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        number, comment = token.start[0], token.string.lstrip("#! ")
        if words and number != last + 1:
            yield first, words
            words = ""
        first, last, words = first if words else number, number, f"{words} {comment}"
    if words:
        yield first, words


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yields the paragraphs of a page; lines of a table and items of a list are texts of their own."""
    first, words = 0, ""
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if words and (not line.strip() or re.match(r" *([-*|]|\d+\. )", line)):
            yield first, words
            words = ""
        first, words = first if words else number, f"{words} {line}".strip()


def faults_of(path: Path) -> list[str]:
    """Returns the banned phrases of a file: place, phrase, some of the text around it, what to write."""
    at = path.relative_to(REPOSITORY)
    return [
        f"{at}:{line}: {found[0]!r} in {text[max(found.start() - 40, 0) :][:100]!r}, write: {phrase.instead}"
        for line, text in texts_of(path)
        for phrase in PHRASES
        for found in re.finditer(phrase.pattern, text)
    ]


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: phrase.pattern)
def test_a_phrase_is_found_in_bad_english_alone(phrase):
    for text in phrase.bad:
        assert re.search(phrase.pattern, text), text
    for text in phrase.good:
        assert not re.search(phrase.pattern, text), text


def test_phrases_are_found_in_strings_comments_and_pages(tmp_path, monkeypatch):
    monkeypatch.setitem(faults_of.__globals__, "REPOSITORY", tmp_path)
    program, page, recipe = (tmp_path / f"text.{kind}" for kind in ("py", "md", "yaml"))
    program.write_text(
        '"""Starts\nanew."""\n\nX = 1  # Ends\n# amid it.\n'
        'Y = f"{X} is " f"no file"\nZ = "it " "goes on"\nanew = amid = None\n'
    )
    page.write_text("A file is\nno file.\n\n| as ever |\n- item\n- Does the\n  same\n")
    recipe.write_text("a: 1  # That is\n# none.\n")
    places = [fault.split(" in ")[0] for path in (program, page, recipe) for fault in faults_of(path)]
    assert sorted(places) == [
        "text.md:1: 'is no f'",
        "text.md:4: 'as ever'",
        "text.md:6: 'Does the same'",
        "text.py:1: 'anew'",
        "text.py:4: 'amid'",
        "text.py:6: 'is no f'",
        "text.py:7: 'goes on'",
        "text.yaml:1: 'That is none'",
    ]


def test_sources_pages_and_recipes_are_in_plain_english():
    assert len(SOURCES) > 100 and len(TEXTS) > 15
    faults = [fault for path in [*SOURCES, *TEXTS] for fault in faults_of(path)]
    assert not faults, f"{len(faults)} phrases that are not plain English:\n" + "\n".join(faults)
