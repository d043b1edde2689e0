"""``tokenizer.json`` files of byte-level BPE, through the ``tokenizers`` package."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plgolf.data.tokenizer.base import ByteLevelTokenizer, Ids, Tokenizer
from plgolf.errors import UserError, extra

if TYPE_CHECKING:
    import tokenizers

_BOS_NAMES = ("<|endoftext|>", "<|begin_of_text|>", "<|bos|>", "<bos>", "<s>")
_MAX_IDS = 2**20


class HuggingFaceTokenizer(ByteLevelTokenizer):
    """A ``tokenizer.json`` of byte-level BPE. Special tokens in a text are encoded as ordinary text.

    It is lossless unless the file has a normalizer, or its pre-tokenizer or added tokens change the text.
    The token before each document is the first one that the file's own post-processor adds, else the special
    token of a usual name, else the only special token. ``parsed`` is ``content``, the file, as a dict.

    Raises:
        UserError: ``tokenizers`` is not installed, or the file is malformed or not byte-level BPE.
    """

    kind = "tokenizers"
    file_name = "tokenizer.json"

    def __init__(self, content: bytes, parsed: Mapping[str, Any]) -> None:
        self._check_model(parsed)
        self._tokenizer = _load(content)
        self._content = content
        added = self._tokenizer.get_added_tokens_decoder()
        special = {index: token.content for index, token in added.items() if token.special}
        super().__init__(self._read_pieces(special), self._choose_bos(special))
        self._tokenizer.encode_special_tokens = True
        strips = any(token.lstrip or token.rstrip for index, token in added.items() if index not in special)
        changes = strips or parsed.get("normalizer")
        self.lossless = not changes and _keeps_text(parsed.get("pre_tokenizer"))

    @staticmethod
    def _check_model(parsed: Mapping[str, Any]) -> None:
        model = parsed.get("model")
        model = model if isinstance(model, Mapping) else {}
        if model.get("type") != "BPE" or "ByteLevel" not in _types(parsed.get("decoder")):
            raise UserError(
                "must be byte-level BPE (model BPE, decoder ByteLevel), so that the bytes of each token are "
                f"known, got model {model.get('type')!r:.50}; of a SentencePiece model, use the .model file"
            )
        for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            if model.get(key):
                raise UserError(f"its model.{key} must be empty, got {model[key]!r:.50}")
        if "ByteLevel" not in (*_types(parsed.get("pre_tokenizer")), *_types(parsed.get("normalizer"))):
            raise UserError("its pre_tokenizer must contain ByteLevel")

    def _read_pieces(self, special: Mapping[int, str]) -> list[bytes | None]:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        added = self._tokenizer.get_added_tokens_decoder()
        size = max(vocabulary.values(), default=-1) + 1
        if size > _MAX_IDS:
            raise UserError(f"its ids must be below {_MAX_IDS}, got {size - 1}")
        pieces: list[bytes | None] = [None] * size
        for text, index in vocabulary.items():
            if index not in special:
                pieces[index] = text.encode() if index in added else _bytes_of_characters(text)
        if missing := {bytes([byte]) for byte in range(256)} - set(pieces):
            raise UserError(f"its vocabulary must hold all 256 bytes, got none for {min(missing)!r}")
        return pieces

    def _choose_bos(self, special: Mapping[int, str]) -> int:
        first = self._tokenizer.encode("", add_special_tokens=True).ids[:1]
        if first and first[0] in special:
            return first[0]
        ids = {name: index for index, name in special.items()}
        named = [ids[name] for name in _BOS_NAMES if name in ids] or list(special)[: len(special) == 1]
        if not named:
            names = ", ".join(_BOS_NAMES)
            advice = "add one, or a post-processor that adds one"
            raise UserError(f"must have a special token before each document, such as {names}: {advice}")
        return named[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encoded]

    def normalize(self, text: str) -> str:
        return text if self.lossless else " ".join(map(str, self.encode(text).tolist()))

    def raw_bytes(self, text: str, ids: Ids) -> NDArray[np.int64]:
        if self.lossless:
            return super().raw_bytes(text, ids)
        # From the start of a token's text to the start of the next one's, as for SentencePiece.
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        starts = np.maximum.accumulate(np.array([start for start, _ in offsets], dtype=np.int64))
        starts[0] = 0
        sizes = [len(character.encode()) for character in text]
        positions = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return np.diff(positions[starts], append=positions[-1])

    def to_bytes(self) -> bytes:
        return self._content


def from_parsed(content: bytes, parsed: Mapping[str, Any]) -> Tokenizer:
    """Makes a tokenizer from a ``tokenizer.json``, with CaseOps if its added tokens are the operators."""
    tokenizer = HuggingFaceTokenizer(content, parsed)
    if not parsed.get("added_tokens"):
        return tokenizer
    from plgolf.data.tokenizer.cased import with_case_ops  # noqa: PLC0415 (packed only where it is used)

    return with_case_ops(tokenizer)


def _load(content: bytes) -> "tokenizers.Tokenizer":
    library = extra("tokenizers")
    try:
        tokenizer: tokenizers.Tokenizer = library.Tokenizer.from_buffer(content)
    except Exception as error:  # The Rust library raises plain Exception.
        raise UserError(f"must be a tokenizer.json: {str(error).splitlines()[0]:.200}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _parts(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yields a component of the file, and those of a sequence."""
    if isinstance(node, Mapping):
        yield node
        for key in ("pretokenizers", "normalizers", "decoders"):
            for part in node.get(key) or []:
                yield from _parts(part)


def _types(node: Any) -> list[str]:
    return [str(part.get("type")) for part in _parts(node)]


def _keeps_text(pre_tokenizer: Any) -> bool:
    """Returns True if a pre-tokenizer only splits text: it adds and removes no character."""
    kept = {"Sequence", "ByteLevel", "Split", "Digits"}
    return all(
        part.get("type") in kept and part.get("behavior") != "Removed" and not part.get("add_prefix_space")
        for part in _parts(pre_tokenizer)
    )


@cache
def _byte_alphabet() -> dict[str, int]:
    """Returns the byte of each character in a byte-level vocabulary (GPT-2's ``bytes_to_unicode``)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _bytes_of_characters(text: str) -> bytes:
    try:
        return bytes(_byte_alphabet()[character] for character in text)
    except KeyError as error:
        raise UserError(f"its vocabulary must be byte-level, got {text!r:.50}") from error
