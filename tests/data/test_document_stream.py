import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plgolf.corpus.document_stream import digests, whole_documents
from plgolf.data.shards import ShardReader, find_shards, write_shard

STREAMS = st.lists(st.integers(0, 3), min_size=1, max_size=60)
BOS = 1


def split(tokens: list[int]) -> list[list[int]]:
    documents: list[list[int]] = []
    for token in tokens:
        if token == BOS or not documents:
            documents.append([])
        documents[-1].append(token)
    return documents


@given(stream=STREAMS, chunk=st.integers(1, 20), cuts=st.integers(1, 4))
def test_documents_are_whole_however_they_are_read(tmp_path_factory, stream, chunk, cuts):
    folder = tmp_path_factory.mktemp("stream")
    for index, part in enumerate(np.array_split(np.array(stream, dtype=np.uint16), cuts)):
        write_shard(folder / f"x_val_{index:06d}.bin", part)
    reader = ShardReader(find_shards(folder, "val"))
    found = []
    for tokens, starts in whole_documents(reader, BOS, chunk_tokens=chunk):
        assert tokens.size <= 6 * chunk and starts[0] == 0
        found += [document.tolist() for document in np.split(tokens, starts[1:])]
    assert [token for document in found for token in document] == stream
    expected = split(stream)
    if max(map(len, expected)) <= 3 * chunk:
        assert found == expected


@given(known=STREAMS, other=STREAMS)
def test_known_documents_are_found_and_no_others(known, other):
    def arrays(stream):
        return [np.array(document, dtype=np.uint16) for document in split(stream)]

    held_out = set(digests(arrays(known)))
    assert len(held_out) == len({tuple(document) for document in split(known)})
    found = {i for i, digest in enumerate(digests(arrays(other))) if digest in held_out}
    assert found == {i for i, document in enumerate(split(other)) if document in split(known)}
    long = np.arange(50, dtype=np.uint16)
    longer = np.append(long, 7).astype(np.uint16)
    assert digests([longer]) != digests([long]) == digests(np.split(longer, [50])[:1])
