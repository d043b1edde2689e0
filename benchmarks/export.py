"""Measures how long a model takes to become a file and to be loaded, beside the reference program's way.

    taskset -c 0 python benchmarks/export.py --threads 1 [--artifact checkpoints/run/model.int8.ptz]

The model has the baseline's architecture and random weights, none of them zero, or is that of an artifact.
The reference way: ``torch.quantile`` and rounding out of place, zlib at level 9, ``torch.load`` into a model
that was initialised first. Both wait until the file is safe on disk, and have the same codes and scales,
which is checked. Also prints the bytes that other zlib strategies make of the same payload.
"""

import io
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from rounds import compared, finish, in_turn, parser
from torch import Tensor

from plgolf import GPT, GPTConfig
from plgolf.artifact import load_gpt, save_artifact
from plgolf.files import write_atomically
from plgolf.reference import is_control_name, weights_from_reference, weights_to_reference
from plgolf.reference.int8_zlib import dequantize_state_dict, pack, quantize_state_dict
from plgolf.reference.rounding import CLIP_QUANTILE, quantize_int8


def reference_int8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Quantises a matrix with the reference's formulas."""
    values = tensor.float()
    clip = torch.quantile(values.abs(), CLIP_QUANTILE, dim=1)
    clipped = torch.maximum(torch.minimum(values, clip[:, None]), -clip[:, None])
    scale = (clip / 127.0).clamp_min(1.0 / 127.0)
    codes = torch.clamp(torch.round(clipped / scale[:, None]), -127, 127).to(torch.int8)
    return codes.contiguous(), scale.to(torch.float16).contiguous()


def serialised(obj: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getvalue()


def model(settings: Any) -> GPT:
    if settings.artifact:
        return load_gpt(settings.artifact)
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(dim=settings.dim, num_layers=settings.layers))
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(torch.randn_like(parameter))
    return gpt


def main() -> None:
    options = parser(__doc__, rounds=7)
    options.add_argument("--dim", type=int, default=512)
    options.add_argument("--layers", type=int, default=9)
    options.add_argument("--artifact", type=Path, default=None, help="take the model from this file")
    settings = options.parse_args()
    torch.set_num_threads(settings.threads or 1)
    gpt = model(settings)
    weights = weights_to_reference(gpt.state_dict())
    large = [w for w in weights.values() if w.ndim == 2 and w.numel() > 65_536]
    pairs = [(*reference_int8(w), *quantize_int8(w)) for w in large]
    assert all(torch.equal(a, c) and torch.equal(b, d) for a, b, c, d in pairs)
    obj, stats = quantize_state_dict(weights, is_control=is_control_name)
    payload, packed = serialised(obj), pack(obj)

    with tempfile.TemporaryDirectory() as folder:
        path, theirs = Path(folder, "plgolf.int8.ptz"), Path(folder, "reference.int8.ptz")
        save_artifact(gpt, path)

        def reference_export() -> None:
            for tensor in large:
                reference_int8(tensor)
            write_atomically(theirs, zlib.compress(serialised(obj), 9))

        def reference_load() -> None:
            content = torch.load(io.BytesIO(zlib.decompress(theirs.read_bytes())), weights_only=False)
            GPT(gpt.config).load_state_dict(weights_from_reference(dequantize_state_dict(content)))

        reference_export()
        stages = {
            "quantise": (
                lambda: [reference_int8(tensor) for tensor in large],
                lambda: [quantize_int8(tensor) for tensor in large],
            ),
            "compress": (lambda: zlib.compress(serialised(obj), 9), lambda: pack(obj)),
            "write": (lambda: write_atomically(theirs, packed), lambda: write_atomically(path, packed)),
            "export": (reference_export, lambda: save_artifact(gpt, path)),
            "load": (reference_load, lambda: load_gpt(path)),
        }
        results = {
            stage: compared(
                in_turn({"reference": reference, "plgolf": ours}, rounds=settings.rounds), to="reference"
            )
            for stage, (reference, ours) in stages.items()
        }
        artifact_bytes = path.stat().st_size
    strategies = {"filtered": zlib.Z_FILTERED, "rle": zlib.Z_RLE, "huffman only": zlib.Z_HUFFMAN_ONLY}
    sizes = {"none": len(payload), "level 9, the reference": len(zlib.compress(payload, 9))}
    for name, strategy in strategies.items():
        deflate = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
        sizes[name] = len(deflate.compress(payload) + deflate.flush())
    finish(
        settings,
        {
            "num_params": stats.param_count,
            "stages": results,
            "bytes": {**sizes, "plgolf": len(packed), "plgolf, with its header": artifact_bytes},
        },
    )


if __name__ == "__main__":
    main()
