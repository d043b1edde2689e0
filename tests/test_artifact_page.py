"""docs/artifact.md, followed by a program without torch."""

import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, arrays, meta

from plgolf import GPT, GPTConfig, reference
from plgolf.artifact import load_gpt, save_artifact
from plgolf.container import Container
from plgolf.data.tokenizer import ByteTokenizer
from plgolf.model import AttentionConfig, HeadConfig, MLPConfig
from plgolf.quantize.codec import Raw
from plgolf.quantize.gptq import Gptq
from plgolf.quantize.low_rank import LowRank
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.rows import Rows

PAGE = Path(__file__).parent.parent / "docs" / "artifact.md"
READER, CONTAINER_READER = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def read():
    written: dict = {}
    exec(compile(READER, str(PAGE), "exec"), written)
    return written["read"]


def saved(path, dtype, *, tied, carry, dim=320, form=None):
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=260,
        dim=dim,
        num_layers=5,
        compute_dtype=dtype,
        attention=AttentionConfig(num_heads=10, num_kv_heads=5, rope_base=50.0),
        mlp=MLPConfig(expansion=1.5),
        head=HeadConfig(tied=tied, softcap=7.0),
    )
    gpt = GPT(config)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_artifact(
        gpt, path, seq_len=99, tokenizer=ByteTokenizer().to_bytes(), carry_tokenizer=carry, format=form
    )
    return load_gpt(path)


class Calibrated(Container):
    """Takes inputs that are independent of each other."""

    def pack(self, gpt, *args):
        named, names = gpt.state_dict(), self.calibrated_names(gpt)
        return Container.pack(
            self.calibrated({name: torch.eye(named[name].size(1)) for name in names}), gpt, *args
        )


@pytest.mark.parametrize("coder", ["zlib", "lzma"])
@pytest.mark.parametrize(("dtype", "tied"), [("bfloat16", True), ("float32", False)])
def test_the_reader_of_the_container_reads_all_there_is(coder, dtype, tied, tmp_path):
    rules = {
        "attention": CodecConfig(rows=Rows(bits=6)),
        "up_proj": CodecConfig(rows=Rows(bits=3, scale="float32")),
        "down_proj": CodecConfig(gptq=Gptq(rows=Rows(bits=4), low_rank=LowRank(group=48))),
        "down_proj of layers last 1": CodecConfig(gptq=Gptq(rows=Rows(bits=4), low_rank=LowRank(group=None))),
        "embedding": CodecConfig(raw=Raw()),
        "attention.scalar": CodecConfig(rows=Rows(bits=8)),
        "scalar": CodecConfig(raw=Raw(dtype="float16")),
        **({} if tied else {"head": CodecConfig(raw=Raw(dtype="bfloat16"))}),
    }
    gpt = saved(tmp_path / "a.plgolf", dtype, tied=tied, carry=tied, dim=80, form=Calibrated(rules, coder))
    written: dict = {}
    exec(compile(READER + CONTAINER_READER, str(PAGE), "exec"), written)
    data = (tmp_path / "a.plgolf").read_bytes()
    weights, header, carried = written["read_container"](data)
    expected = gpt.state_dict()
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        near = 1e-6 if "down_proj" in name else 0  # A product has an order.
        np.testing.assert_allclose(weights[name], tensor.float().numpy(), near, near, err_msg=name)
    assert header["version"] == 1 and header["seq_len"] == 99 and header["config"]["dim"] == 80
    assert header["tokenizer_sha256"] == ByteTokenizer().sha256
    assert carried == (ByteTokenizer().to_bytes() if tied else None)
    fields = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text().split("## The container")[1], re.MULTILINE))
    assert header.keys() == fields | {"config", "seq_len", "tokenizer_sha256"}
    assert data[:8].hex(" ") in PAGE.read_text()


@pytest.mark.parametrize(("dtype", "tied"), [("bfloat16", True), ("float32", False)])
def test_the_reader_of_the_page_reads_all_there_is(read, dtype, tied, tmp_path):
    gpt = saved(tmp_path / "a.ptz", dtype, tied=tied, carry=tied)
    weights, header, carried = read((tmp_path / "a.ptz").read_bytes())
    expected = reference.weights_to_reference(gpt.state_dict())
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(weights[name], tensor.float().numpy(), err_msg=name)
    assert header["version"] == 2 and header["seq_len"] == 99 and header["config"]["dim"] == 320
    assert header["tokenizer_sha256"] == ByteTokenizer().sha256
    assert carried == (ByteTokenizer().to_bytes() if tied else None)


@pytest.mark.parametrize("tied", [True, False])
def test_the_formulas_of_the_page_are_the_model(read, tied, tmp_path):
    gpt = saved(tmp_path / "a.ptz", "float32", tied=tied, carry=False)
    weights, header, _ = read((tmp_path / "a.ptz").read_bytes())
    tokens = torch.randint(260, (12,))
    with torch.inference_mode():
        logits = gpt(tokens[None])[0].numpy()
    found = forward({k: v.astype(np.float64) for k, v in weights.items()}, header["config"], tokens.numpy())
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)


