"""A sample of the training documents for the tokenizer."""

import heapq
from collections.abc import Callable

from plgolf.corpus.splitting import Corpus, check_splits
from plgolf.corpus.tokenizer_training import TokenizerRecipe
from plgolf.errors import UserError

_MAX_SAMPLED = 1_000_000
"""Largest number of documents in a sample; short documents take far more memory than their text."""


def draw_sample(
    corpus: Corpus,
    recipe: TokenizerRecipe,
    *,
    tick: Callable[[int], None] = lambda count: None,  # noqa: ARG005
) -> list[str]:
    """Draws training documents at random, at least one, in one reading of all files.

    Calls ``tick`` with the number of documents so far.

    Returns:
        Their texts in the order of the files, without copies of validation documents.

    Raises:
        UserError: a split has no documents, or no document can be drawn.
    """
    normalize, longest = recipe.normalizer(), recipe.longest_bytes
    heap: list[tuple[int, int, str]] = []
    held_out: set[int | None] = set()
    size = count = train = 0
    # The rule by hash puts all copies of a document into the same split.
    looks_for_copies = not corpus.holdout.by_hash
    for stream in corpus.streams(normalize):
        for split, document in stream:
            count += 1
            tick(count)
            copy = corpus.hash(normalize(document.text), b"copy") if looks_for_copies else None
            if split == "val":
                held_out.add(copy)
                continue
            train += 1
            is_copy, is_long = copy in held_out, longest is not None and document.num_bytes > longest
            if (looks_for_copies and is_copy) or is_long:
                continue
            # The documents with the smallest hashes are kept, in a heap of the negative hashes.
            heapq.heappush(heap, (-corpus.hash(document.text, b"sample"), -count, document.text))
            size += document.num_bytes
            while (size > recipe.sample_bytes or len(heap) > _MAX_SAMPLED) and len(heap) > 1:
                size -= len(heapq.heappop(heap)[2].encode())
    check_splits({"train": train, "val": count - train})
    if not heap:
        raise UserError(
            f"the tokenizer must have a document to train on: all {train} training documents are equal to a "
            f"validation document or longer than {longest} bytes (see --separator, or use --tokenizer)"
        )
    return [text for _, _, text in sorted(heap, key=lambda item: -item[1])]
