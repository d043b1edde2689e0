"""What every artifact says about its model, and the base class of the formats that a recipe may name."""

import hashlib
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plgolf.config import config_from_dict, config_to_dict
from plgolf.errors import UserError
from plgolf.model import GPT, GPTConfig

MAGIC = b"\x93PLGOLF\n"
"""First bytes of plgolf's own container; no zlib stream begins with them."""
_MAX_SEQ_LEN = 2**31 - 1
MAX_TOKENIZER_BYTES = 2**24


@dataclass(frozen=True)
class Header:
    """Description of a model and its tokenizer.

    Args:
        config: the architecture.
        seq_len: tokens in a training sequence; None if unknown.
        tokenizer_sha256: SHA-256 of the tokenizer's file; None if unknown.

    Raises:
        UserError: a value is out of range.
    """

    config: GPTConfig
    seq_len: int | None
    tokenizer_sha256: str | None

    def __post_init__(self) -> None:
        seq_len, sha256 = self.seq_len, self.tokenizer_sha256
        if seq_len is not None and not (type(seq_len) is int and 1 <= seq_len <= _MAX_SEQ_LEN):
            got = reprlib.repr(seq_len)
            raise UserError(f"seq_len must be a whole number from 1 to {_MAX_SEQ_LEN}, got {got}")
        if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
            raise UserError(f"tokenizer_sha256 must be 64 hexadecimal digits, got {reprlib.repr(sha256)}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values for JSON."""
        # Not vars(): the minifier of packed code keeps every name of a module that calls it.
        return {**self.__dict__, "config": config_to_dict(self.config)}


def header_from_dict(values: Mapping[str, Any]) -> Header:
    """Builds a header from plain values; ``config`` must be there, others are None if they are missing.

    Raises:
        UserError: a value has another type or is out of range.
    """
    config = config_from_dict(GPTConfig, values["config"])
    return Header(config, values.get("seq_len"), values.get("tokenizer_sha256"))


def check_tokenizer(content: bytes, sha256: str | None) -> bytes:
    """Returns the contents of a tokenizer's file that a model carries.

    Raises:
        UserError: they have another hash than the header says.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(f"its tokenizer's sha256 must be {sha256}, as its header says, got {found}")
    return content


class ArtifactFormat:
    """Base class of artifact formats, with the name of the file in a run's folder.

    A format that is calibrated after training has what ``plgolf.quantize.calibration.Calibrated`` says.
    """

    file_name = "model.plgolf"

    def check(self, gpt: GPT) -> None:
        """Raises a UserError, before the run, if the settings of the format do not fit the model."""

    def pack(self, gpt: GPT, header: Header, tokenizer: bytes | None) -> tuple[bytes, dict[str, Any]]:
        """Returns the contents of the file, and what ``result.json`` says of them under ``quantize``.

        Args:
            gpt: the model; it is not changed.
            header: description of the model.
            tokenizer: contents of the tokenizer's file if the artifact is to carry them.

        Raises:
            UserError: the model cannot be written so that it can be read back.
        """
        raise NotImplementedError
