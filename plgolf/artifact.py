"""The artifact: one file with quantised weights, the configuration and, optionally, the tokenizer.

There are two formats, told apart by their first bytes: plgolf's own (``plgolf.container``), and that of the
reference program with one or two further keys, which that program ignores: ``__plgolf__``, the configuration
as JSON, and ``__plgolf_tokenizer__``, the bytes of the tokenizer's file. Reading never runs code from the
file. docs/artifact.md describes both byte by byte.
"""

import hashlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.files import read_regular, write_atomically
from plgolf.header import (
    MAGIC,
    MAX_TOKENIZER_BYTES,
    ArtifactFormat,
    Header,
    check_tokenizer,
    header_from_dict,
)
from plgolf.model import GPT, GPTConfig
from plgolf.model.weights import check_weights_fit, gpt_with_weights
from plgolf.reference import (
    gpt_config_from_weights,
    weight_name_from_reference,
    weights_from_reference,
    weights_to_reference,
)
from plgolf.reference.int8_zlib import (
    MAX_PAYLOAD_BYTES,
    dequantize_state_dict,
    pack,
    quantize_state_dict,
    unpack,
)
from plgolf.reference.validation import HEADER_KEY, TOKENIZER_KEY, check_quantized
from plgolf.roles import Role, parameter_roles

SUFFIXES = (".ptz", ".plgolf")
"""Ends of the names of artifacts; other files are taken for checkpoints."""
_FIELDS = {1: {"version", "config"}, 2: {"version", "config", "seq_len", "tokenizer_sha256"}}
"""Fields of the header in the reference's format, by version."""
_MAX_HEADER_CHARACTERS = 2**16


@dataclass(frozen=True)
class Artifact:
    """Contents of an artifact file.

    Args:
        config: the architecture; None for files of the reference program, which have none.
        weights: dequantised tensors by plgolf's names.
        seq_len: tokens in a training sequence; None if the file does not have it.
        tokenizer_sha256: SHA-256 of the tokenizer's file; None if the file does not have it.
        tokenizer: contents of the tokenizer's file; None if the artifact does not carry it.
        stored: what the file has: the dict of the reference's format, or a ``StoredTensor`` by name.
    """

    config: GPTConfig | None
    weights: dict[str, Tensor]
    seq_len: int | None = None
    tokenizer_sha256: str | None = None
    tokenizer: bytes | None = None
    stored: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def gpt(self, config: GPTConfig | None = None) -> GPT:
        """Builds the model with copies of the dequantised weights, in eval mode, on the CPU.

        Args:
            config: the architecture for a file that has none; by default it is inferred from the weights,
                with the reference's rotary base and soft cap.

        Raises:
            UserError: the weights do not fit the architecture, or the file carries another one.
        """
        if config is not None and self.config not in (None, config):
            raise UserError("config must be left out: the file has its own, which differs")
        config = self.config or config or gpt_config_from_weights(weights_to_reference(self.weights))
        weights = {name: tensor.clone() for name, tensor in self.weights.items()}
        return gpt_with_weights(config, weights).eval()


def save_artifact(
    gpt: GPT,
    path: str | Path,
    *,
    seq_len: int | None = None,
    tokenizer: bytes | None = None,
    carry_tokenizer: bool = False,
    format: ArtifactFormat | None = None,  # noqa: A002
) -> dict[str, Any]:
    """Quantises a model and writes it to a file, by renaming a temporary file when all is written.

    Args:
        gpt: the model; it is not changed. The file's model has the order of layers that it has now.
        path: the file, named ``*.ptz`` or ``*.plgolf``.
        seq_len: tokens in a training sequence.
        tokenizer: contents of the tokenizer's file; the artifact stores their SHA-256.
        carry_tokenizer: also stores the contents, which count against the byte budget.
        format: format of the file; by default the reference program's, int8 and zlib.

    Returns:
        Counters of the format, such as bytes before and after quantisation.

    Raises:
        UserError: the tokenizer or ``seq_len`` is out of bounds, or a weight is not finite, too large for
            float16, or of another dtype than the configuration says.
    """
    check_weights_fit(gpt.config, gpt.state_dict())  # A cast model could not be read again.
    sha256 = None if tokenizer is None else hashlib.sha256(tokenizer).hexdigest()
    recurrence = gpt.config.recurrence
    config = recurrence.config_as_it_runs(gpt) if recurrence else gpt.config
    header = Header(config, seq_len, sha256)
    carried = (tokenizer or b"") if carry_tokenizer else None
    if carried is not None and not 1 <= len(carried) <= MAX_TOKENIZER_BYTES:
        most = MAX_TOKENIZER_BYTES
        raise UserError(f"a tokenizer to carry must have from 1 to {most} bytes, got {len(carried)}")
    data, stats = (format.pack if format else _pack_int8_zlib)(gpt, header, carried)
    write_atomically(Path(path), data)
    return stats


