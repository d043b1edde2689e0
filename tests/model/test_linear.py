import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf.model.linear import CastLinear


def case(*, positions, outputs, inputs, seed, dtype):
    """A layer, its input and its scale, with values that bfloat16 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    layer = CastLinear(inputs, outputs).double()
    made = [torch.randn(shape, generator=generator) for shape in ((3, positions, inputs), (outputs,))]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=generator).bfloat16())
    x, scale = (each.bfloat16().to(dtype).requires_grad_() for each in made)
    return layer, x, scale.detach().double().requires_grad_()


@settings(max_examples=40)
@given(
    positions=st.integers(1, 9), outputs=st.integers(1, 7), inputs=st.integers(1, 7), seed=st.integers(0, 99)
)
def test_a_scale_multiplies_the_result_for_any_number_of_positions(positions, outputs, inputs, seed):
    layer, x, scale = case(
        positions=positions, outputs=outputs, inputs=inputs, seed=seed, dtype=torch.float64
    )
    expected = scale * (x @ layer.weight.mT)
    found = layer(x, scale)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    leaves = (x, layer.weight, scale)
    for ours, exact in zip(
        *(torch.autograd.grad(y, leaves, gradient) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("positions", [1, 64])
def test_in_bfloat16_the_error_is_that_of_scaling_the_result(positions):
    layer, x, scale = case(positions=positions, outputs=32, inputs=64, seed=0, dtype=torch.bfloat16)
    exact = scale * (x.double() @ layer.weight.mT)
    found, after = layer(x, scale), scale.bfloat16() * layer(x)
    assert found.dtype is torch.bfloat16
    error, error_after = ((y.double() - exact).norm() / exact.norm() for y in (found, after))
    assert error < 5e-3 and error < 1.3 * error_after


def test_a_scale_of_zero_still_has_a_gradient():
    layer, x, _ = case(positions=5, outputs=4, inputs=3, seed=1, dtype=torch.float64)
    scale = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x, scale).sum(), scale)
    torch.testing.assert_close(gradient, (x @ layer.weight.mT).sum((0, 1)))
