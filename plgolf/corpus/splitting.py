"""Division of the documents into a training and a validation split."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from plgolf.corpus.documents import Document, Flaw, Reading, end_of_part
from plgolf.corpus.text_files import TextFile
from plgolf.errors import UserError, at_least

OnError = Literal["stop", "skip"]
Labelled = Iterator[tuple[str, Document]]


@dataclass(frozen=True)
class Holdout:
    """Choice of the validation documents, by one of three rules.

    Args:
        val_fraction: share of the documents, 0.05 if no rule is given; they are chosen by a hash of each
            text, which does not depend on their order and keeps equal texts together. At least one is held
            out; of a single text, its end.
        val_documents: number of documents, taken from the beginning.
        val_inputs: files or patterns of the validation documents; all other documents are for training.
    """

    val_fraction: float | None = None
    val_documents: int | None = None
    val_inputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rules = [self.val_fraction is not None, self.val_documents is not None, bool(self.val_inputs)]
        if sum(rules) > 1:
            raise UserError("only one of val_fraction, val_documents and val_inputs may be given")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(f"val_fraction must be between 0 and 1, got {self.val_fraction}")
        if self.val_documents is not None:
            at_least("val_documents", self.val_documents, 1)

    @property
    def by_hash(self) -> bool:
        """True if the rule is a hash of the text."""
        return self.val_documents is None and not self.val_inputs

    @property
    def fraction(self) -> float:
        """Share of the documents that the rule by hash holds out."""
        return 0.05 if self.val_fraction is None else self.val_fraction


class Corpus:
    """Documents of a dataset and their splits; ``seed`` is for the rule by hash.

    Raises:
        UserError: a file is given twice.
    """

    def __init__(
        self,
        files: Sequence[TextFile],
        val_files: Sequence[TextFile],
        reading: Reading,
        holdout: Holdout,
        *,
        seed: int,
        on_error: OnError,
    ) -> None:
        _check_distinct(files, val_files)
        self.files, self.val_files, self.reading = list(files), list(val_files), reading
        self.holdout, self.on_error = holdout, on_error
        self._salt = seed.to_bytes(8, "little", signed=True)
        self._threshold = int(holdout.fraction * 2**64)
        self._is_cut = False
        if holdout.by_hash and len(self.files) == 1 and self.files[0].is_text:
            self.files[0].cut_long = reading.separator is None
        self._finished_bytes = 0
        self._current: TextFile | None = None
        self.left_out: Counter[str] = Counter()
        """Number of documents that the current reading has refused, by reason."""

    @property
    def all_files(self) -> list[TextFile]:
        """All files, those for validation first."""
        return [*self.val_files, *self.files]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.all_files)

    @property
    def position(self) -> int:
        """Bytes of all files that the current reading has read."""
        return self._finished_bytes + (self._current.position if self._current else 0)

    def settle(self, normalize: Callable[[str], str]) -> str:
        """Makes sure that the rule by hash gives both splits a document; returns a note for the user, if any.

        Reads until both have one: few documents of a large corpus, all of a small one. If one split has none,
        it gets the document with the hash nearest to it. A single text is cut, near its end.
        """
        if not self.holdout.by_hash:
            return ""
        low, high, documents = 2**64, -1, 0
        self._rewind()
        for document in self._documents(self.files):
            documents += 1
            value = self.hash(normalize(document.text))
            low, high = min(low, value), max(high, value)
            if low < self._threshold <= high:
                break
        share = f"{100 * self.holdout.fraction:g} %"
        chance = f"of {documents} documents (--val_fraction, {share})"
        notes = []
        if documents == 1:
            self._is_cut = True
            notes = [f"a single text is cut near its end: about {share} of it is held out"]
        elif documents and self.files[0].cut_long:
            notes = ["a single long text is cut into documents after paragraphs"]
        if self._threshold <= low < high:
            self._threshold = low + 1
            notes.append(f"chance held out none {chance}: one is held out")
        elif low < high < self._threshold:
            self._threshold = high
            notes.append(f"chance held out all {chance}: one is for training")
        return "; ".join(notes)

    def streams(self, normalize: Callable[[str], str]) -> Iterator[Labelled]:
        """Reads all documents, again at each call; those that ``normalize`` makes equal share a split.

        Yields:
            Streams that must be read to their ends, one after the other: validation, then training documents;
            or one stream of both, if the rule is by hash.
        """
        self._rewind()
        documents = self._documents(self.files)
        if self.val_files:
            yield (("val", document) for document in self._documents(self.val_files))
        elif self.holdout.val_documents is not None:
            yield (("val", document) for document in islice(documents, self.holdout.val_documents))
        elif self._is_cut:
            fraction = self.holdout.fraction
            yield (part for document in documents for part in _two_parts(document, fraction))
            return
        else:
            yield (
                ("val" if self.hash(normalize(document.text)) < self._threshold else "train", document)
                for document in documents
            )
            return
        yield (("train", document) for document in documents)

    def reject(self, flaw: Flaw) -> None:
        """Counts a document that is refused, or raises a UserError."""
        if self.on_error == "stop":
            raise UserError(f"{flaw} (--on_error skip leaves such documents out)")
        self.left_out[flaw.reason] += 1

    def hash(self, text: str, purpose: bytes = b"split") -> int:
        """Returns a 64-bit hash of a text, which depends on the seed and the purpose."""
        digest = hashlib.blake2b(text.encode(), digest_size=8, key=self._salt, person=purpose)
        return int.from_bytes(digest.digest(), "little")

    def _rewind(self) -> None:
        self.left_out.clear()
        self._finished_bytes, self._current = 0, None

    def _documents(self, files: Iterable[TextFile]) -> Iterator[Document]:
        for file in files:
            self._current = file
            for item in file.documents(self.reading):
                if isinstance(item, Flaw):
                    self.reject(item)
                else:
                    yield item
            self._current = None
            self._finished_bytes += file.size


def _check_distinct(files: Sequence[TextFile], val_files: Sequence[TextFile]) -> None:
    paths, val_paths = ([file.path.resolve() for file in each] for each in (files, val_files))
    for inputs in (paths, val_paths):
        repeated = Counter(inputs).most_common(1)
        if repeated and repeated[0][1] > 1:
            raise UserError(f"{repeated[0][0]}: is among the inputs {repeated[0][1]} times")
    if both := set(paths) & set(val_paths):
        raise UserError(f"{both.pop()}: is among the training and the validation inputs")


def _two_parts(document: Document, fraction: float) -> Labelled:
    """Cuts a document in two at the end of a paragraph, else of a line, else of a word."""
    data = document.text.encode()
    held_out = max(1, round(fraction * len(data)))
    cut = end_of_part(data, max(0, len(data) - 2 * held_out), len(data) - held_out)
    line = document.line + data.count(b"\n", 0, cut)
    for split, part, first_line in (("train", data[:cut], document.line), ("val", data[cut:], line)):
        if part:
            yield split, Document(part.decode(), len(part), document.file, first_line)


def check_splits(documents: Mapping[str, int]) -> None:
    """Raises a UserError if a split has no documents; takes the number in each."""
    for split, count in documents.items():
        if not count:
            raise UserError(
                f"each split must have a document, got none of {sum(documents.values())} for {split}: "
                "see --val_fraction, --val_documents and --val_inputs, and --separator for text files"
            )
