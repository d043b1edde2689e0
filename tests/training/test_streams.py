"""Runs on each kind of training stream: the same tokens on any number of ranks, and after a resume."""

import pytest
import torch
from golden_data import GOLDEN
from golden_run import Record, golden_data, golden_module, trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from runs import assert_same, fit, load, rows

from plgolf import GPTConfig
from plgolf.cli import main
from plgolf.data.packed import PackedStream
from plgolf.data.shards import ShardReader, find_shards
from plgolf.data.stream import BatchPlan
from plgolf.data.streams import StreamConfig
from plgolf.data.windows import WindowStream
from plgolf.errors import UserError
from plgolf.training import CompileWarmup, GolfModule

KINDS = pytest.mark.parametrize("kind", ["packed", "windows"])


def data_of(kind="spans"):
    return golden_data(stream=StreamConfig(kind=kind))


@KINDS
def test_a_resumed_run_on_this_stream_is_the_uninterrupted_one(kind, tmp_path):
    whole, again, first, second = Record(), Record(), golden_module(), golden_module()
    half = tmp_path / "half.ckpt"
    save = LambdaCallback(
        on_train_batch_end=lambda fit, *_: fit.global_step == 3 and fit.save_checkpoint(half)
    )
    trainer(tmp_path, whole, save, max_steps=6).fit(first, data_of(kind))
    trainer(tmp_path, again, max_steps=6).fit(second, data_of(kind), ckpt_path=half)
    assert again.losses == whole.losses[3:] and len(again.losses) == 3
    assert_same(first.state_dict(), second.state_dict())


@pytest.mark.slow
@KINDS
def test_two_ranks_train_on_this_stream_as_one_does(kind, golden_recipe, tmp_path):
    for ranks in (1, 2):
        words = (f"--data.stream.kind={kind}", "--trainer.max_steps=3")
        fit(golden_recipe, ranks, *words, folder=tmp_path / f"{ranks}")
    losses = [
        [value for _, name, value in rows(tmp_path / f"{ranks}") if name == "train/loss"] for ranks in (1, 2)
    ]
    assert len(losses[0]) > 0
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-5, atol=0)


@KINDS
def test_a_run_on_this_stream_begins_with_its_first_step(kind, tmp_path):
    seen = []

    class Note(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.append(batch)

    data = data_of(kind)
    fit = trainer(tmp_path, Note(), CompileWarmup(steps=1), max_steps=2)
    fit.fit(golden_module(), data)
    assert isinstance(data.train_stream, {"packed": PackedStream, "windows": WindowStream}[kind])
    for step, batch in enumerate(seen):
        for part, expected in zip(batch, data.train_stream.step(step), strict=True):
            assert torch.equal(part.input_ids, expected.input_ids)
            assert (part.cu_seqlens is None) == (kind == "windows")
    assert len(seen) == 2


def test_a_warm_up_batch_has_the_shapes_of_all_others():
    for kind in ("spans", "packed", "windows"):
        data = data_of(kind)
        data.prepare_data()
        stream = data.train_stream
        count = data.plan.sequences * data.seq_len + 1
        made, usual = stream.batch_of(stream.reader.read(0, count)), stream.batch(3)
        for ours, expected in zip(made, usual, strict=True):
            if isinstance(expected, torch.Tensor):
                assert ours.shape == expected.shape and ours.dtype == expected.dtype
            else:
                assert ours == expected


def test_the_borders_reach_the_model(tmp_path):
    module, data = golden_module(), data_of("packed")
    data.prepare_data()
    batch = data.train_stream.batch(0)
    assert batch.cu_seqlens[1] < batch.input_ids.numel()
    with torch.no_grad():
        inside, across = (module.micro_batch_loss(b) for b in (batch, batch._replace(cu_seqlens=None)))
    assert inside != across


def test_one_graph_with_the_longest_document_as_a_number_serves_all_batches():
    reader, graphs = ShardReader(find_shards(GOLDEN / "records" / "2026-04-27", "train")), []
    stream = PackedStream(reader, BatchPlan(4, 4, 1, 1), seq_len=24, rank=0, bos_id=1)
    module = GolfModule(GPTConfig(vocab_size=160, dim=32, num_layers=2, compute_dtype="float32"))

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    module.gpt.compile(backend=backend, fullgraph=True, dynamic=False)
    batches = [stream.batch(index) for index in range(3)]
    assert len({tuple(batch.cu_seqlens.tolist()) for batch in batches}) == 3
    for batch in batches:
        module.micro_batch_loss(batch)
    [graph] = graphs
    calls = [node.args for node in graph.graph.nodes if "segment_attention" in str(node.target)]
    assert [longest for *_, longest in calls] == [24, 24]


def test_a_resumed_run_has_the_stream_of_its_checkpoint(tmp_path):
    first = trainer(tmp_path, max_steps=1)
    first.fit(golden_module(), data_of())
    first.save_checkpoint(tmp_path / "new.ckpt")
    checkpoint = load(tmp_path / "new.ckpt")
    del checkpoint["ShardDataModule"]["stream"]  # As earlier versions wrote it.
    torch.save(checkpoint, tmp_path / "old.ckpt")
    for name in ("new", "old"):
        path = tmp_path / f"{name}.ckpt"
        trainer(tmp_path, max_steps=2).fit(golden_module(), data_of(), ckpt_path=path)
        with pytest.raises(UserError, match="data.stream.kind must be the checkpoint's spans, got windows"):
            trainer(tmp_path, max_steps=2).fit(golden_module(), data_of("windows"), ckpt_path=path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.stream.max_document_tokens=9"], "max_document_tokens must be null for spans"),
        (["--data.stream={kind: packed, max_document_tokens: 0}"], "max_document_tokens must be at least 1"),
        (["--data.stream.kind=pack"], "pack"),
        (
            [
                "--data.stream.kind=packed",
                "--data.global_batch_tokens=65536",
                "--data.micro_batch_sequences=64",
            ],
            "data.global_batch_tokens must fit a shard",
        ),
    ],
)
def test_settings_of_a_stream_that_do_not_fit_are_refused(words, message, golden_recipe, tmp_path, capfd):
    run = ["fit", "-c", str(golden_recipe), f"--trainer.default_root_dir={tmp_path}"]
    assert main([*run, *words]) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1
