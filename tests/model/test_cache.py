import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf import GPT, GPTConfig
from plgolf.model import AttentionConfig, HeadConfig, MLPConfig


def lively(config: GPTConfig) -> GPT:
    """A model with nothing at zero or one, whose logits are far apart."""
    torch.manual_seed(0)
    gpt = GPT(config).eval()
    with torch.no_grad():
        for p in gpt.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return gpt


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
def test_cached_logits_are_the_uncached_ones_however_the_text_is_cut(config, data, batch):
    gpt = lively(config)
    pieces = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=8))
    spare = data.draw(st.integers(0, 3))
    tokens = torch.randint(config.vocab_size, (batch, sum(pieces)))
    cache = gpt.cache(sum(pieces) + spare, batch=batch)
    with torch.inference_mode():
        uncached = gpt(tokens)
        end = 0
        for size in pieces:
            logits = gpt.next_logits(tokens[:, end : end + size], cache)
            end += size
            assert cache.length == end and logits.dtype is torch.float32
            torch.testing.assert_close(logits, uncached[:, end - 1], rtol=1e-5, atol=1e-5)


def test_a_cached_position_never_sees_what_comes_after_it():
    gpt = lively(GPTConfig(vocab_size=64, dim=32, num_layers=3, compute_dtype="float32"))
    tokens = torch.randint(64, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 64
    found = []
    for text in (tokens, changed):
        cache = gpt.cache(12)
        found.append([gpt.next_logits(text[:, i : i + 1], cache) for i in range(12)])
    for position, (before, after) in enumerate(zip(*found, strict=True)):
        assert torch.equal(before, after) == (position < 7)
    # Within a piece that is read at once, too: position 7 is there, but 6 does not see it.
    cache = gpt.cache(12)
    gpt.next_logits(changed[:, :8], cache)
    keys = cache.layers[-1]._keys[:, :, :8].clone()
    cache.clear()
    gpt.next_logits(tokens[:, :8], cache)
    torch.testing.assert_close(cache.layers[-1]._keys[:, :, :7], keys[:, :, :7], rtol=0, atol=0)
    assert not torch.equal(cache.layers[-1]._keys[:, :, 7], keys[:, :, 7])


def test_memory_is_allocated_once_and_used_again():
    gpt = lively(GPTConfig(vocab_size=64, dim=32, num_layers=2, compute_dtype="float32"))
    cache = gpt.cache(8)
    places = [layer._keys.data_ptr() for layer in cache.layers]
    texts = torch.randint(64, (2, 1, 8))
    for text in texts:
        cache.clear()
        with torch.inference_mode():
            gpt.next_logits(text[:, :5], cache)
            logits = gpt.next_logits(text[:, 5:], cache)
            torch.testing.assert_close(logits, gpt(text)[:, -1], rtol=1e-5, atol=1e-5)
    assert [layer._keys.data_ptr() for layer in cache.layers] == places
    with pytest.raises(ValueError, match="room for 9 positions, got 8"):
        gpt.next_logits(texts[0, :, :1], cache)


def test_a_bfloat16_model_has_a_bfloat16_cache_and_agrees_to_its_rounding():
    gpt = lively(GPTConfig(vocab_size=64, dim=32, num_layers=2))
    tokens = torch.randint(64, (1, 20))
    cache = gpt.cache(20)
    with torch.inference_mode():
        for i in range(20):
            logits = gpt.next_logits(tokens[:, i : i + 1], cache)
        torch.testing.assert_close(logits, gpt(tokens)[:, -1], rtol=0.05, atol=0.5)
    assert cache.layers[0]._keys.dtype is torch.bfloat16 and logits.dtype is torch.float32


def test_cached_logits_do_not_depend_on_how_a_kernel_leaves_its_results(monkeypatch):
    kernel = F.scaled_dot_product_attention

    def heads_side_by_side(*args, **kwargs):  # As a GPU's kernel for float32 has them.
        return kernel(*args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2)

    gpt = lively(GPTConfig(vocab_size=64, dim=32, num_layers=2, compute_dtype="float32"))
    tokens = torch.randint(64, (1, 6))
    found = []
    for patched in (False, True):
        if patched:
            monkeypatch.setattr(F, "scaled_dot_product_attention", heads_side_by_side)
        cache = gpt.cache(6)
        with torch.inference_mode():
            found.append([gpt.next_logits(tokens[:, i : i + 1], cache) for i in range(6)])
    torch.testing.assert_close(*found)
