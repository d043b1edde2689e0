"""The format ``int8_clean_per_row_v1``: zlib over ``torch.save`` of a dict of tensors and strings.

It is the reference program's (https://github.com/openai/parameter-golf), key for key, and any further
top-level key is ignored by it. Reading never runs code, and takes memory in proportion to the file.
"""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.reference.rounding import dequantize_int8, quantize_int8
from plgolf.reference.validation import DTYPES, FORMAT, check_quantized
from plgolf.tensor_file import load_tensors

MAX_PASSTHROUGH_ELEMENTS = 65_536
MAX_PAYLOAD_BYTES = 2**30
"""Bound on the inflated size."""
MAX_RATIO = 32
"""Bound on how many times larger a file becomes. zlib can pack a gigabyte into a megabyte, but the weights of
a model only become 3.5 times smaller as they are initialised, and 1.5 times when trained."""
ALWAYS_INFLATED_BYTES = 2**26
"""Up to here any ratio will do: weights that are all zero become 600 times smaller."""
_CHUNK = 2**20
_WAYS = ((6, 9, zlib.Z_FILTERED), (9, 9, zlib.Z_HUFFMAN_ONLY))
"""To make a zlib stream: level, memory level and strategy. Codes of weights are noise, in which short
repetitions cost more than they save: the first way keeps to those of more than five, the other to none."""
_MORE_WAYS = ((9, 8, zlib.Z_FILTERED), (9, 8, zlib.Z_DEFAULT_STRATEGY))
"""What may be smaller yet for few bytes, and takes no time there; the last is the reference's."""
_FEW_BYTES = 2**22


@dataclass
class QuantizeStats:
    """What quantisation did, in the reference's counters.

    Args:
        param_count: elements of all tensors.
        num_tensors: tensors.
        num_float_tensors: tensors that were quantised.
        num_nonfloat_tensors: tensors that are not floating point.
        baseline_tensor_bytes: bytes before.
        int8_payload_bytes: bytes after, before compression.
    """

    param_count: int = 0
    num_tensors: int = 0
    num_float_tensors: int = 0
    num_nonfloat_tensors: int = 0
    baseline_tensor_bytes: int = 0
    int8_payload_bytes: int = 0

    def as_dict(self) -> dict[str, int]:
        """Returns the counters by name."""
        return asdict(self)


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def quantize_state_dict(
    state_dict: Mapping[str, Tensor], *, is_control: Callable[[str], bool]
) -> tuple[dict[str, Any], QuantizeStats]:
    """Rounds the large tensors and keeps the small ones.

    Args:
        state_dict: tensors by name.
        is_control: says of a name whether its tensor stays float32 when small; other small ones become
            float16.

    Returns:
        The format's dict, and its counters.
    """
    quantized: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    dtypes: dict[str, str] = {}
    passthrough: dict[str, Tensor] = {}
    original_dtypes: dict[str, str] = {}
    qmeta: dict[str, dict[str, Any]] = {}
    stats = QuantizeStats()
    for name, value in state_dict.items():
        tensor = value.detach().to("cpu").contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        stats.param_count += tensor.numel()
        stats.num_tensors += 1
        stats.baseline_tensor_bytes += _num_bytes(tensor)
        if not tensor.is_floating_point():
            stats.num_nonfloat_tensors += 1
            passthrough[name] = tensor
        elif tensor.numel() <= MAX_PASSTHROUGH_ELEMENTS:
            if is_control(name):
                passthrough[name] = tensor.float()
            elif tensor.dtype in (torch.float32, torch.bfloat16):
                passthrough[name] = tensor.to(torch.float16)
                original_dtypes[name] = dtype
            else:
                passthrough[name] = tensor
        else:
            stats.num_float_tensors += 1
            quantized[name], scales[name] = quantize_int8(tensor)
            dtypes[name] = dtype
            if scales[name].ndim:
                qmeta[name] = {"scheme": "per_row", "axis": 0}
        kept = (passthrough.get(name), quantized.get(name), scales.get(name))
        stats.int8_payload_bytes += sum(_num_bytes(t) for t in kept if t is not None)
    obj: dict[str, Any] = {
        "__quant_format__": FORMAT,
        "quantized": quantized,
        "scales": scales,
        "dtypes": dtypes,
        "passthrough": passthrough,
    }
    if qmeta:
        obj["qmeta"] = qmeta
    if original_dtypes:
        obj["passthrough_orig_dtypes"] = original_dtypes
    return obj, stats


