"""SentencePiece models."""

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
NO_BYTE_FALLBACK = "the tokenizer has no byte fallback, so text outside its vocabulary counts 0 scored bytes"
"""Explanation of unknown pieces."""
_FATAL = 3


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model.

    A model is lossless if it falls back to bytes and neither normalises nor adds or removes spaces. Two cases
    are then encoded as byte pieces here: a document's first space, whose byte the challenge's rule would not
    count, and U+2581, which would be decoded as a space.

    Raises:
        UserError: the contents are not a SentencePiece model, or it has neither a begin-of-sequence nor an
            end-of-sequence piece.
    """

    kind = "sentencepiece"
    file_name = "tokenizer.model"

    def __init__(self, model: bytes) -> None:
        # The error below reports a broken file.
        set_min_log_level(_FATAL)
        try:
            if not model:
                raise ValueError("empty")
            self.processor = SentencePieceProcessor(model_proto=model)
            # Reads every piece: a piece that is not UTF-8 raises only when it is read.
            self.processor.id_to_piece(list(range(self.processor.get_piece_size())))
        except Exception as error:  # The C++ library does not document which.
            raise UserError("must be a SentencePiece model") from error
        self._model = model
        self.vocab_size = self.processor.get_piece_size()
        # A model without begin-of-sequence separates documents with end-of-sequence.
        separators = (self.processor.bos_id(), self.processor.eos_id())
        self.bos_id = next((index for index in separators if 0 <= index < self.vocab_size), -1)
        if self.bos_id < 0:
            raise UserError("must have a begin-of-sequence or an end-of-sequence piece")
        # Without a piece, a space would become the three bytes of its mark.
        self.has_space = not self.processor.is_unknown(self.processor.piece_to_id(SPACE))
        ids = [i for i in range(self.vocab_size) if self.processor.is_byte(i)]
        self._byte_ids = np.array(ids, dtype=np.int32)
        self.unknown_id = None if len(ids) == 256 else self.processor.unk_id()

    @cached_property
    def lossless(self) -> bool:  # type: ignore[override]
        # Only this property needs protobuf, and training on shards does not use it.
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

    def bytes_of(self, index: int) -> bytes | None:
        return self._bytes.get(index)

    def normalize(self, text: str) -> str:
        if self.lossless:
            return text
        if self.unknown_id is not None:  # Different texts outside the vocabulary have the same id.
            return " ".join(map(str, self.encode(text).tolist()))
        normal: str = self.processor.normalize(text)
        return normal

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        # Their names are <0x00> to <0xFF>.
        return {i: bytes.fromhex(self.processor.id_to_piece(i)[3:5]) for i in self._byte_ids.tolist()}

    @cached_property
    def byte_counts(self) -> ByteCounts[NDArray[np.generic]]:
        every, processor = list(range(self.vocab_size)), self.processor
        boundary = np.array(
            [processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i) for i in every]
        )
        pieces = processor.id_to_piece(every)
        space = np.array([piece.startswith(SPACE) for piece in pieces]) & ~boundary
        sizes = [len(piece.removeprefix(SPACE).replace(SPACE, " ").encode()) for piece in pieces]
        base = np.where(boundary, 0, np.array(sizes, dtype=np.int32))
        base[self._byte_ids] = 1
        return ByteCounts(base, space, boundary)

    def raw_bytes(self, text: str, ids: Ids) -> NDArray[np.int64]:
        if self.lossless:
            return self.byte_counts.of_stream(ids).astype(np.int64)
        found = self.processor.encode(text, return_type="offset_mapping", return_bytes=True)
        # From the start of a token's surface to the start of the next one's: text dropped after a token
        # belongs to it, and text dropped before all of them to the first.
        starts = np.array([start for start, _ in found["offsets"]], dtype=np.int64)
        starts[0] = 0
        return np.diff(starts, append=len(text.encode()))

    def to_bytes(self) -> bytes:
        return self._model
