import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf.model.causal import (
    attend_with,
    blockwise_attention,
    causal_attention,
    fused_attention,
    gpu_kernels,
)


def heads(*, time, dtype, batch=2, num_heads=4, num_kv_heads=2, head_dim=16, seed=0):
    """Queries, keys and values in a model's layout: transposed views."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, time, number, head_dim) for number in (num_heads, num_kv_heads, num_kv_heads)]
    made = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [x.to(dtype).transpose(1, 2).requires_grad_() for x in made]


def by_definition(q, k, v):
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    scores = q @ k.mT / q.size(-1) ** 0.5
    seen = torch.ones(q.size(2), q.size(2), dtype=torch.bool).tril()
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


@settings(max_examples=30, deadline=None)
@given(time=st.integers(1, 300), groups=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_blockwise_attention_equals_the_definition(time, groups, seed):
    q, k, v = heads(time=time, dtype=torch.float64, num_kv_heads=groups, seed=seed)
    weight = torch.randn(q.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected, found = by_definition(q, k, v), blockwise_attention(q, k, v)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # Its softmax is in float32.
    gradients = [torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (found, expected)]
    for ours, exact in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("time", [1, 127, 512, 513, 700])
def test_bfloat16_is_close_to_float64_at_every_length(time):
    q, k, v = heads(time=time, dtype=torch.bfloat16)
    found, exact = causal_attention(q, k, v), by_definition(q.double(), k.double(), v.double())
    assert found.dtype is torch.bfloat16
    assert (found.double() - exact).norm() < 6e-3 * exact.norm()


def test_only_short_sequences_in_training_on_a_cpu_are_blockwise():
    for time, dtype, blockwise in (
        (1, torch.bfloat16, True),
        (512, torch.bfloat16, True),
        (513, torch.bfloat16, False),
        (128, torch.float32, False),
        (129, torch.float32, True),
        (513, torch.float32, False),
        (200, torch.float64, False),
    ):
        q, k, v = heads(time=time, dtype=dtype)
        expected = (blockwise_attention if blockwise else fused_attention)(q, k, v)
        assert torch.equal(causal_attention(q, k, v), expected)
        with torch.no_grad():
            assert torch.equal(causal_attention(q, k, v), fused_attention(q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_attention_compiles_into_one_graph(dtype):
    q, k, v = heads(time=200, dtype=dtype)
    compiled = torch.compile(causal_attention, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(q, k, v), causal_attention(q, k, v))


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (10, 0)])
def test_a_choice_among_kernels_compiles_into_one_graph(capability):
    @torch.compiler.assume_constant_result
    def kernels(device, dtype):  # Those of a GPU; a CPU supports the last one.
        return gpu_kernels(capability, dtype)

    def attend(q, k, v):
        return attend_with(kernels(q.device, torch.bfloat16), q, k, v)

    q, k, v = heads(time=20, dtype=torch.float64)
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(q, k, v), by_definition(q, k, v))


def test_a_kernel_without_grouped_heads_gets_repeated_ones(monkeypatch):
    taken = []

    def attend(q, k, v, **_):
        taken.append((q.size(1), k.size(1), v.size(1)))
        return by_definition(q, k, v)

    q, k, v = heads(time=5, dtype=torch.float32)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    for capability, dtype in (((7, 5), torch.bfloat16), ((9, 0), torch.float32), ((9, 0), torch.bfloat16)):
        torch.testing.assert_close(
            attend_with(gpu_kernels(capability, dtype), q, k, v), by_definition(q, k, v)
        )
    assert taken == [(4, 4, 4), (4, 4, 4), (4, 2, 2)]
