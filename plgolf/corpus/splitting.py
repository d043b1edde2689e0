"""Which documents are held out for validation, and which the tokenizer is trained on."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from plgolf.corpus.documents import Document, Flaw, Reading
from plgolf.corpus.text_files import TextFile
from plgolf.errors import UserError

OnError = Literal["stop", "skip"]
_MAX_SAMPLED = 1_000_000
"""Documents in a sample: a short one takes far more memory than its text."""

Labelled = Iterator[tuple[str, Document]]


@dataclass(frozen=True)
class Holdout:
    """Which documents are held out: one of three rules, by documents and never by shard.

    Args:
        val_fraction: share of the documents, chosen by a hash of each text; it does not depend on order, and
            equal texts stay together. The default rule, with 0.05.
        val_documents: how many documents, the first ones.
        val_inputs: documents of these files, or patterns, and none of the others.
    """

    val_fraction: float | None = None
    val_documents: int | None = None
    val_inputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rules = [self.val_fraction is not None, self.val_documents is not None, bool(self.val_inputs)]
        if sum(rules) > 1:
            raise UserError("only one of val_fraction, val_documents and val_inputs may be given")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(f"val_fraction must lie between 0 and 1, got {self.val_fraction}")
        if self.val_documents is not None and self.val_documents < 1:
            raise UserError(f"val_documents must be at least 1, got {self.val_documents}")

    @property
    def by_hash(self) -> bool:
        """Whether the rule is a hash of the text."""
        return self.val_documents is None and not self.val_inputs

    @property
    def fraction(self) -> float:
        """The share of the documents that the rule by hash holds out."""
        return 0.05 if self.val_fraction is None else self.val_fraction


class Corpus:
    """All documents of a dataset to be, each with its split.

    Args:
        files: what the documents are in.
        val_files: what the validation documents are in, where the rule is by file.
        reading: how files are read.
        holdout: the rule.
        seed: of the rule by hash.
        on_error: what happens at a document that cannot be taken: it stops everything, or it is skipped and
            counted.
    """

    def __init__(
        self,
        files: Sequence[TextFile],
        val_files: Sequence[TextFile],
        *,
        reading: Reading,
        holdout: Holdout,
        seed: int,
        on_error: OnError,
    ) -> None:
        for inputs in (files, val_files):
            repeated = Counter(file.path.resolve() for file in inputs).most_common(1)
            if repeated and repeated[0][1] > 1:
                raise UserError(f"{repeated[0][0]}: is among the inputs {repeated[0][1]} times")
        both = {file.path.resolve() for file in files} & {file.path.resolve() for file in val_files}
        if both:
            raise UserError(f"{both.pop()}: is among the training and the validation inputs")
        self.files, self.val_files, self.reading = list(files), list(val_files), reading
        self.holdout, self.on_error = holdout, on_error
        self._salt = seed.to_bytes(8, "little", signed=True)
        self._finished_bytes = 0
        self._current: TextFile | None = None
        self.left_out: Counter[str] = Counter()
        """Documents of the current reading that were not taken, by reason."""

    @property
    def all_files(self) -> list[TextFile]:
        """Every file, those for validation first."""
        return [*self.val_files, *self.files]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.all_files)

    @property
    def position(self) -> int:
        """Bytes of all files that the current reading has taken."""
        return self._finished_bytes + (self._current.position if self._current else 0)

    def streams(self, normalize: Callable[[str], str]) -> Iterator[Labelled]:
        """Reads all documents once more.

        Args:
            normalize: the tokenizer's; documents that it makes equal get into the same split.

        Yields:
            Streams to be read to their ends, one after the other: validation, then training documents; or
            one of both, if the rule is by hash.
        """
        self.left_out.clear()
        self._finished_bytes, self._current = 0, None
        documents = self._documents(self.files)
        if self.val_files:
            yield (("val", document) for document in self._documents(self.val_files))
        elif self.holdout.val_documents is not None:
            yield (("val", document) for document in islice(documents, self.holdout.val_documents))
        else:
            yield ((self._by_hash(normalize(document.text)), document) for document in documents)
            return
        yield (("train", document) for document in documents)

    def reject(self, flaw: Flaw) -> None:
        """Takes note of a document that cannot be taken, or stops because of it."""
        if self.on_error == "stop":
            raise UserError(f"{flaw} (--on_error skip leaves such documents out)")
        self.left_out[flaw.reason] += 1

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

    def _by_hash(self, text: str) -> str:
        return "val" if self._hash(text) < self.holdout.fraction * 2**64 else "train"

    def _hash(self, text: str, person: bytes = b"split") -> int:
        digest = hashlib.blake2b(text.encode(), digest_size=8, key=self._salt, person=person)
        return int.from_bytes(digest.digest(), "little")

    def sample(
        self,
        normalize: Callable[[str], str],
        max_bytes: int,
        *,
        longest_bytes: int | None = None,
        tick: Callable[[int], None] = lambda count: None,  # noqa: ARG005
    ) -> list[str]:
        """Draws training documents at random, in one reading of all files.

        Args:
            normalize: the tokenizer's.
            max_bytes: UTF-8 bytes of the sample; at least one document is drawn.
            longest_bytes: longer documents are not drawn.
            tick: called for every document with the number of those so far.

        Returns:
            Their texts in the order of the files; all training documents if they are no more than that. None
            is equal to a validation document.

        Raises:
            UserError: a split has no document, or none may be drawn.
        """
        heap: list[tuple[int, int, str]] = []
        held_out: set[int] = set()
        size = count = train = 0
        # The rule by hash has all copies of a document on one side.
        looks_for_copies = not self.holdout.by_hash
        for stream in self.streams(normalize):
            for split, document in stream:
                count += 1
                tick(count)
                if split == "val":
                    if looks_for_copies:
                        held_out.add(self._hash(normalize(document.text), b"copy"))
                    continue
                train += 1
                if longest_bytes is not None and document.num_bytes > longest_bytes:
                    continue
                if looks_for_copies and self._hash(normalize(document.text), b"copy") in held_out:
                    continue
                # The smallest hashes are kept: a max-heap of them, by negation.
                heapq.heappush(heap, (-self._hash(document.text, b"sample"), -count, document.text))
                size += document.num_bytes
                while (size > max_bytes or len(heap) > _MAX_SAMPLED) and len(heap) > 1:
                    size -= len(heapq.heappop(heap)[2].encode())
        check_splits({"train": train, "val": count - train})
        if not heap:
            raise UserError(
                f"no document to train a tokenizer on: all {train} training documents are equal to a "
                f"validation document or longer than {longest_bytes} bytes (--tokenizer takes a ready one)"
            )
        return [text for _, _, text in sorted(heap, key=lambda item: -item[1])]


def check_splits(documents: Mapping[str, int]) -> None:
    """Raises a UserError if a split has no document; takes how many each has."""
    for split, count in documents.items():
        if not count:
            raise UserError(
                f"no document got into the {split} split, of {sum(documents.values())} in all: "
                "see --val_fraction, --val_documents and --val_inputs, and --separator for text files"
            )
