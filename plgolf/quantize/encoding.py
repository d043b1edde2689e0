"""Turns the tensors of a model into arrays, each with the codec of its rule."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.quantize.codec import CalibratedCodec, PlainCodec
from plgolf.quantize.low_rank import largest_errors
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.streams import TensorSpec

_Arrays = dict[str, Tensor]


class Encoded(NamedTuple):
    """Tensors as a file has them.

    Args:
        specs: the tensors; those with a low-rank correction have a rule of their own, ``RULE.low_rank``.
        codecs: codecs by rule.
        arrays: arrays by the names of tensor and plane.
    """

    specs: list[TensorSpec]
    codecs: dict[str, CodecConfig]
    arrays: dict[str, _Arrays]


def encode_tensors(
    tensors: Mapping[str, Tensor],
    specs: Sequence[TensorSpec],
    codecs: Mapping[str, CodecConfig],
    hessians: Mapping[str, Tensor] | None = None,
    low_rank_tensors: int | None = None,
) -> Encoded:
    """Encodes tensors; matrices of one rule and shape at once, if their codec needs their inputs.

    Args:
        tensors: the tensors by name.
        specs: name, shape and rule of each.
        codecs: codecs by rule.
        hessians: sums of x x^T over the inputs x of matrices, by name.
        low_rank_tensors: number of tensors with a low-rank correction: those whose rule has one and whose
            errors have the largest norms; None for all whose rule has one.

    Raises:
        UserError: a tensor cannot be stored, or its inputs are missing; the message names it.
    """
    plain = {spec.name: tensors[spec.name].detach().cpu().contiguous() for spec in specs}
    arrays, stacks = dict[str, _Arrays](), dict[tuple[str, tuple[int, ...]], list[str]]()
    for name, _, shape, rule in specs:
        codec = codecs[rule].codec
        if isinstance(codec, PlainCodec):
            with _naming(name):
                arrays[name] = codec.encode(plain[name])
        else:
            stacks.setdefault((rule, shape), []).append(name)
    hessians = hessians or {}
    for (rule, _), names in stacks.items():
        codec = codecs[rule].codec
        assert isinstance(codec, CalibratedCodec)
        for name in names:
            if name not in hessians:
                raise UserError(f"{name} must have been calibrated, got no inputs of it")
        with _naming(" or ".join(names)):
            found = codec.encode_all([plain[name] for name in names], [hessians[name] for name in names])
        arrays |= dict(zip(names, found, strict=True))
    return _corrected(plain, specs, codecs, arrays, low_rank_tensors)


def _corrected(
    tensors: Mapping[str, Tensor],
    specs: Sequence[TensorSpec],
    codecs: Mapping[str, CodecConfig],
    arrays: dict[str, _Arrays],
    most: int | None,
) -> Encoded:
    """Adds low-rank corrections to the arrays."""
    errors = {}
    for spec in specs:
        codec = codecs[spec.rule].gptq
        if codec is not None and codec.low_rank is not None:
            rounded = replace(codec, low_rank=None).decode(arrays[spec.name], spec.shape, torch.float32)
            errors[spec.name] = tensors[spec.name].float() - rounded
    chosen = largest_errors({name: float(error.norm()) for name, error in errors.items()}, most)
    rules, found = [], dict[str, CodecConfig]()
    for spec in specs:
        rule, config = spec.rule, codecs[spec.rule]
        if spec.name in chosen:
            assert config.gptq is not None
            assert config.gptq.low_rank is not None
            with _naming(spec.name):
                arrays[spec.name] |= config.gptq.low_rank.encode(errors[spec.name])
            rule = f"{rule}.low_rank"
        elif config.gptq is not None:
            config = CodecConfig(gptq=replace(config.gptq, low_rank=None))
        rules.append(spec._replace(rule=rule))
        found[rule] = config
    order = {rule: found[rule] for each in codecs for rule in (each, f"{each}.low_rank") if rule in found}
    return Encoded(rules, order, arrays)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{name} {error}") from error
