"""Models of published records, beside the numbers that their programs computed."""

import numpy as np
import pytest
import torch
from golden_data import ids
from golden_records import APRIL, MARCH, MARCH_B, RECORDS, april, content, golden, march, off
from torch import Tensor

from plgolf import GPT
from plgolf.errors import UserError
from plgolf.model.rotary import Rotary
from plgolf.reference.records import config_from_record, weights_from_record, weights_to_record
from plgolf.roles import Role, parameter_roles


def april_row() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs and targets of a packed row, (1, tokens), and the borders of its documents."""
    row = golden("forward_backward_loop_on", APRIL)
    return ids(row["x"])[None], ids(row["y"])[None], torch.from_numpy(row["cu_seqlens"])


@pytest.mark.parametrize(
    ("program", "file"), [(MARCH, "forward_backward"), ("2026-03-23", "b_forward_backward")]
)
def test_loss_and_every_gradient_are_those_of_the_records_of_march(program, file):
    example = golden("forward_backward")
    expected, gpt = golden(file), march(program)
    loss = gpt(ids(example["x"]), ids(example["y"]))
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"].item(), rel=1e-6)
    found = weights_to_record({n: p.grad for n, p in gpt.named_parameters()}, program, gpt.config)
    gradients = {k.removeprefix("grad/"): v for k, v in expected.items() if k.startswith("grad/")}
    assert found.keys() == gradients.keys() and len(found) == 62
    for name, gradient in gradients.items():
        assert off(found[name], gradient) < 1e-5, name


def test_weights_keep_names_and_values_on_the_way_there_and_back():
    weights, config = golden("weights"), march().config
    back = weights_to_record(weights_from_record(weights, MARCH, config), MARCH, config)
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[name], value) for name, value in weights.items())


@pytest.mark.parametrize("record", [MARCH, "2026-03-23", APRIL])
def test_weights_and_gradients_are_taken_as_tensors_parameters_and_arrays(record):
    config = config_from_record(content("meta.json", APRIL)["model"], APRIL) if record == APRIL else None
    config, weights = config or march(record).config, golden("weights", record if record == APRIL else MARCH)
    gpt, fixed = GPT(config), {name: array.copy() for name, array in weights.items()}
    for array in fixed.values():
        array.flags.writeable = False  # As in a file that is mapped to memory.
    gpt.load_state_dict(weights_from_record(fixed, record, config))
    for given in (dict(gpt.named_parameters()), gpt.state_dict()):
        back = weights_to_record(given, record, config)
        assert back.keys() == weights.keys()
        assert all(np.array_equal(back[name].numpy(), value) for name, value in weights.items())
    gpt(torch.arange(8)[None]).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in gpt.named_parameters()}
    again = weights_from_record(weights_to_record(gradients, record, config), record, config)
    assert again.keys() == gradients.keys()
    assert all(np.array_equal(again[name].numpy(), value) for name, value in gradients.items())


def test_a_bank_is_whole():
    config, weights = april().config, golden("weights", APRIL)
    with pytest.raises(UserError, match=r"^kv_bank must have 14 matrices, got 3$"):
        weights_from_record({"kv_bank": weights["kv_bank"][:3]}, APRIL, config)
    some = {"blocks.0.mlp.up_proj.weight": torch.ones(1)}
    with pytest.raises(UserError, match=r"all matrices of mlp_up_bank or none, got 1$"):
        weights_to_record(some, APRIL, config)
    assert list(weights_to_record({"embedding.weight": torch.ones(1)}, APRIL, config)) == ["tok_emb.weight"]


def test_every_stage_is_that_of_the_record():
    stages, gpt, seen = golden("stages"), march(), {}
    for index, block in enumerate(gpt.blocks):
        block.register_forward_pre_hook(lambda _, args, i=index: seen.update({f"block{i}_in": args[0]}))
        block.register_forward_hook(lambda _m, _a, out, i=index: seen.update({f"block{i}_out": out}))
        block.attention.register_forward_hook(
            lambda _, args, out, i=index: seen.update(
                {f"block{i}_attn_in": args[0], f"block{i}_attn_out": out, "x0": args[1].x0}
            )
        )
    for index in (0, 4):
        attention = gpt.blocks[index].attention
        attention.v_proj.register_forward_hook(lambda _m, _a, out: seen.update(v=out))
    gate = gpt.blocks[4].attention.head_parts["exclusive"]
    gate.register_forward_hook(
        lambda _, args, out: seen.update(
            block4_attn_before_xsa=args[0], block4_v=args[1], block4_attn_after_xsa=out
        )
    )
    gpt.value_source.register_forward_hook(lambda _m, _a, out: seen.update(value_embedding=out))
    gpt.head.register_forward_pre_hook(lambda _, args: seen.update(final_normed=args[0]))
    seen["logits"] = gpt(ids(stages["ids"])[None])
    # The record scales the output of attention outside of it.
    compared = [name for name in stages if name in seen and not name.endswith("attn_out")]
    assert len(compared) > 14
    for name in compared:
        assert off(seen[name][0].detach(), stages[name]) < 1e-5, name
    for index in (0, 4):
        scaled = golden("weights")[f"blocks.{index}.attn_scale"] * stages[f"block{index}_attn_out"]
        assert off(seen[f"block{index}_attn_out"][0].detach(), scaled) < 1e-5


ABLATIONS = {
    "all_on": {},
    "bigram_off": {},
    "branch_scales_one": {"attn_scale": 1.0, "mlp_scale": 1.0},
    "depth_gate_on": {},
    "ln_scale_off": {},
    "q_gain_one": {"q_gain": 1.0},
    "resid_mix_off": {"resid_mix": [[1.0], [0.0]]},
    "rope_full": {},
    "rope_off": {},
    "skips_off": {"skip_weights": 0.0},
    "smear_half": {"smear.gate": 0.0},
    "smear_off": {"smear.gate": -1e4},
    "softcap_off": {},
    "value_embedding_off": {},
    "value_embedding_unit_layer_scales": {"ve_layer_scales": 1.0},
    "xsa_all_layers": {},
    "xsa_off": {},
    "untied_head": {},
}
"""Weights that a file changes besides the settings, by a part of their names."""


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_model_without_one_technique_has_the_records_loss(name):
    expected, example = content(f"ablations/{name}.json"), golden("forward_backward")
    changed = dict(golden("extra_heads"))
    changed |= {n: np.array(w) for n, w in expected.get("extra_weights", {}).items()}
    for part, value in ABLATIONS[name].items():
        changed |= {n: np.zeros_like(w) + value for n, w in golden("weights").items() if part in n}
    gpt = march(weights={n: w.astype(np.float32) for n, w in changed.items()}, **expected["config_change"])
    if name == "rope_off":
        gpt.rotary.inverse_frequency.zero_()
    with torch.no_grad():
        loss = gpt(ids(example["x"]), ids(example["y"]))
    assert loss.item() == pytest.approx(expected["loss"], rel=2e-6)


def test_a_sequence_beyond_the_rope_length_has_the_records_loss():
    expected = content("ablations/long_context.json")
    shard = np.fromfile(RECORDS / MARCH / "fineweb_val_000000.bin", np.uint16)[512:]
    first, length = expected["start"], expected["length"]
    tokens = ids(shard[first : first + length + 1])
    with torch.no_grad():
        loss = march()(tokens[None, :-1], tokens[None, 1:])
    assert loss.item() == pytest.approx(expected["loss"], rel=2e-6)


def test_rotary_tables_are_the_records():
    rows, names = golden("rope"), set()
    for key in rows:
        name = key.split("/")[0]
        names.add(name)
    for name in names:
        head_dim, dims, base, length = (float(part.lstrip("hdrbaseT")) for part in name.split("_"))
        turned = int(dims) if 0 < dims < head_dim else int(head_dim)
        tables = Rotary(turned, base=base, length=1024)(int(length), torch.float32)
        at = rows[f"{name}/pos"].astype(np.int64)
        for table, kind in zip(tables, ("cos", "sin"), strict=True):
            assert np.abs(table[at].numpy() - rows[f"{name}/{kind}"]).max() < 1e-6, name
    assert len(names) > 3


def test_bigrams_have_the_records_rows():
    example = golden("bigram_hash")
    tokens = ids(example["ids"])
    before = torch.cat((torch.full_like(tokens[:, :1], -1), tokens[:, :-1]), 1)
    found = 0
    for name, expected in example.items():
        if name.startswith("buckets"):
            size = int(name.removeprefix("buckets"))
            gpt = march(weights={"bigram.embed.weight": np.zeros((size, 24), "f4")}, bigram_vocab_size=size)
            rows = gpt.input_parts["bigram_hash"].buckets(tokens, before)
            assert np.array_equal(rows, expected), name
            found += 1
    assert found > 1


@pytest.mark.parametrize(
    ("program", "key"), [(MARCH, "A_default"), ("2026-03-23", "B_code_default"), ("2026-03-23", "B_as_run")]
)
def test_the_models_of_march_have_the_records_parameters(program, key):
    expected = content("param_counts.json")[key]
    config = config_from_record(expected["config"], program)
    with torch.device("meta"):
        gpt = GPT(config)
    assert sum(p.numel() for p in gpt.parameters()) == expected["total"]
    # The second program has the banks of April.
    naming = APRIL if program == MARCH_B else program
    shapes = {
        n: list(p.shape) for n, p in weights_to_record(dict(gpt.named_parameters()), naming, config).items()
    }
    assert shapes == {name: row["shape"] for name, row in expected["tensors"].items()}


@pytest.mark.parametrize(
    ("changes", "record", "message"),
    [
        ({}, "2026-01-01", "record must be one of 2026-03-22, .*, got '2026-01-01'"),
        ({"mtp_num_heads": 2}, MARCH, "mtp_num_heads must be 0: nothing else is built, got 2"),
        ({"wings": 2}, MARCH, "wings must be left out"),
    ],
)
def test_settings_that_are_not_built_are_refused(changes, record, message):
    with pytest.raises(UserError, match=message):
        config_from_record({**content("meta.json")["config"], **changes}, record)


def test_a_missing_setting_is_named():
    with pytest.raises(UserError, match="the record's settings must have tie_embeddings"):
        config_from_record({}, MARCH)


@pytest.mark.parametrize(("fraction", "file"), [(0.0, "loop_off"), (0.34, "loop_off"), (1.0, "loop_on")])
def test_loss_and_every_gradient_are_those_of_the_record_of_april(fraction, file):
    expected, gpt = golden(f"forward_backward_{file}", APRIL), april().at(fraction)
    inputs, targets, borders = april_row()
    loss = gpt(inputs, targets, cu_seqlens=borders)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss_float64"].item(), rel=1e-6)
    found = weights_to_record({n: p.grad for n, p in gpt.named_parameters()}, APRIL, gpt.config)
    gradients = {k.removeprefix("grad/"): v for k, v in expected.items() if k.startswith("grad/")}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert off(found[name], gradient) < 2e-5, name


def test_banks_are_stacked_as_they_were():
    weights, config = golden("weights", APRIL), april().config
    back = weights_to_record(weights_from_record(weights, APRIL, config), APRIL, config)
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[name], value) for name, value in weights.items())


def test_every_use_of_a_layer_has_the_records_output():
    stages, gpt, outputs, seen = golden("activations_loop_on", APRIL), april(), [], {}
    for block in gpt.blocks:
        block.register_forward_hook(lambda _m, _a, out: outputs.append(out))
    first = gpt.blocks[0].attention
    first.register_forward_pre_hook(lambda _, args: seen.update(x0=args[1].x0, slot0_attn_in=args[0]))
    first.out_proj.register_forward_pre_hook(lambda _, args: seen.update(slot0_attn_gated=args[0]))
    gpt.head.register_forward_pre_hook(lambda _, args: seen.update(final_hidden=args[0]))
    inputs, _, borders = april_row()
    seen["logits"] = gpt(inputs, cu_seqlens=borders)
    names = [name for name in stages if "layer" in name]
    assert len(outputs) == len(names) == 9  # The layers with two lanes come after them.
    seen |= dict(zip(sorted(names), outputs, strict=True))
    assert seen.keys() | {"slot0_attn_out"} == stages.keys()
    for name, value in seen.items():
        assert off(value[0].detach(), stages[name]) < 1e-5, name


IN_PROSE = {
    *("smear_without_bos_mask", "q_gain_1", "no_document_mask", "no_max_doc_len", "loop_two_passes"),
    "rope_frequencies_rounded_to_bfloat16",
}
"""Ablations that change something else than a setting, or weights besides."""


@pytest.mark.parametrize(
    "row", content("ablations.json", APRIL), ids=lambda row: f"{row['name']}-{row['loop']}"
)
def test_a_model_with_one_change_has_the_loss_of_the_record_of_april(row):
    name, weights, changes = row["name"], {}, row["overrides"]
    inputs, targets, borders = april_row()
    if name == "loop_two_passes":
        weights = {n: w[:4] for n, w in golden("weights", APRIL).items() if n.startswith("skip_")}
    if name == "q_gain_1":
        weights = {n: np.ones_like(w) for n, w in golden("weights", APRIL).items() if n.endswith("q_gain")}
    if name == "no_document_mask":
        borders = None
    if name == "no_max_doc_len":
        starts = {0, *torch.nonzero(inputs[0] == 1).flatten().tolist(), inputs.size(1)}
        borders = torch.tensor(sorted(starts), dtype=torch.int32)
    gpt = april(weights, **changes).at(float(row["loop"]))
    if name == "smear_without_bos_mask":
        gpt.input_parts["smear_gate"].bos_id = None
    if name == "rope_frequencies_rounded_to_bfloat16":
        gpt.rotary.inverse_frequency = gpt.rotary.inverse_frequency.bfloat16().float()
    assert changes or name in IN_PROSE | {"all_on"}
    with torch.no_grad():
        loss = gpt(inputs, targets, cu_seqlens=borders)
    assert loss.item() == pytest.approx(row["loss"], rel=2e-6)


def test_the_model_of_april_has_the_records_parameters():
    expected = content("params_full.json", APRIL)
    settings = {
        **content("meta.json", APRIL)["model"],
        "vocab_size": 8192,
        "num_layers": 11,
        "model_dim": 512,
    }
    heads = {"num_heads": 8, "num_kv_heads": 4, "mlp_mult": 4.0, "rope_dims": 16, "xsa_last_n": 11}
    order = {"loop_start": 3, "loop_end": 5, "parallel_start_layer": 8}
    config = config_from_record(settings | heads | order, APRIL)
    with torch.device("meta"):
        gpt = GPT(config)
    assert sum(p.numel() for p in gpt.parameters()) == expected["total"] == 35_945_671
    found = weights_to_record(dict(gpt.named_parameters()), APRIL, config)
    assert {n: list(p.shape) for n, p in found.items()} == {
        r["name"]: r["shape"] for r in expected["tensors"]
    }
    roles = weights_to_record(
        {n: torch.tensor(list(Role).index(r)) for n, r in parameter_roles(gpt).items()}, APRIL, config
    )
    groups = {"muon": Role.MATRIX, "embed": Role.EMBEDDING, "scalar": Role.SCALAR}
    for row in expected["tensors"]:
        found_roles = {list(Role)[index] for index in roles[row["name"]].flatten().tolist()}
        assert found_roles == {groups[row["optimizer_group"]]}, row["name"]
    order = expected["encoder_indices"] + expected["decoder_indices"]
    assert [visit.layer for visit in gpt.visits] == order


@pytest.mark.parametrize(("program", "key"), [(MARCH, "A"), (MARCH_B, "B")])
def test_initial_values_are_those_of_the_records(program, key):
    file = content("init.json")
    torch.manual_seed(0)
    gpt = GPT(config_from_record(file["config"], program))
    found = weights_to_record(dict(gpt.named_parameters()), program, gpt.config)
    assert found.keys() == file[key].keys()
    for name, expected in file[key].items():
        values = found[name].detach()
        assert list(values.shape) == expected["shape"], name
        constant = expected["std"] == 0 or "resid_mix" in name
        near = {"abs": 1e-9} if constant else {"abs": 5e-3}
        assert values.mean().item() == pytest.approx(expected["mean"], **near), name
        assert values.std(correction=0).item() == pytest.approx(expected["std"], rel=5e-2, abs=1e-9), name
        if "singular_values_min_max" in expected:
            singular = torch.linalg.svdvals(values)
            ends = [singular.min().item(), singular.max().item()]
            expected_ends = expected["singular_values_min_max"]
            assert ends == pytest.approx(expected_ends, rel=0.1 if "emb" in name else 1e-5), name
