"""What a run says: lines, the reference's lines, a bar on a real terminal, the end."""

import json
import os
import pty
import re
import select
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_run import golden_data, golden_module, trainer
from rich.console import Console
from rich.text import Text
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plgolf import GPT, GPTConfig
from plgolf.cli import main
from plgolf.model.attention import AttentionConfig
from plgolf.model.flops import train_flops_per_token
from plgolf.training import ConsoleLog, ShardDataModule, TrainClock
from plgolf.training.logs.console.facts import StepFacts
from plgolf.training.logs.console.lines import step_line
from plgolf.training.logs.console.panel import end_panel
from plgolf.training.logs.screen import show

FACTS = StepFacts(
    step=200,
    max_steps=20_000,
    loss=3.20124,
    elapsed_seconds=14.3,
    max_seconds=600.0,
    recent_ms=71.5,
    tokens_per_second=5_500_123.0,
    lr_factor=1.0,
    peak_mib=7748,
    flops_utilisation=0.1621,
)


def fit(recipe: Path, *words: str) -> None:
    assert main(["fit", "-c", str(recipe), *words]) == 0


def test_a_line_says_all_there_is_to_say_of_a_step():
    assert step_line(FACTS).plain == (
        "step   200/20000  loss 3.2012      71.5 ms/step   5.50M tokens/s    14.3/600 s   9:46 left"
        "  lr x1.000  7,748 MiB  mfu 16.2 %"
    )
    laptop = replace(FACTS, max_steps=None, flops_utilisation=None, max_seconds=None)
    assert step_line(laptop).plain.endswith("14.3 s  lr x1.000  7,748 MiB")


@pytest.mark.parametrize(
    ("max_steps", "max_seconds", "left"),
    [(None, None, None), (300, None, 7.15), (20_000, 15.0, 0.7), (210, 600.0, 0.715), (None, 10.0, 0.0)],
)
def test_the_time_left_is_of_what_ends_the_run_first(max_steps, max_seconds, left):
    facts = replace(FACTS, max_steps=max_steps, max_seconds=max_seconds)
    assert facts.seconds_left == (None if left is None else pytest.approx(left))


