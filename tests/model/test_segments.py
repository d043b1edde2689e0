import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import varlen

from plgolf import GPT, GPTConfig
from plgolf.errors import UserError
from plgolf.model import segments
from plgolf.model.attention import AttentionConfig
from plgolf.model.segments import has_kernel, kernel_attention, segment_attention

DOCUMENTS = st.lists(st.integers(1, 200), min_size=1, max_size=5)


def borders(lengths, *, padded_to=0):
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    return torch.cat((ends, ends[-1:].expand(max(padded_to - ends.numel(), 0))))


def heads(tokens, *, dtype=torch.float64, num_heads=4, num_kv_heads=2, head_dim=8, seed=0):
    """Queries, keys and values in a model's layout: transposed views."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, tokens, number, head_dim) for number in (num_heads, num_kv_heads, num_kv_heads)]
    made = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [x.to(dtype).transpose(1, 2).requires_grad_() for x in made]


def one_by_one(q, k, v, lengths):
    """Attends inside each document alone, by the definition."""
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    results = []
    for q_, k_, v_ in zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True):
        seen = torch.ones(q_.size(2), q_.size(2), dtype=torch.bool).tril()
        scores = (q_ @ k_.mT / q.size(-1) ** 0.5).masked_fill(~seen, -torch.inf)
        results.append(scores.softmax(-1) @ v_)
    return torch.cat(results, dim=2)


def with_gradients(y, leaves, seed=1):
    weight = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return [y, *torch.autograd.grad((y * weight.to(y.dtype)).sum(), leaves)]


@settings(max_examples=25, deadline=None)
@given(
    lengths=DOCUMENTS, groups=st.sampled_from([1, 2, 4]), padding=st.integers(0, 9), seed=st.integers(0, 99)
)
def test_a_row_gives_what_its_documents_give_alone(lengths, groups, padding, seed):
    leaves = heads(sum(lengths), num_kv_heads=groups, seed=seed)
    found = segment_attention(*leaves, borders(lengths, padded_to=padding))
    expected = one_by_one(*leaves, lengths)
    torch.testing.assert_close(
        with_gradients(found, leaves), with_gradients(expected, leaves), rtol=1e-9, atol=1e-11
    )


def test_gradients_are_those_of_finite_differences():
    leaves, cu_seqlens = heads(9, head_dim=2), borders([4, 1, 4])
    assert torch.autograd.gradcheck(lambda *x: segment_attention(*x, cu_seqlens), leaves)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_other_dtypes_are_close_to_float64(dtype, most):
    lengths = [300, 7, 130]
    leaves = heads(sum(lengths), dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    found = with_gradients(segment_attention(*leaves, borders(lengths)), leaves)
    for ours, expected in zip(found, with_gradients(one_by_one(*exact, lengths), exact), strict=True):
        assert ours.dtype is dtype
        assert (ours.double() - expected).norm() < most * expected.norm()


def test_no_position_sees_another_document():
    leaves = heads(30)
    alone = segment_attention(*leaves, borders([10, 10, 10]))
    for x in leaves:
        x.data[:, :, :10] += 1
        x.data[:, :, 20:] += 1
    changed = segment_attention(*leaves, borders([10, 10, 10])) != alone
    assert not changed[:, :, 10:20].any() and changed[:, :, :10].any() and changed[:, :, 20:].any()


def test_one_graph_serves_any_number_of_documents():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(segment_attention, backend=backend, fullgraph=True, dynamic=False)
    leaves = heads(60)
    for lengths in ([60], [20, 40], [1] * 60, [30, 1, 29]):
        cu_seqlens = borders(lengths, padded_to=64)
        expected = one_by_one(*leaves, lengths)
        found = compiled(*leaves, cu_seqlens, 60)
        torch.testing.assert_close(with_gradients(found, leaves), with_gradients(expected, leaves))
    assert len(graphs) == 1


@pytest.mark.slow
def test_the_compiled_result_is_the_same():
    compiled = torch.compile(segment_attention, fullgraph=True, dynamic=False)
    leaves, cu_seqlens = heads(200, dtype=torch.float32), borders([150, 50], padded_to=8)
    eager = with_gradients(segment_attention(*leaves, cu_seqlens), leaves)
    torch.testing.assert_close(with_gradients(compiled(*leaves, cu_seqlens), leaves), eager)


def test_the_kernel_takes_these_arguments():
    leaves = [x.detach().to("meta").requires_grad_() for x in heads(60, dtype=torch.bfloat16)]
    y = kernel_attention(*leaves, borders([20, 40], padded_to=8).to("meta"), 40)
    assert y.shape == leaves[0].shape and y.transpose(1, 2).is_contiguous()
    gradients = torch.autograd.grad(y.sum(), leaves)
    assert [x.shape for x in gradients] == [x.shape for x in leaves]


@pytest.fixture
def longest(monkeypatch):
    """Longest document in each call of PyTorch's kernel, whose place the definition takes."""
    seen = []

    def kernel(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size, enable_gqa):
        assert torch.equal(cu_seq_q, cu_seq_k) and window_size == (-1, 0) and enable_gqa
        assert max_q == max_k
        seen.append(max_q)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return one_by_one(q, k, v, cu_seq_q.diff().tolist())[0].transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(segments, "has_kernel", lambda *_: True)
    return seen


