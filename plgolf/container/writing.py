"""Writes containers: the format that a recipe names in ``export.format``."""

from typing import Any

from plgolf.config import config_to_dict
from plgolf.container.layout import VERSION, assemble, dtype_name
from plgolf.container.reading import read_container
from plgolf.header import ArtifactFormat, Header
from plgolf.model import GPT
from plgolf.quantize.coders import CoderName, compress
from plgolf.quantize.plan import CodecConfig, assign_rules
from plgolf.quantize.streams import TensorSpec, encode_tensors
from plgolf.roles import parameter_roles


class Container(ArtifactFormat):
    """Stores every tensor with the codec of its group, and compresses what the codecs make.

    Args:
        quantize: codec of each group of tensors. A group is a role (matrix, embedding, head, scalar), a part,
            which stands for its matrices (attention, mlp), or both (attention.scalar); a tensor is in the
            group with the innermost part. Every tensor needs a group, and every group a tensor.
        coder: compressor; brotli and zstd need packages of their own.

    Raises:
        UserError: the package of the coder is not installed.
    """

    def __init__(self, quantize: dict[str, CodecConfig], coder: CoderName = "lzma") -> None:
        compress(coder, b"")  # A package that is missing is named before the run.
        self.quantize, self.coder = quantize, coder

    def check(self, gpt: GPT) -> None:
        assign_rules(self.quantize, parameter_roles(gpt))

    def pack(self, gpt: GPT, header: Header, tokenizer: bytes | None) -> tuple[bytes, dict[str, Any]]:
        tensors, rules = gpt.state_dict(), assign_rules(self.quantize, parameter_roles(gpt))
        specs = [TensorSpec(name, t.dtype, tuple(t.shape), rules[name]) for name, t in tensors.items()]
        encoded = encode_tensors(tensors, specs, self.quantize)
        streams = {stream: compress(self.coder, data) for stream, data in encoded.items()}
        carried = b"" if tokenizer is None else compress(self.coder, tokenizer)
        said = {
            "version": VERSION,
            **header.to_dict(),
            "coder": self.coder,
            "codecs": {rule: {c.name: config_to_dict(c.codec)} for rule, c in self.quantize.items()},
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
            "param_count": sum(t.numel() for t in tensors.values()),
            "num_tensors": len(specs),
            "baseline_tensor_bytes": sum(t.numel() * t.element_size() for t in tensors.values()),
            "payload_bytes": sum(map(len, encoded.values())),
            "stream_bytes": {f"{s.rule}.{s.plane}": len(data) for s, data in streams.items()},
        }
