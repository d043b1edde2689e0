"""The format ``int8_clean_per_row_v1``: zlib over ``torch.save`` of a dict of tensors and strings.

It is the reference program's (https://github.com/openai/parameter-golf), key for key, and any further
top-level key is ignored by it. Reading never runs code: pickled objects other than tensors, numbers,
strings and their containers are refused.
"""

import io
import pickle
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.quantize.rounding import dequantize_int8, quantize_int8

FORMAT = "int8_clean_per_row_v1"
MAX_PASSTHROUGH_ELEMENTS = 65_536
MAX_PAYLOAD_BYTES = 2**30
"""Bound on the inflated size: zlib can pack a gigabyte into a megabyte."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    try:
        if obj["__quant_format__"] != FORMAT:
            raise UserError(f"quantisation format must be {FORMAT}, got {obj['__quant_format__']!r}")
        tensors: dict[str, Tensor] = {
            name: dequantize_int8(codes, obj["scales"][name], _DTYPES[obj["dtypes"][name]])
            for name, codes in obj["quantized"].items()
        }
        original_dtypes = obj.get("passthrough_orig_dtypes", {})
        for name, tensor in obj["passthrough"].items():
            dtype = original_dtypes.get(name)
            tensors[name] = tensor.clone() if dtype is None else tensor.to(_DTYPES[dtype])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"is no {FORMAT} artifact: {type(error).__name__} {error}") from error
    return tensors


def pack(obj: Mapping[str, Any]) -> bytes:
    """Serialises and compresses the format's dict."""
    buffer = io.BytesIO()
    torch.save(dict(obj), buffer)
    return zlib.compress(buffer.getvalue(), level=9)


def unpack(data: bytes, *, max_bytes: int = MAX_PAYLOAD_BYTES) -> dict[str, Any]:
    """Reads what ``pack`` wrote, without running any of it.

    Args:
        data: the contents of a file.
        max_bytes: bound on the inflated size.

    Returns:
        The dict, unchecked but for being one.

    Raises:
        UserError: the data is cut short, corrupt, too large or no such dict.
    """
    inflate = zlib.decompressobj()
    try:
        payload = inflate.decompress(data, max_bytes)
    except zlib.error as error:
        raise UserError(f"is no zlib stream: {error}") from error
    if not inflate.eof:
        raise UserError(
            f"inflates to more than {max_bytes} bytes" if inflate.unconsumed_tail else "is cut short"
        )
    try:
        with warnings.catch_warnings():
            # torch warns of pickles it did not write; the line below says all there is to say.
            warnings.simplefilter("ignore")
            obj = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"holds no plain tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(obj, dict):
        raise UserError(f"must hold a dict, got {type(obj).__name__}")
    return obj
