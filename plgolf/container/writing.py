"""Writes containers: the format that a recipe names in ``export.format``."""

import copy
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from plgolf.config import config_to_dict
from plgolf.container.layout import VERSION, assemble, dtype_name
from plgolf.container.reading import read_container
from plgolf.errors import UserError, whole_number
from plgolf.header import ArtifactFormat, Header
from plgolf.model import GPT
from plgolf.quantize.calibration import Calibration, check_inputs
from plgolf.quantize.codec import CalibratedCodec, Codec
from plgolf.quantize.coders import CoderName, compress
from plgolf.quantize.encoding import encode_tensors
from plgolf.quantize.plan import CodecConfig, assign_rules
from plgolf.quantize.streams import TensorSpec, join_arrays, plan_streams
from plgolf.roles import parameter_roles


class Container(ArtifactFormat):
    """Stores every tensor with the codec of its group, and compresses what the codecs make.

    Args:
        quantize: codec of each group of tensors. A group is a role (matrix, embedding, head, scalar), a part,
            which stands for its matrices (attention, mlp), or both (attention.scalar); a tensor is in the
            group with the innermost part. ``mlp of layers last 2`` takes the group out of some layers. Every
            tensor needs a group, and every group a tensor.
        coder: compressor; brotli and zstd need packages of their own.
        calibration: text for codecs that need the inputs of matrices (gptq); null for training batches.
        low_rank_tensors: number of tensors that have the low-rank correction of their group: those with the
            largest errors; null for all of the groups that have one.

    Raises:
        UserError: the package of the coder is not installed, or a setting is out of range or has no effect.
    """

    def __init__(
        self,
        quantize: dict[str, CodecConfig],
        coder: CoderName = "lzma",
        calibration: Calibration | None = None,
        low_rank_tensors: int | None = None,
    ) -> None:
        compress(coder, b"")  # A package that is missing is named before the run.
        self.quantize, self.coder = quantize, coder
        codecs = quantize.values()
        calibrated = any(isinstance(config.codec, CalibratedCodec) for config in codecs)
        if calibration is not None and not calibrated:
            raise UserError("calibration must be null where no codec of quantize needs it")
        self.calibration = (calibration or Calibration()) if calibrated else None
        if low_rank_tensors is not None:
            whole_number("low_rank_tensors", low_rank_tensors, least=1)
            if not any(config.gptq and config.gptq.low_rank for config in codecs):
                raise UserError("low_rank_tensors must be null where no codec of quantize has low_rank")
        self.low_rank_tensors = low_rank_tensors
        self._hessians: Mapping[str, Tensor] | None = None

    def check(self, gpt: GPT) -> None:
        specs = self._specs(gpt)
        plan_streams(specs, self.quantize)
        check_inputs(gpt, self.calibrated_names(gpt))

    def codecs(self, gpt: GPT) -> dict[str, Codec]:
        """Returns the codec of each tensor by name."""
        return {spec.name: self.quantize[spec.rule].codec for spec in self._specs(gpt)}

    def calibrated_names(self, gpt: GPT) -> list[str]:
        return [name for name, codec in self.codecs(gpt).items() if isinstance(codec, CalibratedCodec)]

    def calibrated(self, hessians: Mapping[str, Tensor]) -> "Container":
        container = copy.copy(self)
        container._hessians = hessians
        return container

    def _specs(self, gpt: GPT) -> list[TensorSpec]:
        rules = assign_rules(self.quantize, parameter_roles(gpt))
        tensors = gpt.state_dict().items()
        return [TensorSpec(name, t.dtype, tuple(t.shape), rules[name]) for name, t in tensors]

    def pack(self, gpt: GPT, header: Header, tokenizer: bytes | None) -> tuple[bytes, dict[str, Any]]:
        tensors, started = gpt.state_dict(), time.perf_counter()
        specs, codecs, arrays = encode_tensors(
            tensors, self._specs(gpt), self.quantize, self._hessians, self.low_rank_tensors
        )
        quantized = time.perf_counter()
        joined = {
            stream: join_arrays([arrays[name][stream.plane] for name, _ in planes])
            for stream, planes in plan_streams(specs, codecs).items()
        }
        streams = {stream: compress(self.coder, data) for stream, data in joined.items()}
        carried = b"" if tokenizer is None else compress(self.coder, tokenizer)
        said = {
            "version": VERSION,
            **header.to_dict(),
            "coder": self.coder,
            "codecs": {rule: {c.name: config_to_dict(c.codec)} for rule, c in codecs.items()},
            "tensors": [
                {"name": name, "dtype": dtype_name(dtype), "shape": shape, "rule": rule}
                for name, dtype, shape, rule in specs
            ],
            "streams": [
                {"rule": rule, "plane": plane, "dtype": dtype_name(dtype), "bytes": len(data)}
                for (rule, plane, dtype), data in streams.items()
            ],
            "tokenizer": None if tokenizer is None else {"size": len(tokenizer), "bytes": len(carried)},
        }
        data = assemble(said, [*streams.values(), carried])
        read_container(data)  # A file that cannot be read must not replace an earlier one.
        return data, {
            "coder": self.coder,
            "quantize_seconds": quantized - started,
            "compress_seconds": time.perf_counter() - quantized,
            "param_count": sum(t.numel() for t in tensors.values()),
            "num_tensors": len(specs),
            "baseline_tensor_bytes": sum(t.numel() * t.element_size() for t in tensors.values()),
            "payload_bytes": sum(map(len, joined.values())),
            "stream_bytes": {f"{s.rule}.{s.plane}": len(data) for s, data in streams.items()},
        }
