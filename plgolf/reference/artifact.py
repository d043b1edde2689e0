"""Reads and writes artifacts of the reference program, which have no configuration."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from plgolf.errors import UserError
from plgolf.files import read_regular, write_atomically
from plgolf.reference.int8_zlib import (
    MAX_PAYLOAD_BYTES,
    dequantize_state_dict,
    pack,
    quantize_state_dict,
    unpack,
)
from plgolf.reference.names import is_control_name


def read_reference_artifact(path: str | Path) -> dict[str, Tensor]:
    """Reads an ``.int8.ptz`` file without running code from it.

    Returns:
        Dequantised tensors under the reference's names, in their original dtypes.

    Raises:
        UserError: the file cannot be read or is malformed.
    """
    return dequantize_state_dict(read_artifact_dict(path))


def read_artifact_dict(path: str | Path) -> dict[str, Any]:
    """Reads the dict of an ``.int8.ptz`` file, which is checked for plain tensors but not for the format."""
    data = read_regular(Path(path), max_bytes=MAX_PAYLOAD_BYTES)
    try:
        return unpack(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def write_reference_artifact(state_dict: Mapping[str, Tensor], path: str | Path) -> dict[str, int]:
    """Quantises tensors under the reference's names and writes them as the reference program does.

    Returns:
        The reference's six counters: ``param_count, num_tensors, num_float_tensors,
        num_nonfloat_tensors, baseline_tensor_bytes, int8_payload_bytes``.
    """
    obj, stats = quantize_state_dict(state_dict, is_control=is_control_name)
    write_atomically(Path(path), pack(obj))
    return asdict(stats)
