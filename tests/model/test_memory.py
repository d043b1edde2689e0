import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lively import lively

from plgolf import GPTConfig
from plgolf.model import AttentionConfig, HeadConfig, MLPConfig


def kept(layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the keys and values that a layer's cache holds."""
    nothing = torch.empty(1, 4, 0, 4)
    return layer.extend(nothing, nothing)


@st.composite
def configs(draw):
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * group
    return GPTConfig(
        vocab_size=draw(st.integers(2, 40)),
        dim=heads * draw(st.sampled_from([2, 4, 10])),
        num_layers=draw(st.integers(1, 5)),
        compute_dtype="float32",
        attention=AttentionConfig(num_heads=heads, num_kv_heads=kv_heads, rope_base=draw(st.floats(2, 1e4))),
        mlp=MLPConfig(expansion=1.0),
        head=HeadConfig(tied=draw(st.booleans())),
    )


@settings(max_examples=100)
@given(config=configs(), data=st.data(), batch=st.integers(1, 3))
def test_cached_logits_equal_uncached_ones_for_any_cut_of_the_text(config, data, batch):
    gpt = lively(config)
    pieces = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=8))
    spare = data.draw(st.integers(0, 3))
    tokens = torch.randint(config.vocab_size, (batch, sum(pieces)))
    cache = gpt.memory(sum(pieces) + spare, batch=batch)
    with torch.inference_mode():
        uncached = gpt(tokens)
        end = 0
        for size in pieces:
            logits = gpt.next_logits(tokens[:, end : end + size], cache)
            end += size
            assert cache.length == end and logits.dtype is torch.float32
            torch.testing.assert_close(logits, uncached[:, end - 1], rtol=1e-5, atol=1e-5)


def test_a_cached_position_never_sees_later_positions():
    gpt = lively(GPTConfig(vocab_size=64, dim=32, num_layers=3, compute_dtype="float32"))
    tokens = torch.randint(64, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 64
    found = []
    for text in (tokens, changed):
        cache = gpt.memory(12)
        found.append([gpt.next_logits(text[:, i : i + 1], cache) for i in range(12)])
    for position, (before, after) in enumerate(zip(*found, strict=True)):
        assert torch.equal(before, after) == (position < 7)
    # The same within one piece: position 6 does not see position 7.
    pieces = []
    for text in (tokens, changed):
        cache = gpt.memory(12)
        gpt.next_logits(text[:, :8], cache)
        pieces.append(kept(cache.slots[-1]))
    for before, after in zip(*pieces, strict=True):
        torch.testing.assert_close(before[:, :, :7], after[:, :, :7], rtol=0, atol=0)
        assert not torch.equal(before[:, :, 7], after[:, :, 7])


def test_a_cleared_cache_reuses_its_memory():
    gpt = lively(GPTConfig(vocab_size=64, dim=32, num_layers=2, compute_dtype="float32"))
    cache = gpt.memory(8)
    gpt.next_logits(torch.zeros(1, 8, dtype=torch.long), cache)
    places = [kept(layer)[0].data_ptr() for layer in cache.slots]
    texts = torch.randint(64, (2, 1, 8))
    for text in texts:
        cache.clear()
        with torch.inference_mode():
            gpt.next_logits(text[:, :5], cache)
            logits = gpt.next_logits(text[:, 5:], cache)
            torch.testing.assert_close(logits, gpt(text)[:, -1], rtol=1e-5, atol=1e-5)
    assert [kept(layer)[0].data_ptr() for layer in cache.slots] == places
    with pytest.raises(ValueError, match="room for 9 positions, got 8"):
        gpt.next_logits(texts[0, :, :1], cache)


def test_a_bfloat16_model_has_a_bfloat16_cache_and_agrees_within_its_rounding():
    gpt = lively(GPTConfig(vocab_size=64, dim=32, num_layers=2))
    tokens = torch.randint(64, (1, 20))
    cache = gpt.memory(20)
    with torch.inference_mode():
        for i in range(20):
            logits = gpt.next_logits(tokens[:, i : i + 1], cache)
        torch.testing.assert_close(logits, gpt(tokens)[:, -1], rtol=0.05, atol=0.5)
    assert kept(cache.slots[0])[0].dtype is torch.bfloat16 and logits.dtype is torch.float32


def test_cached_logits_do_not_depend_on_the_layout_of_a_kernels_results(monkeypatch):
    kernel = F.scaled_dot_product_attention

    def heads_side_by_side(*args, **kwargs):  # The layout of a GPU's float32 kernel.
        return kernel(*args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2)

    gpt = lively(GPTConfig(vocab_size=64, dim=32, num_layers=2, compute_dtype="float32"))
    tokens = torch.randint(64, (1, 6))
    found = []
    for patched in (False, True):
        if patched:
            monkeypatch.setattr(F, "scaled_dot_product_attention", heads_side_by_side)
        cache = gpt.memory(6)
        with torch.inference_mode():
            found.append([gpt.next_logits(tokens[:, i : i + 1], cache) for i in range(6)])
    torch.testing.assert_close(*found)
