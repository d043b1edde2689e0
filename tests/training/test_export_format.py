"""Runs whose recipe names plgolf's own container: written, read back, scored, validated, packed, reported."""

import json

import pytest
import torch
import yaml
from golden_run import golden_data, golden_module, trainer

from plgolf.artifact import load_gpt, read_artifact
from plgolf.cli import main
from plgolf.container import Container
from plgolf.quantize.codec import Raw
from plgolf.quantize.plan import CodecConfig
from plgolf.quantize.rows import Rows
from plgolf.roles import parameter_roles
from plgolf.training import ArtifactExport

QUANTIZE = {
    "attention": {"rows": {"bits": 6}},
    "mlp": {"rows": {"bits": 5, "quantiles": [0.999, 1.0], "best_for": "matrix"}},
    "embedding": {"rows": {"bits": 8, "sigmas": [4.0]}},
    "scalar": {"raw": {"dtype": "float16"}},
}
LABELS = {"attention": "int6", "mlp": "int5", "embedding": "int8", "scalar": "float16"}


@pytest.fixture(scope="module")
def run(golden_recipe_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe = yaml.safe_load(golden_recipe_file.read_text())
    init_args = {"quantize": QUANTIZE, "coder": "zlib"}
    recipe["export"]["format"] = {"class_path": "plgolf.container.Container", "init_args": init_args}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = [f"--trainer.default_root_dir={folder}", "--trainer.max_steps=2", "--console=reference"]
    assert main(["fit", "-c", str(folder / "recipe.yaml"), *words]) == 0
    return folder, json.loads((folder / "result.json").read_text())


def test_result_json_has_codec_and_bytes_of_every_tensor(run):
    folder, result = run
    assert result["artifact"] == "model.plgolf"
    path = folder / "model.plgolf"
    assert result["artifact_bytes"] == path.stat().st_size and not list(folder.glob("*.ptz"))
    entries = {entry["name"]: entry for entry in result["tensors"]}
    roles = parameter_roles(load_gpt(path))
    assert entries.keys() == roles.keys()
    for name, entry in entries.items():
        rule = next((part for part in ("attention.", "mlp.") if part in name), "embedding.")[:-1]
        rule = rule if entry["role"] != "scalar" else "scalar"
        assert (entry["role"], entry["kept"]) == (roles[name].value, LABELS[rule]), name
        assert entry["codec"] == ("raw" if rule == "scalar" else "rows")
    counts = result["quantize"]
    assert sum(entry["payload_bytes"] for entry in result["tensors"]) == counts["payload_bytes"]
    assert sum(counts["stream_bytes"].values()) < result["artifact_bytes"]
    worse = [
        entries[f"blocks.0.{name}.weight"]["relative_error"] for name in ("attention.q_proj", "mlp.up_proj")
    ]
    assert 0 < worse[0] < worse[1] < 0.1


def test_the_score_is_that_of_the_file(run, capsys):
    folder, result = run
    path = folder / "model.plgolf"
    assert main(["validate", "-c", str(folder / "recipe.yaml"), f"--ckpt_path={path}"]) == 0
    printed = float(capsys.readouterr().out.split("val/bpb")[1].split()[0])
    assert printed == pytest.approx(result["roundtrip_val_bpb"], abs=1e-4)
    assert result["roundtrip_val_bpb"] != result["val_bpb"]


@pytest.mark.slow
def test_a_report_shows_the_codecs(run):
    folder, result = run
    assert main(["report", str(folder)]) == 0
    page = next(folder.rglob("*.html")).read_text()
    assert ">int5<" in page and ">rows<" in page and "as int6 by rows" in page
    assert result["total_bytes"] == result["artifact_bytes"] + result["code_bytes"]


@pytest.mark.slow
def test_the_reference_style_names_the_format(tmp_path, capsys, run):
    recipe = run[0] / "recipe.yaml"
    words = [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=1", "--console=reference"]
    assert main(["fit", "-c", str(recipe), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((tmp_path / "result.json").read_text())
    counts = result["quantize"]
    ratio = counts["baseline_tensor_bytes"] / counts["payload_bytes"]
    assert (
        f"Serialized model container+zlib: {result['artifact_bytes']} bytes "
        f"(payload:{counts['payload_bytes']} payload_ratio:{ratio:.2f}x)"
    ) in lines
    assert any(line.startswith("final_container_zlib_roundtrip_exact val_loss:") for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv": {"rows": {"bits": 6}}}, "quantize.conv must match a tensor that no other rule takes"),
        ({"scalar": None}, "must have one rule for skip_weights, whose role is scalar"),
        ({"mlp": {"rows": {"bits": 9}}}, "bits must be from 2 to 8, got 9"),
        ({"mlp": {"rows": {"bit": 6}}}, "export.format.quantize must be settings by name, got"),
        ({"mlp": {}}, "codec must be exactly one of raw, rows, gptq, got none"),
    ],
)
def test_a_plan_that_does_not_fit_costs_one_line_before_the_run(run, change, message, tmp_path, capfd):
    recipe = yaml.safe_load((run[0] / "recipe.yaml").read_text())
    rules = {**QUANTIZE, **change}
    recipe["export"]["format"]["init_args"]["quantize"] = {k: v for k, v in rules.items() if v is not None}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["fit", "-c", str(tmp_path / "recipe.yaml"), f"--trainer.default_root_dir={tmp_path}"]) == 2
    error = capfd.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1, error
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.slow
def test_the_packed_code_has_the_container_and_reads_it(run, tmp_path):
    recipe = run[0] / "recipe.yaml"
    words = [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=1", "--export.check_code=true"]
    assert main(["fit", "-c", str(recipe), *words]) == 0
    code = json.loads((tmp_path / "result.json").read_text())["code"]
    assert code["error"] is None and code["bpb_difference"] <= 1e-6


def test_from_python_weights_come_back_within_half_a_step(tmp_path):
    rules = {
        "matrix": CodecConfig(rows=Rows(bits=6, quantiles=[1.0])),
        "embedding": CodecConfig(raw=Raw()),
        "scalar": CodecConfig(raw=Raw()),
    }
    module = golden_module()
    export = ArtifactExport(format=Container(rules, "lzma"), check_code=False)
    trainer(tmp_path, export, max_steps=1).fit(module, golden_data())
    artifact = read_artifact(tmp_path / "model.plgolf")
    for name, tensor in module.gpt.state_dict().items():
        if artifact.stored[name].codec == "raw":
            assert torch.equal(artifact.weights[name], tensor)
        else:
            step = tensor.abs().amax(1, keepdim=True) / 31
            # Half a step, and the rounding of a float16 scale over 31 steps.
            assert ((artifact.weights[name] - tensor).abs() <= (0.5 + 31 * 2**-11) * step).all()
    assert export.result["val_bpb"] == pytest.approx(export.result["roundtrip_val_bpb"], rel=0.01)
