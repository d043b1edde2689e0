"""The format ``int8_clean_per_row_v1``: zlib over ``torch.save`` of a dict of tensors and strings.

The format of the reference program (https://github.com/openai/parameter-golf), which ignores further
top-level keys. Reading never runs code and takes memory in proportion to the file.
"""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.reference.rounding import dequantize_int8, quantize_int8
from plgolf.reference.validation import DTYPES, FORMAT, OPTIONAL, REQUIRED, check_quantized
from plgolf.tensor_file import load_tensors

MAX_PASSTHROUGH_ELEMENTS = 65_536
MAX_PAYLOAD_BYTES = 2**30
"""Largest inflated size in bytes."""
MAX_RATIO = 32
"""Largest ratio of inflated to compressed size. zlib can pack a gigabyte into a megabyte, but initial weights
become only 3.5 times smaller and trained ones 1.5 times."""
ALWAYS_INFLATED_BYTES = 2**26
"""Inflated size up to which any ratio is accepted: zeros become 600 times smaller."""
_WAYS = ((6, 9, zlib.Z_FILTERED), (9, 9, zlib.Z_HUFFMAN_ONLY))
"""Level, memory level and strategy of zlib. Codes of weights are nearly noise, in which short repetitions
cost more than they save: the first way uses only those of more than five bytes, the second none."""
_MORE_WAYS = ((9, 8, zlib.Z_FILTERED), (9, 8, zlib.Z_DEFAULT_STRATEGY))
"""Further ways for small payloads, where they take little time; the last is the reference's."""
_FEW_BYTES = 2**22


@dataclass
class QuantizeStats:
    """Counters of the reference program.

    Args:
        param_count: number of elements of all tensors.
        num_tensors: number of tensors.
        num_float_tensors: number of quantised tensors.
        num_nonfloat_tensors: number of tensors that are not floating point.
        baseline_tensor_bytes: bytes before quantisation.
        int8_payload_bytes: bytes after quantisation, before compression.
    """

    param_count: int
    num_tensors: int
    num_float_tensors: int
    num_nonfloat_tensors: int
    baseline_tensor_bytes: int
    int8_payload_bytes: int


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def quantize_state_dict(
    state_dict: Mapping[str, Tensor], *, is_control: Callable[[str], bool]
) -> tuple[dict[str, Any], QuantizeStats]:
    """Quantises tensors of more than 65,536 elements and keeps the others.

    Args:
        state_dict: tensors by name.
        is_control: returns True for the name of a tensor that stays float32 when it is small; other small
            tensors become float16.

    Returns:
        The format's dict, and its counters.
    """
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in state_dict.items()}
    parts: dict[str, dict[str, Any]] = {key: {} for key in (*REQUIRED, *OPTIONAL)}
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() and tensor.numel() > MAX_PASSTHROUGH_ELEMENTS:
            parts["quantized"][name], parts["scales"][name] = quantize_int8(tensor)
            parts["dtypes"][name] = dtype
            if parts["scales"][name].ndim:
                parts["qmeta"][name] = {"scheme": "per_row", "axis": 0}
        elif tensor.is_floating_point() and is_control(name):
            parts["passthrough"][name] = tensor.float()
        elif tensor.dtype in (torch.float32, torch.bfloat16):
            parts["passthrough"][name] = tensor.to(torch.float16)
            parts["passthrough_orig_dtypes"][name] = dtype
        else:
            parts["passthrough"][name] = tensor
    stored = [tensor for key in ("quantized", "scales", "passthrough") for tensor in parts[key].values()]
    stats = QuantizeStats(
        param_count=sum(tensor.numel() for tensor in tensors.values()),
        num_tensors=len(tensors),
        num_float_tensors=len(parts["quantized"]),
        num_nonfloat_tensors=sum(not tensor.is_floating_point() for tensor in tensors.values()),
        baseline_tensor_bytes=sum(map(_num_bytes, tensors.values())),
        int8_payload_bytes=sum(map(_num_bytes, stored)),
    )
    written = {key: part for key, part in parts.items() if part or key in REQUIRED}
    return {"__quant_format__": FORMAT, **written}, stats


def dequantize_state_dict(obj: Mapping[str, Any]) -> dict[str, Tensor]:
    """Restores the tensors of ``quantize_state_dict``, up to rounding.

    Args:
        obj: the format's dict.

    Returns:
        Tensors by name, on the CPU, in their original dtypes.

    Raises:
        UserError: the dict breaks a rule of the format.
    """
    check_quantized(obj)
    tensors = {
        name: dequantize_int8(codes, obj["scales"][name], DTYPES[obj["dtypes"][name]])
        for name, codes in obj["quantized"].items()
    }
    original_dtypes = obj.get("passthrough_orig_dtypes", {})
    for name, tensor in obj["passthrough"].items():
        dtype = DTYPES[original_dtypes[name]] if name in original_dtypes else tensor.dtype
        # A copy, since two names in a file may share their data.
        tensors[name] = tensor.to(dtype, copy=True).contiguous()
    return tensors


def pack(obj: Mapping[str, Any]) -> bytes:
    """Serialises and compresses the format's dict; returns the smallest of a few zlib streams."""
    buffer = io.BytesIO()
    torch.save(dict(obj), buffer)
    payload = buffer.getbuffer()
    return min(_streams(payload, _WAYS + _MORE_WAYS if len(payload) <= _FEW_BYTES else _WAYS), key=len)


def compressed_bytes(*tensors: Tensor) -> int:
    """Returns the bytes of tensors that are concatenated and compressed alone."""
    raw = (tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors)
    return min(map(len, _streams(b"".join(raw), _WAYS)))


def _streams(data: bytes | memoryview, ways: tuple[tuple[int, int, int], ...]) -> Iterator[bytes]:
    for level, memory_level, strategy in ways:
        deflate = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, memory_level, strategy)
        yield deflate.compress(data) + deflate.flush()


def unpack(data: bytes, *, max_bytes: int = MAX_PAYLOAD_BYTES) -> dict[str, Any]:
    """Reads the output of ``pack`` without running code from it.

    Args:
        data: contents of a file.
        max_bytes: largest inflated size, besides ``MAX_RATIO``.

    Returns:
        The dict of plain tensors and values; ``check_quantized`` checks the rules of the format.

    Raises:
        UserError: the data is cut short, damaged, too large or not a dict.
    """
    obj = load_tensors(_inflated(data, min(max_bytes, max(MAX_RATIO * len(data), ALWAYS_INFLATED_BYTES))))
    if not isinstance(obj, dict):
        raise UserError(f"must hold a dict, got {type(obj).__name__}")
    return obj


def _inflated(data: bytes, max_bytes: int) -> io.BytesIO:
    inflate = zlib.decompressobj()
    try:
        payload = inflate.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise UserError(f"must be a zlib stream: {error}") from error
    if len(payload) > max_bytes:
        raise UserError(f"must inflate to at most {max_bytes} bytes")
    if not inflate.eof:
        raise UserError("is cut short")
    if inflate.unused_data:
        raise UserError(f"must end with its zlib stream, got {len(inflate.unused_data)} further bytes")
    return io.BytesIO(payload)