def dequantize_state_dict(obj: Mapping[str, Any]) -> dict[str, Tensor]:
    """Undoes ``quantize_state_dict`` up to rounding.

    Args:
        obj: the format's dict.

    Returns:
        Tensors by name, on the CPU, in their original dtypes.

    Raises:
        UserError: the dict is not of this format.
    """
    check_quantized(obj)
    tensors = {
        name: dequantize_int8(codes, obj["scales"][name], DTYPES[obj["dtypes"][name]])
        for name, codes in obj["quantized"].items()
    }
    original_dtypes = obj.get("passthrough_orig_dtypes", {})
    for name, tensor in obj["passthrough"].items():
        dtype = DTYPES[original_dtypes[name]] if name in original_dtypes else tensor.dtype
        # A copy, as two names in a file may share their data.
        tensors[name] = tensor.to(dtype, copy=True).contiguous()
    return tensors


def pack(obj: Mapping[str, Any]) -> bytes:
    """Serialises the format's dict and compresses it, in a few ways of which the smallest is returned."""
    buffer = io.BytesIO()
    torch.save(dict(obj), buffer)
    payload = buffer.getbuffer()
    return min(_streams(payload, _WAYS + _MORE_WAYS if len(payload) <= _FEW_BYTES else _WAYS), key=len)


def compressed_size(data: bytes) -> int:
    """Returns what a part of an artifact takes when it is compressed by itself."""
    return min(map(len, _streams(data, _WAYS)))


def _streams(data: bytes | memoryview, ways: tuple[tuple[int, int, int], ...]) -> Iterator[bytes]:
    for level, memory_level, strategy in ways:
        deflate = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, memory_level, strategy)
        yield deflate.compress(data) + deflate.flush()


def unpack(data: bytes, *, max_bytes: int = MAX_PAYLOAD_BYTES) -> dict[str, Any]:
    """Reads what ``pack`` wrote, without running any of it.

    Args:
        data: the contents of a file.
        max_bytes: bound on the inflated size, besides ``MAX_RATIO``.

    Returns:
        The dict, whose values are plain; whether they are of the format is not checked.

    Raises:
        UserError: the data is cut short, corrupt, too large or no such dict.
    """
    obj = load_tensors(_inflated(data, min(max_bytes, max(MAX_RATIO * len(data), ALWAYS_INFLATED_BYTES))))
    if not isinstance(obj, dict):
        raise UserError(f"must hold a dict, got {type(obj).__name__}")
    return obj


def _inflated(data: bytes, max_bytes: int) -> io.BytesIO:
    inflate, compressed, payload = zlib.decompressobj(), io.BytesIO(data), io.BytesIO()
    # Bit by bit: in one go, zlib needs twice the memory of what comes out.
    while not inflate.eof:
        fed = inflate.unconsumed_tail or compressed.read(_CHUNK)
        try:
            chunk = inflate.decompress(fed, _CHUNK)
        except zlib.error as error:
            raise UserError(f"is no zlib stream: {error}") from error
        payload.write(chunk)
        if payload.tell() > max_bytes:
            raise UserError(f"inflates to more than {max_bytes} bytes")
        if not fed and not chunk:
            raise UserError("is cut short")
    unused = len(inflate.unused_data) + len(data) - compressed.tell()
    if unused:
        raise UserError(f"must end with its zlib stream, got {unused} bytes more")
    return payload