def test_lines_are_plain_and_aligned_in_a_file(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(golden_recipe, "--data.val_every_steps=4", "--console.first_steps=2", "--console.every_steps=5")
    said = capfd.readouterr().out
    assert "\x1b" not in said and "\r" not in said
    lines = [line for line in said.splitlines() if "ms/step" in line]
    assert [int(line.split()[1].split("/")[0]) for line in lines] == [1, 2, 5, 10]
    assert (
        len({line.index(" ms/step") for line in lines}) == len({line.index(" lr x") for line in lines}) == 1
    )
    validated = [line.split()[1] for line in said.splitlines() if "val/bpb" in line and "step" in line]
    assert validated == ["4/10", "8/10", "10/10"]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert f"round-trip bpb   {result['roundtrip_val_bpb']:.4f}" in said
    assert f"{result['total_bytes']:,} bytes  within the budget of 16,000,000" in said
    assert "plgolf report run" in said


def test_the_references_lines_are_its_own_to_the_letter(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(golden_recipe, "--console", "reference", "--console.every_steps=5", "--data.val_every_steps=0")
    said = capfd.readouterr().out
    result = json.loads((tmp_path / "run/result.json").read_text())
    steps = re.findall(
        r"^step:(\d+)/10 train_loss:\d+\.\d{4} train_time:\d+ms step_avg:\d+\.\d\dms$", said, re.MULTILINE
    )
    assert steps == [str(step) for step in range(1, 11)]
    total = result["artifact_bytes"] + result["code_bytes"]
    times = r"train_time:\d+ms step_avg:\d+\.\d\dms"
    ends = [
        rf"step:10/10 val_loss:{result['val_loss']:.4f} val_bpb:{result['val_bpb']:.4f} {times}",
        r"export: wrote run/model.int8.ptz, scoring what it holds",
        r"peak memory allocated: \d+ MiB reserved: \d+ MiB",
        r"Serialized model: \d+ bytes",
        rf"Code size: {result['code_bytes']} bytes",
        r"Total submission size: \d+ bytes",
        (
            rf"Serialized model int8\+zlib: {result['artifact_bytes']} bytes "
            rf"\(payload:{result['quantize']['int8_payload_bytes']} raw_torch:\d+ payload_ratio:\d+\.\d\dx\)"
        ),
        rf"Total submission size int8\+zlib: {total} bytes",
        (
            rf"final_int8_zlib_roundtrip val_loss:{result['roundtrip_val_loss']:.4f} "
            rf"val_bpb:{result['roundtrip_val_bpb']:.4f} eval_time:\d+ms"
        ),
        (
            rf"final_int8_zlib_roundtrip_exact val_loss:{result['roundtrip_val_loss']:.8f} "
            rf"val_bpb:{result['roundtrip_val_bpb']:.8f}"
        ),
    ]
    lines = said.splitlines()[10:]
    assert len(lines) == len(ends), lines
    for line, end in zip(lines, ends, strict=True):
        assert re.fullmatch(end, line), (line, end)


def test_the_reference_says_when_the_time_was_up(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(golden_recipe, "--console=reference", "--clock.max_seconds=0.001")
    assert re.search(
        r"^stopping_early: wallclock_cap train_time:\d+ms step:1/10$", capfd.readouterr().out, re.MULTILINE
    )


def on_a_terminal(*words: str, cwd: Path) -> str:
    """Runs plgolf on a pseudo terminal of 120 columns."""
    master, slave = pty.openpty()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": "120"}
    run = subprocess.Popen(
        [sys.executable, "-m", "plgolf", *words], cwd=cwd, stdin=slave, stdout=slave, stderr=slave, env=env
    )
    os.close(slave)
    said = b""
    while run.poll() is None or select.select([master], [], [], 0)[0]:
        if select.select([master], [], [], 0.2)[0]:
            try:
                said += os.read(master, 65536)
            except OSError:  # All of it is read, and the other end is closed.
                break
    os.close(master)
    assert run.wait(timeout=60) == 0, said
    return said.decode()


@pytest.mark.slow
def test_a_terminal_gets_colours_a_frame_and_progress(golden_recipe, tmp_path):
    said = on_a_terminal("fit", "-c", golden_recipe.name, "--warmup.steps=3", cwd=tmp_path)
    assert re.search(r"\x1b\[36m  loss \d", said)
    assert "╭" in said and "╰" in said
    assert "\r\x1b[K" in said


@pytest.mark.slow
def test_a_bar_has_the_time_budget_for_its_length(golden_recipe, tmp_path):
    words = ("--console=bar", "--trainer.max_steps=-1", "--clock.max_seconds=4")
    said = on_a_terminal("fit", "-c", golden_recipe.name, *words, cwd=tmp_path)
    lengths = [line.count("━") for line in re.split(r"[\r\n]", said) if "ms/step" in line]
    assert len(lengths) > 3 and "left" in said
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert re.search(r"step +\d+ +val/loss", plain) and "round-trip bpb" in plain
    # Whatever was hidden is shown again.
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l")


def test_without_a_terminal_a_bar_is_lines(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(golden_recipe, "--console=bar", "--trainer.max_steps=2")
    said = capfd.readouterr().out
    assert "step 2/2  loss" in said and "━" not in said


def test_over_the_budget_is_said_loudly(golden_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fit(golden_recipe, "--trainer.max_steps=1")
    result = json.loads((tmp_path / "run/result.json").read_text())
    capfd.readouterr()
    console = Console(width=100, force_terminal=False)
    console.print(end_panel({**result, "budget_bytes": 1000}, Path("run"), framed=True))
    said = capfd.readouterr().out
    assert "OVER the budget of 1,000" in said and "█" * 40 in said


def test_a_folder_of_any_name_is_shown_as_it_is_and_steers_no_terminal(golden_recipe, tmp_path, capfd):
    folder = tmp_path / "[red]a\x1b[2Jb"
    fit(golden_recipe, "--trainer.max_steps=1", f"--trainer.default_root_dir={folder}")
    assert "\x1b" not in capfd.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    console = Console(width=200, force_terminal=False)
    console.print(end_panel(result, folder, framed=True))
    assert "─ [red]a\ufffd[2Jb ─" in capfd.readouterr().out


def test_the_last_step_is_said_whatever_the_order_of_callbacks(tmp_path, capfd):
    console = ConsoleLog(first_steps=0, every_steps=0)
    for callbacks in ([console, TrainClock()], [TrainClock(), console]):
        trainer(tmp_path, *callbacks, max_steps=2).fit(golden_module(), golden_data())
        lines = capfd.readouterr().out.splitlines()
        assert [line.split("  ")[0:2][1][:8] for line in lines] == ["loss 5.7", "val/loss"]


def test_a_reader_that_has_seen_enough_is_a_broken_pipe(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(BrokenPipeError):  # Which the command line knows; Rich would exit with 1.
            show(Text("step 1"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)


def test_a_validation_of_unknown_length_is_counted_without_an_end(tmp_path):
    class Endless(ShardDataModule):
        def val_dataloader(self):
            batches = super().val_dataloader()
            return iter(batches)

    data = golden_data(kind=Endless)
    trainer(tmp_path, ConsoleLog(), max_steps=1).fit(golden_module(), data)
    assert data.trainer.num_val_batches == [float("inf")]


@pytest.mark.parametrize("seq_len", [8, 128])
def test_flops_are_those_that_torch_counts(seq_len):
    attention = AttentionConfig(num_heads=4, num_kv_heads=2)
    config = GPTConfig(vocab_size=64, dim=32, num_layers=3, compute_dtype="float32", attention=attention)
    tokens = torch.randint(64, (2, seq_len + 1))
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        GPT(config)(tokens[:, :-1], tokens[:, 1:]).backward()
    # That way of attention computes both halves: as many products as twice the length needs of one.
    assert counted.get_total_flops() == 2 * seq_len * train_flops_per_token(config, 2 * seq_len - 1)
