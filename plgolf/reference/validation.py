"""Checks a dict that was read from a file against the rules of the format ``int8_clean_per_row_v1``."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plgolf.errors import UserError

FORMAT = "int8_clean_per_row_v1"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Dtypes that a tensor may have before quantisation."""
HEADER_KEY = "__plgolf__"
"""Key of the JSON header with the configuration."""
TOKENIZER_KEY = "__plgolf_tokenizer__"
"""Key of the contents of the tokenizer's file."""

_FORMAT_KEY = "__quant_format__"
REQUIRED = ("quantized", "scales", "dtypes", "passthrough")
OPTIONAL = ("qmeta", "passthrough_orig_dtypes")
_LOWEST_CODE = -127
_PER_ROW = {"scheme": "per_row", "axis": 0}


def check_quantized(obj: Mapping[str, Any]) -> None:
    """Checks keys, types, shapes and values.

    Args:
        obj: the format's dict.

    Raises:
        UserError: the dict breaks a rule; the message names the tensor.
    """
    _check_keys(obj)
    quantized, scales, dtypes, passthrough = (obj[key] for key in REQUIRED)
    if not quantized.keys() == scales.keys() == dtypes.keys():
        odd = min((quantized.keys() ^ scales.keys()) | (quantized.keys() ^ dtypes.keys()))
        raise UserError(f"{odd!r:.100} must be in all of quantized, scales and dtypes or in none of them")
    twice = quantized.keys() & passthrough.keys()
    if twice:
        raise UserError(f"{min(twice)!r:.100} must not be in both quantized and passthrough")
    for name, codes in quantized.items():
        _check_codes(name, codes)
        _check_scale(name, scales[name], codes)
        _check_dtype(name, dtypes[name])
    _check_scheme(obj.get("qmeta", {}), quantized)
    original_dtypes = obj.get("passthrough_orig_dtypes", {})
    for name, tensor in passthrough.items():
        if type(tensor) is not Tensor:
            raise UserError(f"{name!r:.100} must be a tensor, got {type(tensor).__name__}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name!r:.100} must be finite, got NaN or infinity")
    for name, dtype in original_dtypes.items():
        if name not in passthrough or passthrough[name].dtype is not torch.float16:
            raise UserError(
                f"{name!r:.100} must be float16 and in passthrough, since it has an original dtype"
            )
        _check_dtype(name, dtype)


def _check_keys(obj: Mapping[str, Any]) -> None:
    if _FORMAT_KEY not in obj:
        raise UserError(f"must be an {FORMAT} artifact: {_FORMAT_KEY} is missing")
    name = obj[_FORMAT_KEY]
    if not isinstance(name, str) or name != FORMAT:
        raise UserError(f"quantisation format must be {FORMAT}, got {_named(name)}")
    for key in obj:
        if key not in (_FORMAT_KEY, *REQUIRED, *OPTIONAL, HEADER_KEY, TOKENIZER_KEY):
            raise UserError(f"must be an {FORMAT} artifact: the key {key!r:.100} is unknown")
    for key in (*REQUIRED, *(key for key in OPTIONAL if key in obj)):
        value = obj.get(key)
        if not isinstance(value, dict):
            raise UserError(f"must be an {FORMAT} artifact: {key} must be a dict, got {type(value).__name__}")
        for name in value:
            if not isinstance(name, str):
                raise UserError(f"names in {key} must be strings, got {name!r:.100}")


def _check_codes(name: str, codes: Any) -> None:
    if type(codes) is not Tensor or codes.dtype is not torch.int8 or codes.ndim < 1 or codes.numel() < 1:
        raise UserError(f"codes of {name!r:.100} must be int8 and not empty, got {_described(codes)}")
    lowest = int(codes.min())
    if lowest < _LOWEST_CODE:
        raise UserError(f"codes of {name!r:.100} must be from {_LOWEST_CODE} to 127, got {lowest}")


def _check_scale(name: str, scale: Any, codes: Tensor) -> None:
    per_row = codes.ndim == 2
    dtype, shape = (torch.float16, codes.shape[:1]) if per_row else (torch.float32, torch.Size())
    if type(scale) is not Tensor or scale.dtype is not dtype or scale.shape != shape:
        expected = f"{dtype} of shape {tuple(shape)}"
        raise UserError(f"scale of {name!r:.100} must be {expected}, got {_described(scale)}")
    if not (torch.isfinite(scale) & (scale > 0)).all():
        raise UserError(f"scale of {name!r:.100} must be positive and finite, got {float(scale.min())}")


def _check_scheme(schemes: Mapping[str, Any], quantized: Mapping[str, Tensor]) -> None:
    for name in sorted(schemes.keys() | quantized.keys()):
        scheme, codes = schemes.get(name), quantized.get(name)
        per_row = codes is not None and codes.ndim == 2
        plain = isinstance(scheme, dict) and all(type(value) in (str, int) for value in scheme.values())
        if (scheme is not None or per_row) and not (per_row and plain and scheme == _PER_ROW):
            raise UserError(f"qmeta of {name!r:.100} must be {_PER_ROW} for a quantised matrix, else absent")


def _check_dtype(name: str, dtype: Any) -> None:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(f"dtype of {name!r:.100} must be one of {', '.join(DTYPES)}, got {_named(dtype)}")


def _named(value: Any) -> str:
    return f"{value!r:.100}" if isinstance(value, str) else type(value).__name__


def _described(value: Any) -> str:
    if type(value) is Tensor:
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