def forward(weights, config, ids):
    """The page's formulas, in float64."""

    def norm(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 2**-23)

    layers, h, g = config["num_layers"], config["attention"]["num_heads"], config["attention"]["num_kv_heads"]
    e, half, time = config["dim"] // h, layers // 2, len(ids)
    angle = np.arange(time)[:, None] * config["attention"]["rope_base"] ** (-2 * np.arange(e // 2) / e)
    x = x0 = norm(weights["tok_emb.weight"][ids])
    outputs = []
    for i in range(layers):
        block = {k.split(".", 2)[2]: v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}
        if half <= i < 2 * half:
            x = x + weights["skip_weights"][i - half] * outputs[2 * half - 1 - i]
        x = block["resid_mix"][0] * x + block["resid_mix"][1] * x0
        q, k, v = (norm(x) @ block[f"attn.c_{name}.weight"].T for name in "qkv")
        mixed = np.zeros_like(x)
        for j in range(h):
            own, theirs = slice(j * e, (j + 1) * e), slice(j // (h // g) * e, (j // (h // g) + 1) * e)
            turned = []
            for y in (norm(q[:, own]), norm(k[:, theirs])):
                first, second = y[:, : e // 2], y[:, e // 2 :]
                cos, sin = np.cos(angle), np.sin(angle)
                turned.append(np.concatenate((first * cos + second * sin, second * cos - first * sin), 1))
            scores = block["attn.q_gain"][j] * turned[0] @ turned[1].T / np.sqrt(e)
            scores[np.triu(np.ones((time, time), bool), 1)] = -np.inf
            weight = np.exp(scores - scores.max(1, keepdims=True))
            mixed[:, own] = weight / weight.sum(1, keepdims=True) @ v[:, theirs]
        x = x + block["attn_scale"] * (mixed @ block["attn.proj.weight"].T)
        hidden = np.maximum(norm(x) @ block["mlp.fc.weight"].T, 0) ** 2
        x = x + block["mlp_scale"] * (hidden @ block["mlp.proj.weight"].T)
        outputs.append(x)
    head = weights.get("lm_head.weight", weights["tok_emb.weight"])
    softcap = config["head"]["softcap"]
    return softcap * np.tanh(norm(x) @ head.T / softcap)


def test_it_reads_the_references_files_and_needs_no_torch(read, tmp_path):
    weights, header, carried = read((GOLDEN / "tied" / "model.int8.ptz").read_bytes())
    assert header is carried is None
    for name, expected in arrays("tied", "quant_dequantized").items():
        np.testing.assert_array_equal(weights[name], expected, err_msg=name)
    weights, _, _ = read((GOLDEN / "tied" / "trained.int8.ptz").read_bytes())
    assert weights["tok_emb.weight"].shape[0] == meta("tied")["config"]["vocab_size"]
    code = f"{READER}\nimport sys\nread(open(sys.argv[1], 'rb').read())\nassert 'torch' not in sys.modules"
    path = str(GOLDEN / "tied" / "trained.int8.ptz")
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=tmp_path)


def test_the_zip_and_the_pickle_are_as_the_page_says(tmp_path):
    import io
    import pickletools
    import zipfile

    saved(tmp_path / "a.ptz", "bfloat16", tied=False, carry=True)
    payload = zlib.decompress((tmp_path / "a.ptz").read_bytes())
    archive = zipfile.ZipFile(io.BytesIO(payload))
    names = {name.removeprefix("archive/") for name in archive.namelist()}
    others = {name for name in names if not name.startswith("data/")}
    assert {"data.pkl", "version", "byteorder"} <= others
    assert all(f"`{name}`" in PAGE.read_text() for name in others)
    assert archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little"
    for info in archive.infolist():
        assert info.compress_type == zipfile.ZIP_STORED
        if "/data/" in info.filename and info.file_size:
            start = info.header_offset
            lengths = [int.from_bytes(payload[start + at : start + at + 2], "little") for at in (26, 28)]
            assert (start + 30 + sum(lengths)) % 64 == 0, info.filename
    opcodes = {code.name for code, _, _ in pickletools.genops(archive.read("archive/data.pkl"))}
    listed = re.search(r"Only these opcodes occur: (.*?)\. A tensor", PAGE.read_text(), re.DOTALL)[1]
    assert opcodes <= set(re.findall(r"[A-Z0-9_]+", listed))
    assert payload[-98:-94] == b"PK\6\6" and payload[-42:-38] == b"PK\6\7" and payload[-22:-18] == b"PK\5\6"


def test_the_opcodes_of_the_page_are_those_that_are_let_in():
    import pickle

    from plgolf.tensor_file import pickle_check

    listed = re.search(r"Only these opcodes occur: (.*?)\. A tensor", PAGE.read_text(), re.DOTALL)[1]
    named = {ord(getattr(pickle, name)) for name in re.findall(r"[A-Z0-9_]+", listed)}
    assert named == set(pickle_check._PickleChecker.dispatch) - {ord(pickle.BUILD)}