def _pack_int8_zlib(gpt: GPT, header: Header, tokenizer: bytes | None) -> tuple[bytes, dict[str, Any]]:
    roles = parameter_roles(gpt)
    obj, stats = quantize_state_dict(
        weights_to_reference(gpt.state_dict()),
        is_control=lambda name: roles.get(weight_name_from_reference(name)) is Role.SCALAR,
    )
    obj[HEADER_KEY] = json.dumps({"version": max(_FIELDS), **header.to_dict()}, separators=(",", ":"))
    if tokenizer is not None:
        obj[TOKENIZER_KEY] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
    check_quantized(obj)  # A file that cannot be read must not replace an earlier one.
    return pack(obj), stats.__dict__


def read_artifact(path: str | Path) -> Artifact:
    """Reads a file written by ``save_artifact`` or by the reference program.

    Raises:
        UserError: the file cannot be read or is malformed.
    """
    data = read_regular(Path(path), max_bytes=MAX_PAYLOAD_BYTES)
    try:
        if data.startswith(MAGIC):
            from plgolf.container import read_container  # noqa: PLC0415 (runs with the other format lack it)

            header, weights, tokenizer, stored, _ = read_container(data)
            return Artifact(weights=weights, tokenizer=tokenizer, stored=stored, **header.__dict__)
        return _read_int8_zlib(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_int8_zlib(data: bytes) -> Artifact:
    obj = unpack(data)
    weights = weights_from_reference(dequantize_state_dict(obj))
    if HEADER_KEY not in obj and TOKENIZER_KEY not in obj:
        return Artifact(config=None, weights=weights, stored=obj)
    if HEADER_KEY not in obj:
        raise UserError("it must have a header, since it has a tokenizer")
    header = header_from_dict(_checked_header(obj[HEADER_KEY]))
    tokenizer = _carried_tokenizer(obj, header.tokenizer_sha256)
    return Artifact(weights=weights, tokenizer=tokenizer, stored=obj, **header.__dict__)


def _checked_header(header: Any) -> dict[str, Any]:
    if not isinstance(header, str) or len(header) > _MAX_HEADER_CHARACTERS:
        raise UserError(f"its header must be a string of at most {_MAX_HEADER_CHARACTERS} characters")
    try:
        content = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise UserError(f"its header is malformed: {error}") from error
    if not isinstance(content, dict) or "version" not in content:
        raise UserError("its header is malformed: it must have a version and a config")
    version = content["version"]
    if type(version) is not int or version not in _FIELDS:
        raise UserError(
            f"its header version must be {' or '.join(map(str, _FIELDS))}, got {reprlib.repr(version)}"
        )
    if content.keys() != _FIELDS[version]:
        odd = min(content.keys() ^ _FIELDS[version])
        raise UserError(
            f"its header is malformed: version {version} must have {', '.join(sorted(_FIELDS[version]))}, "
            f"and {odd!r:.100} is {'unknown' if odd in content else 'missing'}"
        )
    return content


def _carried_tokenizer(obj: Mapping[str, Any], sha256: str | None) -> bytes | None:
    if TOKENIZER_KEY not in obj:
        return None
    carried = obj[TOKENIZER_KEY]
    plain = type(carried) is Tensor and carried.dtype is torch.uint8 and carried.ndim == 1
    if not plain or not 1 <= len(carried) <= MAX_TOKENIZER_BYTES:
        raise UserError(f"its tokenizer must be a uint8 tensor of 1 to {MAX_TOKENIZER_BYTES} bytes")
    return check_tokenizer(carried.numpy().tobytes(), sha256)


def load_gpt(path: str | Path, *, config: GPTConfig | None = None) -> GPT:
    """Loads the model of an artifact without its tokenizer, in eval mode, on the CPU.

    Args:
        path: a file written by ``save_artifact`` or by the reference program.
        config: the architecture for a file that has none; by default it is inferred from the weights, with
            the reference's rotary base and soft cap.

    Raises:
        UserError: the file cannot be read, is malformed, or its weights do not fit the architecture.
    """
    artifact = read_artifact(path)
    try:
        return artifact.gpt(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
