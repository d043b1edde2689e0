"""Reads containers in memory that is bounded by their size."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from plgolf.config import config_from_dict
from plgolf.container.layout import MAX_VALUES, RULE, Listing, disassemble, dtype_name
from plgolf.errors import UserError
from plgolf.header import Header, check_tokenizer, header_from_dict
from plgolf.quantize.coders import CoderName, decompress
from plgolf.quantize.measure import StoredTensor
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.streams import TensorSpec, plan_streams, split_arrays, stream_bytes

_MODEL_FIELDS = ("config", "seq_len", "tokenizer_sha256")
_MAX_RATIO, _ANY_RATIO_BYTES = 32, 2**26
"""Largest ratio of inflated bytes to the file's, and the bytes up to which any ratio is accepted."""


class Contents(NamedTuple):
    """A container that was read.

    Args:
        header: description of the model.
        weights: restored tensors by name.
        tokenizer: contents of the tokenizer's file; None if the file does not carry it.
        stored: codes, scales and values by the name of the tensor.
        coder: name of the coder.
    """

    header: Header
    weights: dict[str, Tensor]
    tokenizer: bytes | None
    stored: dict[str, StoredTensor]
    coder: CoderName


def read_container(data: bytes) -> Contents:
    """Reads the contents of a file that begins with ``MAGIC``.

    Raises:
        UserError: the file is damaged, or breaks a rule of the format.
    """
    said, rest = disassemble(data)
    header, listing = _checked_header(said)
    specs, carried = [tensor.spec for tensor in listing.tensors], listing.tokenizer
    planned = plan_streams(specs, listing.codecs)
    expected = [(stream.rule, stream.plane, dtype_name(stream.dtype)) for stream in planned]
    if [(stream.rule, stream.plane, stream.dtype) for stream in listing.streams] != expected:
        raise UserError("its streams must be those of its tensors and codecs")
    _check_sizes(listing, sum(map(stream_bytes, planned.values())), len(rest), len(data))
    arrays: dict[str, dict[str, Tensor]] = {spec.name: {} for spec in specs}
    for (stream, planes), entry in zip(planned.items(), listing.streams, strict=True):
        small, rest = bytes(rest[: entry.bytes]), rest[entry.bytes :]
        where = f"its stream {stream.rule}.{stream.plane}"
        for name, array in split_arrays(_inflated(listing.coder, small, stream_bytes(planes), where), planes):
            arrays[name][stream.plane] = array
    tokenizer = None
    if carried:
        tokenizer = _inflated(listing.coder, bytes(rest), carried.size, "its tokenizer")
        check_tokenizer(tokenizer, header.tokenizer_sha256)
    weights, stored = _restored(specs, listing.codecs, arrays)
    return Contents(header, weights, tokenizer, stored, listing.coder)


def _checked_header(said: Mapping[str, Any]) -> tuple[Header, Listing]:
    missing = [field for field in _MODEL_FIELDS if field not in said]
    if missing:
        raise UserError(f"its header is malformed: {missing[0]} is missing")
    codecs = said.get("codecs")
    if not isinstance(codecs, dict) or not all(map(RULE.fullmatch, codecs)):
        raise UserError(
            "header.codecs must be a mapping whose keys have only letters, digits, spaces and _ . , -"
        )
    others = {name: value for name, value in said.items() if name not in ("version", *_MODEL_FIELDS)}
    return header_from_dict(said), config_from_dict(Listing, others, where="header")


def _check_sizes(listing: Listing, inflated: int, num_stream_bytes: int, num_file_bytes: int) -> None:
    """Checks that streams fill the file, and that they inflate to a bounded size."""
    carried = listing.tokenizer
    total = sum(stream.bytes for stream in listing.streams) + (carried.bytes if carried else 0)
    if total != num_stream_bytes:
        raise UserError(f"the lengths of its streams must add up to {num_stream_bytes}, got {total}")
    inflated += carried.size if carried else 0
    most = min(MAX_VALUES, max(_MAX_RATIO * num_file_bytes, _ANY_RATIO_BYTES))
    if inflated > most:
        raise UserError(f"must inflate to at most {most} bytes, got {inflated}")


def _inflated(coder: CoderName, data: bytes, size: int, where: str) -> bytes:
    try:
        return decompress(coder, data, size)
    except UserError as error:
        raise UserError(f"{where} {error}") from error


def _restored(
    specs: Sequence[TensorSpec], codecs: Mapping[str, CodecConfig], arrays: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, StoredTensor]]:
    weights, stored = {}, {}
    for name, dtype, shape, rule in specs:
        codec, planes = codecs[rule].codec, arrays[name]
        try:
            weights[name] = codec.decode(planes, shape, dtype)
        except UserError as error:
            raise UserError(f"{name} {error}") from error
        stored[name] = StoredTensor(
            codecs[rule].name, codec.label(dtype), tuple(planes.values()), codec.largest(planes)
        )
    return weights, stored