def test_the_kernel_gets_each_token_with_its_heads(longest):
    leaves = heads(60)
    found = segment_attention(*leaves, borders([20, 40], padded_to=8), 40)
    torch.testing.assert_close(found, one_by_one(*leaves, [20, 40]))


@pytest.mark.parametrize(("given", "expected"), [(40, 40), (None, 60), (1000, 60)])
def test_the_longest_document_reaches_the_kernel_of_every_layer(given, expected, longest):
    shape = AttentionConfig(num_heads=4, num_kv_heads=2)
    gpt = GPT(GPTConfig(vocab_size=64, dim=32, num_layers=2, compute_dtype="float32", attention=shape))
    ids = torch.randint(64, (1, 60), generator=torch.Generator().manual_seed(0))
    gpt(ids, cu_seqlens=borders([20, 40], padded_to=8), max_document_tokens=given)
    assert longest == [expected, expected]


def test_a_document_that_the_kernel_would_leave_out_in_part_is_refused():
    with pytest.raises(UserError, match="max_document_tokens must be at least 40, got 39"):
        segment_attention(*heads(60), borders([20, 40]), 39)


def test_the_kernel_computes_bfloat16_and_float16_on_newer_gpus_only(monkeypatch):
    gpu, capability = torch.device("cuda", 0), [(9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability[0])
    assert has_kernel(gpu, torch.bfloat16, 64) and has_kernel(gpu, torch.float16, 256)
    for dtype in (torch.float32, torch.float64):
        assert not has_kernel(gpu, dtype, 64)
    assert not any(has_kernel(gpu, torch.bfloat16, head_dim) for head_dim in (264, 20))
    assert not has_kernel(torch.device("cpu"), torch.bfloat16, 64)
    capability[0] = (7, 5)
    assert not has_kernel(gpu, torch.bfloat16, 64)


@pytest.mark.parametrize(
    ("cu_seqlens", "message"),
    [
        ([0, 4], "must rise from 0 to the 5 tokens, got 0, 4"),
        ([1, 5], "got 1, 5"),
        ([0, 3, 2, 5], "got 0, 3, 2, 5"),
        ([], "must rise from 0"),
    ],
)
def test_borders_that_are_not_those_of_the_row_are_refused(cu_seqlens, message):
    with pytest.raises(UserError, match=message):
        segment_attention(*heads(5), torch.tensor(cu_seqlens, dtype=torch.int32))


def test_borders_of_another_dtype_are_refused():
    with pytest.raises(UserError, match=r"cu_seqlens must be int32 .* got torch.int64 of shape \(2,\)"):
        segment_attention(*heads(5), torch.tensor([0, 5]))


def test_several_rows_give_what_each_gives_alone():
    leaves = heads(60)
    rows = [x.detach().transpose(1, 2).view(3, 20, -1, 8).transpose(1, 2).requires_grad_() for x in leaves]
    found = segment_attention(*rows, borders([20, 3, 17, 20], padded_to=8))
    alone = [
        segment_attention(*(x[i : i + 1] for x in rows), borders(lengths))
        for i, lengths in enumerate(([20], [3, 17], [20]))
    ]
    torch.testing.assert_close(with_gradients(found, rows), with_gradients(torch.cat(alone), rows))


def test_a_row_of_many_documents_needs_no_matrix_of_its_length():
    lengths = [200] * 500  # A matrix of their length would take 40 GB in float32.
    leaves = heads(sum(lengths), dtype=torch.float32, num_heads=1, num_kv_heads=1, head_dim=2)
    found = with_gradients(segment_attention(*leaves, borders(lengths)), leaves)
    assert all(x.isfinite().all() for x in found)
