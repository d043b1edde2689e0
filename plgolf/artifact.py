"""One file that is a model: its quantised weights and its configuration.

The file is a reference artifact (parameters under the reference's names) with one more key, which the
reference ignores: ``__plgolf__``, a JSON string with the configuration. Nothing in it is ever run.
"""

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from plgolf.config import config_from_dict, config_to_dict
from plgolf.errors import UserError
from plgolf.files import write_whole
from plgolf.interop import (
    gpt_config_from_weights,
    read_artifact_dict,
    weight_name_from_reference,
    weights_from_reference,
    weights_to_reference,
)
from plgolf.model import GPT, GPTConfig
from plgolf.model.weights import gpt_with_weights
from plgolf.quantize.int8_zlib import (
    QuantizeStats,
    dequantize_state_dict,
    pack,
    quantize_state_dict,
)
from plgolf.roles import Role, parameter_roles

SUFFIX = ".ptz"
_HEADER = "__plgolf__"
_HEADER_VERSION = 1
_MAX_HEADER_LETTERS = 2**16


@dataclass(frozen=True)
class Artifact:
    """What an artifact file holds.

    Args:
        config: the architecture, or None if the file does not say (the reference's files do not).
        weights: dequantised tensors by our names.
    """

    config: GPTConfig | None
    weights: dict[str, Tensor]


def save_artifact(gpt: GPT, path: str | Path) -> QuantizeStats:
    """Quantises a model and writes it to a file that appears whole or not at all.

    Args:
        gpt: the model; it is not changed.
        path: the file, by custom ``*.int8.ptz``.

    Returns:
        The quantiser's counters.
    """
    roles = parameter_roles(gpt)
    obj, stats = quantize_state_dict(
        weights_to_reference(gpt.state_dict()),
        is_control=lambda name: roles.get(weight_name_from_reference(name)) is Role.SCALAR,
    )
    header = {"version": _HEADER_VERSION, "config": config_to_dict(gpt.config)}
    obj[_HEADER] = json.dumps(header, separators=(",", ":"))
    write_whole(Path(path), pack(obj))
    return stats


def read_artifact(path: str | Path) -> Artifact:
    """Reads a file written by ``save_artifact`` or by the reference.

    Args:
        path: the file.

    Returns:
        Its contents.

    Raises:
        UserError: the file cannot be read or is malformed.
    """
    obj = read_artifact_dict(path)
    try:
        return Artifact(
            config=_config_from_header(obj[_HEADER]) if _HEADER in obj else None,
            weights=weights_from_reference(dequantize_state_dict(obj)),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _config_from_header(header: Any) -> GPTConfig:
    if not isinstance(header, str) or len(header) > _MAX_HEADER_LETTERS:
        raise UserError(f"its header must be a string of at most {_MAX_HEADER_LETTERS} letters")
    try:
        content = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise UserError(f"its header is malformed: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"version", "config"}:
        raise UserError("its header is malformed: it must have a version and a config")
    version = content["version"]
    if type(version) is not int or version != _HEADER_VERSION:
        raise UserError(f"its header version must be {_HEADER_VERSION}, got {reprlib.repr(version)}")
    return config_from_dict(GPTConfig, content["config"])


def load_artifact(path: str | Path, *, config: GPTConfig | None = None) -> GPT:
    """Rebuilds the model that a file holds.

    Args:
        path: a file written by ``save_artifact`` or by the reference.
        config: the architecture of a file that carries none; by default it is inferred from the weights,
            with the reference's rotary base and soft cap.

    Returns:
        The model with dequantised weights, in eval mode, on the CPU.

    Raises:
        UserError: the file cannot be read, is malformed, or its weights do not fit the architecture.
    """
    artifact = read_artifact(path)
    try:
        config = artifact.config or config or gpt_config_from_weights(weights_to_reference(artifact.weights))
        return gpt_with_weights(config, artifact.weights).eval()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
