"""Further targets of each position: what is added to the loss, when, and that scores stay as they were."""

import pytest
import torch
import torch.nn.functional as F
from golden_data import TOKENIZER
from golden_run import golden_data, golden_module, trainer
from lightning.pytorch import Callback
from lively import lively
from runs import assert_same, load

from plgolf import GPTConfig
from plgolf.data.stream import Batch
from plgolf.data.tokenizer.files import load_tokenizer
from plgolf.errors import UserError
from plgolf.model import AttentionConfig
from plgolf.model.further import Further
from plgolf.training import GolfModule, RunCheckpoint
from plgolf.training.further_targets import LaterTokens, PrefixToken, prefix_tokens

SMALL = GPTConfig(
    vocab_size=64, dim=32, num_layers=2, compute_dtype="float32", attention=AttentionConfig(num_heads=4)
)
IDS, TARGETS = torch.randint(64, (2, 2, 8), generator=torch.Generator().manual_seed(0))
FURTHER = torch.randint(64, (2, 2, 8), generator=torch.Generator().manual_seed(1))
FURTHER[0, :, 6:] = FURTHER[1, :, ::3] = -100


def batch_of(targets: torch.Tensor, borders: list[int] | None = None) -> Batch:
    segments = None if borders is None else torch.tensor(borders, dtype=torch.int32)
    return Batch(targets, targets, len(targets), segments)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_losses_of_further_targets_are_added_with_their_weights(reduction):
    gpt, weights = lively(SMALL), torch.tensor([0.5, 0.25])
    logits = gpt(IDS).double().flatten(0, 1)
    main = F.cross_entropy(logits, TARGETS.flatten(), reduction="none")
    kinds = [F.cross_entropy(logits, kind.flatten(), reduction="none") for kind in FURTHER]
    expected = main + 0.5 * kinds[0] + 0.25 * kinds[1]
    loss = gpt(IDS, TARGETS, reduction=reduction, further=Further(FURTHER, weights))
    expected = expected.mean() if reduction == "mean" else expected.view(2, 8)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)


def test_new_weights_act_without_another_compilation():
    gpt, graphs = lively(SMALL), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled, seen = torch.compile(gpt, fullgraph=True, dynamic=False, backend=backend), []
    for weights in ([0.5, 0.25], [0.5, 0.0], [0.0, 0.0]):
        further = Further(FURTHER, torch.tensor(weights))
        gpt.zero_grad()
        loss = compiled(IDS, TARGETS, further=further)
        loss.backward()
        seen.append((loss.item(), gpt.blocks[0].mlp.up_proj.weight.grad.norm().item()))
        torch.testing.assert_close(loss, gpt(IDS, TARGETS, further=further))
    assert len(graphs) == 1 and len(set(seen)) == 3
    assert seen[2][0] == pytest.approx(gpt(IDS, TARGETS).item(), rel=1e-6)


def test_weights_of_later_tokens_end_one_after_the_other():
    later = LaterTokens([0.5, 0.25])
    found = [later.weights(fraction / 6) for fraction in range(7)]
    expected = [[0.5, 0.25], [0.5, 0.125], [0.5, 0], [0.25, 0], [0, 0], [0, 0], [0, 0]]
    assert found == [pytest.approx(weights, abs=1e-12) for weights in expected]


def test_the_weight_of_the_prefix_falls_in_the_second_third():
    prefix = PrefixToken()
    found = [prefix.weights(fraction / 6)[0] for fraction in range(7)]
    assert found == pytest.approx([0.25, 0.25, 0.25, 0.125, 0, 0, 0], abs=1e-12)


def test_later_tokens_stay_in_the_row_and_in_the_document():
    targets = torch.tensor([[1, 2, 3, 4, 5]], dtype=torch.uint16)
    later = LaterTokens([0.5, 0.25])
    assert later.further_targets(batch_of(targets)).tolist() == [
        [[2, 3, 4, 5, -100]],
        [[3, 4, 5, -100, -100]],
    ]
    packed = later.further_targets(batch_of(targets, [0, 3, 5, 5]))
    assert packed.tolist() == [[[2, 3, -100, 5, -100]], [[3, -100, -100, -100, -100]]]
    assert LaterTokens([1.0] * 3).further_targets(batch_of(targets[:, :2]))[2].eq(-100).all()


