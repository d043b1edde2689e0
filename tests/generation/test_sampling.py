import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plgolf.errors import UserError
from plgolf.generation.sampling import Sampling, draw, probabilities

# Far enough apart that rounding cannot change their order.
LOGITS = st.lists(
    st.floats(-60, 60).map(lambda x: round(x, 2)) | st.sampled_from([-30.0, 0.0, 30.0]),
    min_size=1,
    max_size=40,
)


def reference(logits, temperature, top_k, top_p):
    """The distribution in plain Python, token by token."""
    largest = max(logits)
    weights = [math.exp((logit - largest) / temperature) for logit in logits]
    order = sorted(range(len(logits)), key=lambda i: (-weights[i], i))[:top_k]
    total = math.fsum(weights[i] for i in order)
    kept, so_far = [], 0.0
    for i in order:
        if top_p < 1 and so_far >= top_p and kept:
            break
        kept.append(i)
        so_far += weights[i] / total
    total = math.fsum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


@settings(max_examples=500)
@given(
    logits=LOGITS,
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(1, 50),
    top_p=st.just(1.0) | st.floats(0.01, 0.999),
)
def test_probabilities_equal_a_plain_computation(logits, temperature, top_k, top_p):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    found = probabilities(torch.tensor(logits, dtype=torch.float64), sampling)
    expected = torch.tensor(reference(logits, temperature, top_k, top_p), dtype=torch.float64)
    assert found.sum().item() == pytest.approx(1, abs=1e-12)
    # Where the sum meets top_p in the last digit, one token more or less is right.
    same = (found > 0) == (expected > 0)
    if same.all():
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
    else:
        assert (~same).sum() == 1
        edge = expected if expected[~same] > 0 else found
        assert (edge.sum() - edge[~same]).item() / edge.sum().item() == pytest.approx(top_p, abs=1e-9) or (
            edge[~same].item() < 1e-12
        )


@settings(max_examples=200)
@given(logits=LOGITS, temperature=st.floats(0.05, 5))
def test_top_k_of_the_whole_vocabulary_and_top_p_of_1_change_nothing(logits, temperature):
    values = torch.tensor(logits)
    plain = probabilities(values, Sampling(temperature=temperature))
    torch.testing.assert_close(plain, (values.double() / temperature).softmax(0))
    for top_k in (len(logits), len(logits) + 1, 10**9):
        torch.testing.assert_close(
            probabilities(values, Sampling(temperature=temperature, top_k=top_k)), plain
        )


@settings(max_examples=200)
@given(logits=LOGITS)
def test_every_spelling_of_greedy_takes_the_most_likely_token(logits):
    values = torch.tensor(logits)
    first = logits.index(values.max().item()) if values.max().item() in logits else int(values.argmax())
    for sampling in (
        Sampling(temperature=0.0),
        Sampling(temperature=0.0, top_k=3, top_p=0.5),
        Sampling(top_k=1),
        Sampling(top_p=1e-300),
    ):
        found = probabilities(values, sampling)
        assert found[first] == 1 and found.sum() == 1
    assert probabilities(values, Sampling(temperature=5e-324)).isfinite().all()


def test_of_equal_logits_the_lower_id_counts_as_more_likely():
    values = torch.tensor([1.0, 3.0, 3.0, 3.0])
    assert probabilities(values, Sampling(temperature=0.0)).tolist() == [0, 1, 0, 0]
    assert probabilities(values, Sampling(top_k=2)).tolist() == [0, 0.5, 0.5, 0]
    assert probabilities(torch.zeros(1000), Sampling(top_k=1))[0] == 1


def test_logits_of_any_size_give_a_distribution():
    values = torch.tensor([3e38, -3e38, 0.0])
    for temperature in (1e-300, 1.0, 1e300):
        assert probabilities(values, Sampling(temperature=temperature)).sum() == 1


@settings(max_examples=200)
@given(seed=st.integers(0, 2**63 - 1), zeros=st.integers(0, 5))
def test_a_token_of_probability_0_is_never_drawn(seed, zeros):
    weights = torch.tensor([0.0] * zeros + [0.2, 0.0, 0.8] + [0.0] * zeros, dtype=torch.float64)
    assert weights[draw(weights, torch.Generator().manual_seed(seed))] > 0


def test_frequencies_of_draws_match_the_probabilities():
    weights = torch.tensor([0.5, 0.0, 0.25, 0.125, 0.125], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    number = 20_000
    counts = torch.bincount(torch.tensor([draw(weights, generator) for _ in range(number)]), minlength=5)
    expected = weights * number
    real = weights > 0
    chi_squared = ((counts - expected)[real].square() / expected[real]).sum()
    assert counts[1] == 0 and chi_squared < 16.3  # 99.9 % of draws of 3 degrees of freedom.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature must be finite and at least 0, got -0.1"),
        ({"temperature": math.nan}, "temperature must be finite and at least 0, got nan"),
        ({"temperature": math.inf}, "temperature must be finite and at least 0, got inf"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"top_p": math.nan}, "top_p must be above 0 and at most 1, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(UserError) as error:
        Sampling(**values)
    assert str(error.value) == message
