"""The format ``int8_clean_per_row_v1``: zlib over ``torch.save`` of a dict of tensors and strings.

The format of the reference program (https://github.com/openai/parameter-golf), which ignores further
top-level keys. Reading never runs code and takes memory in proportion to the file.
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
"""Largest inflated size in bytes."""
MAX_RATIO = 32
"""Largest ratio of inflated to compressed size. zlib can pack a gigabyte into a megabyte, but initial weights
become only 3.5 times smaller and trained ones 1.5 times."""
ALWAYS_INFLATED_BYTES = 2**26
"""Inflated size up to which any ratio is accepted: zeros become 600 times smaller."""
_CHUNK = 2**20
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
    """Quantises tensors of more than 65,536 elements and keeps the others.

    Args:
        state_dict: tensors by name.
        is_control: returns True for the name of a tensor that stays float32 when it is small; other small
            tensors become float16.

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


def compressed_size(data: bytes) -> int:
    """Returns the bytes of a part of an artifact when it is compressed alone."""
    return min(map(len, _streams(data, _WAYS)))


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
        The dict of plain tensors and values; the rules of the format are not checked.

    Raises:
        UserError: the data is cut short, damaged, too large or not a dict.
    """
    obj = load_tensors(_inflated(data, min(max_bytes, max(MAX_RATIO * len(data), ALWAYS_INFLATED_BYTES))))
    if not isinstance(obj, dict):
        raise UserError(f"must hold a dict, got {type(obj).__name__}")
    return obj


def _inflated(data: bytes, max_bytes: int) -> io.BytesIO:
    inflate, compressed, payload = zlib.decompressobj(), io.BytesIO(data), io.BytesIO()
    # In chunks: in one call, zlib takes twice the memory of its output.
    while not inflate.eof:
        fed = inflate.unconsumed_tail or compressed.read(_CHUNK)
        try:
            chunk = inflate.decompress(fed, _CHUNK)
        except zlib.error as error:
            raise UserError(f"must be a zlib stream: {error}") from error
        payload.write(chunk)
        if payload.tell() > max_bytes:
            raise UserError(f"must inflate to at most {max_bytes} bytes")
        if not fed and not chunk:
            raise UserError("is cut short")
    unused = len(inflate.unused_data) + len(data) - compressed.tell()
    if unused:
        raise UserError(f"must end with its zlib stream, got {unused} further bytes")
    return payload