def test_the_prefix_of_a_token_is_the_longest_in_the_vocabulary():
    tokenizer = load_tokenizer(TOKENIZER)
    prefixes = prefix_tokens(tokenizer, 512).tolist()
    texts = tokenizer.processor.id_to_piece(list(range(512)))
    pieces = [tokenizer.bytes_of(i) or text.replace("\u2581", " ").encode() for i, text in enumerate(texts)]
    pieces[: pieces.index(b"\x00")] = [None] * pieces.index(b"\x00")
    assert sum(prefix >= 0 for prefix in prefixes) > 100
    for piece, prefix in zip(pieces, prefixes, strict=True):
        shorter = [
            other for other in pieces if piece and other and piece.startswith(other) and other != piece
        ]
        assert (pieces[prefix] if prefix >= 0 else None) == max(shorter, key=len, default=None)
    found = PrefixToken()
    found.prefixes = torch.tensor(prefixes)
    targets = torch.randint(512, (2, 8), dtype=torch.int32).to(torch.uint16)
    assert found.further_targets(batch_of(targets)).flatten().tolist() == [
        prefixes[i] for i in targets.flatten()
    ]


def test_a_run_trains_with_further_targets_and_scores_without(tmp_path):
    seen = {}
    for name, callbacks in {"plain": [], "further": [LaterTokens(), PrefixToken()]}.items():
        module = golden_module()
        fit = trainer(tmp_path / name, *callbacks, max_steps=1, limit_val_batches=1)
        fit.fit(module, golden_data())
        loss = module.run.train_loss
        [scores] = fit.validate(module, golden_data(), verbose=False)
        twin = golden_module()
        twin.gpt.load_state_dict(module.gpt.state_dict())
        [plain] = trainer(tmp_path / name, limit_val_batches=1).validate(twin, golden_data(), verbose=False)
        assert scores == plain
        seen[name] = loss, scores["val/loss"]
    # 0.5 + 0.25 + 0.25 further targets of nearly all positions, at a loss near that of the next token.
    assert 1.5 < seen["further"][0] / seen["plain"][0] < 2.0
    assert seen["further"][1] != seen["plain"][1]


class OwnLoss(GolfModule):
    def micro_batch_loss(self, batch):
        return super().micro_batch_loss(batch)


def test_further_targets_that_would_not_act_are_refused(tmp_path):
    with pytest.raises(UserError, match="must not have PrefixToken in a run without clock.max_seconds or"):
        trainer(tmp_path, PrefixToken(), max_epochs=1, limit_train_batches=2).fit(
            golden_module(), golden_data()
        )
    with pytest.raises(UserError, match="must not have LaterTokens with a module with a micro_batch_loss"):
        trainer(tmp_path, LaterTokens(), max_steps=2).fit(OwnLoss(golden_module().gpt.config), golden_data())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LaterTokens([]), "later must be finite and positive weights"),
        (lambda: LaterTokens([0.5, -1.0]), "later must be finite and positive weights"),
        (lambda: LaterTokens(ends=0.0), "ends must be above 0 and at most 1, got 0.0"),
        (lambda: PrefixToken(weight=0.0), "weight must be finite and positive, got 0.0"),
        (lambda: PrefixToken(falls=0.7), "falls must be from 0 to below ends"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


class Weights(Callback):
    """Notes the weights of the further targets of each step."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_start(self, fit, module):
        module.gpt.register_forward_pre_hook(lambda _, args: self.seen.append(args[5].weights.tolist()))


def test_weights_follow_the_run_and_a_resumed_run(tmp_path):
    later = LaterTokens()
    whole, rest = Weights(), Weights()
    settings = {"max_steps": 4, "limit_val_batches": 0, "enable_checkpointing": True}
    callbacks = whole, LaterTokens(), RunCheckpoint(every_steps=3)
    trainer(tmp_path, *callbacks, **settings).fit(golden_module(), golden_data())
    assert whole.seen == [pytest.approx(later.weights(step / 4), abs=1e-7) for step in range(4)]
    callbacks = rest, LaterTokens(), RunCheckpoint(every_steps=3)
    path = str(tmp_path / "step-000003.ckpt")
    trainer(tmp_path / "rest", *callbacks, **settings).fit(golden_module(), golden_data(), ckpt_path=path)
    assert rest.seen == whole.seen[3:]
    ends = [load(folder / "step-000004.ckpt") for folder in (tmp_path, tmp_path / "rest")]
    assert_same(*(end["state_dict"] for end in ends))
