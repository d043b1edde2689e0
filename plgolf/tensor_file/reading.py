"""Reads files of ``torch.save``, after a full check of the zip and the pickle."""

import warnings
from collections import OrderedDict
from typing import Any, BinaryIO

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.tensor_file.pickle_check import check_pickle
from plgolf.tensor_file.records import read_records

_MAX_DEPTH = 64
_CONTAINERS = (dict, OrderedDict, list, tuple)
_LEAVES = (str, int, float, bool, type(None))


def load_tensors(file: BinaryIO, *, map_location: str = "cpu", verify: bool = True) -> Any:
    """Reads plain tensors and values in dicts, lists and tuples.

    Args:
        file: a seekable file that is open for reading.
        map_location: device of the tensors; ``meta`` reads only their shapes and dtypes.
        verify: also compares the CRC of the tensors' data, which are read once more for that.

    Raises:
        UserError: the file is damaged or holds anything else. The message does not name the file.
        OSError: the file cannot be read.
    """
    record_sizes, pickled = read_records(file, verify=verify)
    try:
        check_pickle(pickled, record_sizes)
        file.seek(0)
        with warnings.catch_warnings():
            # torch warns of pickles that it did not write; the error below says enough.
            warnings.simplefilter("ignore")
            value = torch.load(file, map_location=map_location, weights_only=True)
    except (UserError, OSError):
        raise
    except Exception as error:
        # What an unpickler raises for malformed bytes is not documented.
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"must hold plain tensors only: {reason:.200}") from error
    _check_values(value, max_bytes=sum(record_sizes.values()))
    return value


def _check_values(value: Any, *, max_bytes: int) -> None:
    """Checks types and depth, and that copies of all tensors are not larger than the file."""
    total = 0
    depths: dict[int, int] = {}  # By id of the container, which may be met again, even inside itself.
    path = [iter((value,))]
    while path:
        value = next(path[-1], path)
        if value is path:  # This container is done.
            path.pop()
        elif type(value) is Tensor:
            if value.layout is not torch.strided or value.is_quantized or value.requires_grad:
                raise UserError("must hold plain tensors only")
            total += value.numel() * value.element_size()
        elif type(value) in _CONTAINERS:
            if value and depths.get(id(value), 0) < len(path):
                depths[id(value)] = len(path)
                path.append(iter(value.values() if isinstance(value, dict) else value))
                if len(path) > _MAX_DEPTH:
                    raise UserError(f"must be nested at most {_MAX_DEPTH} deep")
        elif type(value) not in _LEAVES:
            raise UserError(f"must hold plain tensors and values only, got {type(value).__name__}")
    if total > max_bytes:
        raise UserError(f"its tensors must fit into its {max_bytes} bytes of data, got {total}")
