"""SentencePiece models, and what makes one lossless."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor, set_min_log_level

from plgolf.data.byte_counts import ByteCounts
from plgolf.data.tokenizer.base import Ids, Tokenizer
from plgolf.errors import UserError

SPACE = "\u2581"
"""SentencePiece's mark for a space, at the start of a piece or inside it."""


_FATAL = 3


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model.

    A model that neither normalises nor adds or removes spaces, and falls back to bytes, is lossless but for
    what SentencePiece's own marks stand in the way of: a document's first space (whose byte the challenge's
    rule would not count) and U+2581 (which would come back as a space). Those are encoded as bytes here.

    Args:
        model: contents of a ``.model`` file.

    Raises:
        UserError: they are no SentencePiece model, or one without a begin-of-sequence id.
    """

    kind = "sentencepiece"
    file_name = "tokenizer.model"

    def __init__(self, model: bytes) -> None:
        # What it has to say of a broken file is said by the error.
        set_min_log_level(_FATAL)
        try:
            if not model:
                raise ValueError("empty")
            self.processor = SentencePieceProcessor(model_proto=model)
            # Every piece once: one that is no UTF-8 is an error only where it is asked for.
            self.processor.id_to_piece(list(range(self.processor.get_piece_size())))
        except Exception as error:  # Of the C++ library, which does not document which.
            raise UserError("is no SentencePiece model") from error
        self._model = model
        self.vocab_size = self.processor.get_piece_size()
        self.bos_id = self.processor.bos_id()
        if not 0 <= self.bos_id < self.vocab_size:
            raise UserError("has no begin-of-sequence piece")
        self.has_space = not self.processor.is_unknown(self.processor.piece_to_id(SPACE))
        """Whether a space alone is a piece. Else it falls back to the three bytes of its mark, for good."""
        ids = [i for i in range(self.vocab_size) if self.processor.is_byte(i)]
        self._byte_ids = np.array(ids, dtype=np.int32)

    @cached_property
    def lossless(self) -> bool:  # type: ignore[override]
        # Only this takes protobuf, and training on shards asks for it nowhere.
        from sentencepiece.sentencepiece_model_pb2 import ModelProto  # noqa: PLC0415

        normalizer = ModelProto.FromString(self._model).normalizer_spec
        return (
            len(self._byte_ids) == 256
            and self.has_space
            and not normalizer.precompiled_charsmap
            and not normalizer.add_dummy_prefix
            and not normalizer.remove_extra_whitespaces
            and bool(normalizer.escape_whitespaces)
        )

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        encoded: list[Ids] = self.processor.encode(list(texts), return_type="numpy", num_threads=1)
        if self.lossless:
            for index, text in enumerate(texts):
                if text.startswith(" ") or SPACE in text:
                    encoded[index] = self._encode_marks(text)
        return encoded

    def _encode_marks(self, text: str) -> Ids:
        parts: list[Ids] = []
        if text.startswith(" "):
            parts.append(self._byte_ids[[0x20]])
            text = text[1:]
        for index, segment in enumerate(text.split(SPACE)):
            if index:
                parts.append(self._byte_ids[list(SPACE.encode())])
            parts.append(self.processor.encode(segment, return_type="numpy"))
        return np.concatenate(parts)

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self.processor.decode(list(ids))
        return text

    def byte_of(self, index: int) -> int | None:
        return self._bytes.get(index)

    def normalize(self, text: str) -> str:
        if self.lossless:
            return text
        if not self._byte_ids.size:  # All that is not in the vocabulary is one id.
            return " ".join(map(str, self.encode(text).tolist()))
        normal: str = self.processor.normalize(text)
        return normal

    @cached_property
    def _bytes(self) -> dict[int, int]:
        # They are called <0x00> to <0xFF>.
        return {i: int(self.processor.id_to_piece(i)[3:5], base=16) for i in self._byte_ids.tolist()}

    @cached_property
    def byte_counts(self) -> ByteCounts[NDArray[np.generic]]:
        processor, size = self.processor, self.vocab_size
        base = np.zeros(size, dtype=np.int32)
        space = np.zeros(size, dtype=np.bool_)
        boundary = np.ones(size, dtype=np.bool_)
        for index in range(size):
            if processor.is_control(index) or processor.is_unknown(index) or processor.is_unused(index):
                continue
            boundary[index] = False
            if processor.is_byte(index):
                base[index] = 1
                continue
            piece = processor.id_to_piece(index)
            space[index] = piece.startswith(SPACE)
            base[index] = len(piece.removeprefix(SPACE).replace(SPACE, " ").encode())
        return ByteCounts(base, space, boundary)

    def raw_bytes(self, text: str, ids: Ids) -> NDArray[np.int64]:
        if self.lossless:
            return self.byte_counts.of_stream(ids).astype(np.int64)
        found = self.processor.encode(text, return_type="offset_mapping", return_bytes=True)
        # From where a token's surface starts to where the next one's does: what is dropped between or after
        # two tokens belongs to the first, and what is dropped in front of all of them to the first, too.
        starts = np.array([start for start, _ in found["offsets"]], dtype=np.int64)
        starts[0] = 0
        return np.diff(starts, append=len(text.encode()))

    def to_bytes(self) -> bytes:
        return self._model
