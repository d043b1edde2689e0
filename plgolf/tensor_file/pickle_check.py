"""Checks a pickle of tensors before PyTorch reads it: only what ``torch.save`` writes is accepted."""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from plgolf.errors import UserError

_MAX_DIMS = 8
_MAX_INTEGER_BYTES = 8
_STORAGES = {
    8: ("Double", "Long"),
    4: ("Float", "Int"),
    2: ("Half", "BFloat16", "Short"),
    1: ("Char", "Byte", "Bool"),
}
"""Storages by the bytes of a value."""


def check_pickle(pickled: bytes, record_sizes: Mapping[str, int]) -> None:
    """Runs the operations of a pickle without creating tensors, which must fit the zip's records.

    PyTorch's own safe unpickler calls only functions that it knows, but some of these allocate as much memory
    as the pickle asks for, and an opcode can write to each element of a tensor of 10**15 elements.

    Raises:
        UserError: the pickle holds more than plain tensors and values, or a tensor does not fit its record.
        Exception: the pickle is malformed; what Python's unpickler raises then is not documented.
    """
    _PickleChecker(pickled, record_sizes).load()


class _StorageType(int):
    """Replaces the class of a storage; bytes of a value."""


class _Storage(int):
    """Replaces the data of tensors; number of values."""


class _Tensor:
    """Replaces a tensor."""


class _Dict(OrderedDict[Any, Any]):
    """Replaces a dict."""

    def __setitem__(self, key: Any, value: Any) -> None:
        # Keys of other types can be made to have equal hashes, and many of those take very long.
        if type(key) not in (str, int):
            raise UserError(f"its keys must be strings or integers, got {type(key).__name__}")
        super().__setitem__(key, value)


def _empty_dict() -> _Dict:
    return _Dict()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any) -> _Tensor:
    """Replaces ``torch._utils._rebuild_tensor_v2``."""
    whole = (
        type(storage) is _Storage
        and type(size) is type(stride) is tuple
        and len(size) == len(stride) <= _MAX_DIMS
        and all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
        and requires_grad is False
        and type(hooks) is _Dict
        and not hooks
    )
    if not whole:
        raise UserError("holds a malformed tensor")
    numel = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if numel > storage or (numel and last >= storage):
        raise UserError(f"holds a tensor of shape {size} in a storage of {storage} values")
    return _Tensor()


class _PickleChecker(pickle._Unpickler):
    """Unpickles placeholders; accepts only operations of ``torch.save``, calls only the functions above."""

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, pickled: bytes, record_sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(pickled))
        self.record_sizes = record_sizes

    def find_class(self, module: str, name: str) -> Any:
        found = _GLOBALS.get(f"{module}.{name}")
        if found is None:
            raise UserError(f"must hold plain tensors only, it names {f'{module}.{name}'!r:.100}")
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, location, num_items = pid
        if kind != "storage" or type(storage_type) is not _StorageType or type(location) is not str:
            raise UserError("holds a malformed storage")
        # PyTorch does not compare them if it reads no data, and older versions never do.
        expected = self.record_sizes.get(f"data/{key}")
        if type(num_items) is not int or num_items * storage_type != expected:
            raise UserError(f"storage {key!r:.20} must have {expected} bytes, got {num_items!r:.20} values")
        return _Storage(num_items)

    def load_long1(self) -> None:
        size = self.read(1)[0]
        if size > _MAX_INTEGER_BYTES:
            raise UserError(f"its integers must have at most {_MAX_INTEGER_BYTES} bytes, got {size}")
        self.append(int.from_bytes(self.read(size), "little", signed=True))

    def load_empty_dictionary(self) -> None:
        self.append(_Dict())

    def load_build(self) -> None:
        state = self.stack.pop()
        # Module.state_dict attaches _metadata. Other attributes could replace methods.
        if type(self.stack[-1]) is not _Dict or type(state) is not _Dict or list(state) != ["_metadata"]:
            raise UserError("must hold plain tensors only, an object in it has attributes")

    dispatch: ClassVar[dict[int, Any]] = {
        operation[0]: pickle._Unpickler.dispatch[operation[0]]
        for operation in (
            *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
            *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINFLOAT, pickle.BINUNICODE),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS),
            *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
            *(pickle.GLOBAL, pickle.REDUCE, pickle.BINPERSID),
        )
    } | {
        pickle.LONG1[0]: load_long1,
        pickle.EMPTY_DICT[0]: load_empty_dictionary,
        pickle.BUILD[0]: load_build,
    }


_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _empty_dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    **{f"torch.{kind}Storage": _StorageType(size) for size, kinds in _STORAGES.items() for kind in kinds},
}
