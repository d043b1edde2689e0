"""Codes, scales and values of an artifact in the reference's format, by plgolf's names."""

from collections.abc import Mapping
from typing import Any

from plgolf.quantize.measure import StoredTensor
from plgolf.reference.names import weight_name_from_reference
from plgolf.reference.rounding import LEVELS


def stored_tensors(obj: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Returns what the format's dict has of each tensor.

    Args:
        obj: the format's dict, as read from a file.
    """
    stored = {}
    for name, codes in obj["quantized"].items():
        scale = obj["scales"][name]
        largest = (LEVELS + 0.5) * scale.float().view(-1, 1)
        stored[weight_name_from_reference(name)] = StoredTensor("rows", "int8", (codes, scale), largest)
    for name, values in obj["passthrough"].items():
        kept = str(values.dtype).removeprefix("torch.")
        stored[weight_name_from_reference(name)] = StoredTensor("raw", kept, (values,), None)
    return stored
