import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from limbeck.errors import InputError
from limbeck.losses import targets
from limbeck.losses.divergence import cross_entropy, soft_cross_entropy, soft_log

torch.set_num_threads(1)
few = settings(max_examples=60, deadline=None)
scores = hnp.arrays(np.float64, (4, 6), elements=st.integers(-3, 3).map(float)).map(torch.from_numpy)  # with ties
labels = hnp.arrays(np.int64, (4,), elements=st.integers(0, 5)).map(torch.from_numpy)


def sample(seed=0, *shape):
    return torch.randn(shape or (4, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_hot_and_smooth():
    y = torch.tensor([2, 0])
    assert targets.one_hot(y, 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    torch.testing.assert_close(
        targets.smooth(y, 4, 0.2), torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]])
    )
    assert targets.one_hot(torch.zeros(2, 3, dtype=torch.int64), 5).shape == (2, 3, 5)
    for bad in ([-1, 0], [0, 3]):
        with pytest.raises(InputError, match="labels"):
            targets.one_hot(torch.tensor(bad), 3)


def test_w_is_the_teachers_weight():
    y, p = targets.one_hot(torch.tensor([0, 1, 2, 3]), 6), sample().softmax(-1).float()
    assert targets.blend(y, p, 0.0).equal(y) and targets.blend(y, p, 1.0).equal(p)
    w = torch.tensor([0.0, 1.0, 0.3, 1.5])
    mixed = targets.blend(y, p, w)
    for i, weight in enumerate(w.tolist()):
        torch.testing.assert_close(mixed[i], (1 - weight) * y[i] + weight * p[i])
    torch.testing.assert_close(mixed.sum(-1), torch.ones(4))
    assert mixed[3, 3] < p[3, 3] and (mixed[3] < 0).any()  # beyond 1 the label is pushed down
    with pytest.raises(InputError, match="same"):
        targets.blend(y, p[:1], 0.5)


def test_probabilities_are_averaged_not_logits():
    a, b = torch.tensor([[8.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    mean = targets.mean_probabilities([a, b])
    torch.testing.assert_close(mean, (a.softmax(-1) + b.softmax(-1)) / 2)
    assert (mean - ((a + b) / 2).softmax(-1)).abs().max() > 0.1
    weighted = (3 * (a / 2).softmax(-1) + (b / 2).softmax(-1)) / 4
    torch.testing.assert_close(targets.mean_probabilities([a, b], [3, 1], tau=2.0), weighted)
    z = [sample(i) for i in range(3)]
    w = sample(9, 3, 4).exp()
    rows = torch.cat([targets.mean_probabilities([x[i : i + 1] for x in z], w[:, i]) for i in range(4)])
    torch.testing.assert_close(targets.mean_probabilities(z, w), rows)
    torch.testing.assert_close(rows.sum(-1), torch.ones(4, dtype=torch.float64))
    for teachers, weights in (([], None), ([a, b], [1.0])):
        with pytest.raises(InputError):
            targets.mean_probabilities(teachers, weights)


def slow_zipf(row, label):
    others = sorted((i for i in range(len(row)) if i != label), key=lambda i: (-row[i], i))
    total = sum(1 / rank for rank in range(1, len(row)))
    weight = {i: 1 / rank / total for rank, i in enumerate(others, start=1)}
    return [weight.get(i, 0.0) for i in range(len(row))]


@few
@given(scores, labels)
def test_zipf_equals_a_slow_ranking(s, y):
    got = targets.zipf_by_rank(s, y)
    wanted = np.array([slow_zipf(row, label) for row, label in zip(s.tolist(), y.tolist())])
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-12)


def test_zipf_needs_positions_not_indices():
    # A cycle of three, where argsort and its inverse differ.
    got = targets.zipf_by_rank(torch.tensor([[0.0, 1.0, 3.0, 2.0]]), torch.tensor([0]))
    torch.testing.assert_close(got, torch.tensor([[0.0, 1 / 3, 1.0, 1 / 2]]) / (1 + 1 / 2 + 1 / 3))
    masked = targets.zipf_by_rank(torch.tensor([[-math.inf, 1.0, 2.0, -math.inf]]), torch.tensor([2]))
    assert masked[0, 2] == 0 and masked[0, 1] == masked.max()
    tied = targets.zipf_by_rank(torch.zeros(1, 2000), torch.tensor([0]))[0, 1:]
    assert (tied.diff() < 0).all()  # ties go to the lower class
    assert not targets.zipf_by_rank(sample().requires_grad_(), torch.zeros(4, dtype=torch.int64)).requires_grad


@few
@given(st.integers(0, 10**6))
def test_permute_rest_keeps_the_top_and_the_multiset(seed):
    p = sample(seed, 5, 7).softmax(-1)
    got = targets.permute_rest(p, torch.Generator().manual_seed(seed))
    top = p.argmax(-1)
    assert got.argmax(-1).equal(top)
    assert got.gather(-1, top[:, None]).equal(p.gather(-1, top[:, None]))
    assert got.sort(-1).values.equal(p.sort(-1).values)
    assert got.equal(targets.permute_rest(p, torch.Generator().manual_seed(seed)))


def test_permute_rest_is_uniform_and_differs_between_rows():
    p = torch.tensor([[0.1, 0.6, 0.2, 0.07, 0.03]]).expand(4000, 5)
    got = targets.permute_rest(p, torch.Generator().manual_seed(0))
    where = (got == 0.2).float().mean(0)
    assert where[1] == 0
    # Each of the four places has probability 1/4; five standard deviations of a binomial of 4000.
    assert (where[[0, 2, 3, 4]] - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 4000)


@few
@given(st.integers(0, 10**6), st.sampled_from([0, -1]))
def test_standardise_ignores_positive_affine_maps(seed, dim):
    z = sample(seed, 8, 5)
    scale, shift = sample(seed + 1, 8, 5)[:1].exp(), sample(seed + 2, 8, 5)[:1]
    if dim == -1:
        scale, shift = sample(seed + 1, 8, 1).exp(), sample(seed + 2, 8, 1)
    torch.testing.assert_close(targets.standardise(z, dim, 0), targets.standardise(scale * z + shift, dim, 0))
    got = targets.standardise(z, dim)
    torch.testing.assert_close(got, (z - z.mean(dim, True)) / (z.var(dim, correction=0, keepdim=True) + 1e-5).sqrt())
    torch.testing.assert_close(targets.standardise(-z, dim), -got)  # not invariant to a negative scale


def test_standardise_one_sample_masks_and_gradients():
    assert targets.standardise(sample(0, 1, 5), 0).equal(torch.zeros(1, 5, dtype=torch.float64))
    z = sample().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: targets.standardise(z, 0), z)
    keep = torch.tensor([True, True, False, True, False, True])
    for dim in (0, -1):
        masked = targets.standardise(z.masked_fill(~keep, -math.inf), dim)
        dropped = targets.standardise(z[:, keep], dim)
        torch.testing.assert_close(masked[:, keep], dropped)
        assert (masked[:, ~keep] == -math.inf).all()
        grads = [torch.autograd.grad(x.softmax(-1).square().sum(), z, retain_graph=True)[0] for x in (masked, dropped)]
        torch.testing.assert_close(*grads)


@few
@given(scores, labels)
def test_drop_label(s, y):
    wanted = [[v for i, v in enumerate(row) if i != label] for row, label in zip(s.tolist(), y.tolist())]
    assert targets.drop_label(s, y).tolist() == wanted


@few
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_top_k_tails(seed, k):
    p = sample(seed).softmax(-1)
    largest = p >= p.sort(-1, descending=True).values[:, k - 1 : k]
    for tail in ("renormalise", "uniform"):
        got = targets.top_k(p, k, tail=tail)
        torch.testing.assert_close(got.sum(-1), torch.ones(4, dtype=torch.float64))
        if tail == "renormalise":
            torch.testing.assert_close(got, p * largest / (p * largest).sum(-1, keepdim=True))
        else:
            assert got[largest].equal(p[largest])
            rest = (p * ~largest).sum(-1, keepdim=True) / max(6 - k, 1)
            torch.testing.assert_close(got[~largest], rest.expand_as(p)[~largest])


def test_top_k_keeps_exactly_k_of_equals_and_checks_k():
    flat = torch.full((1, 4), 0.25)
    assert (targets.top_k(flat, 2, tail="renormalise") > 0).sum() == 2
    torch.testing.assert_close(targets.top_k(flat, 2, tail="uniform"), flat)
    for k in (0, 5):
        with pytest.raises(InputError, match="k"):
            targets.top_k(flat, k, tail="uniform")


def test_enhanced_at_gamma_1_is_soft_cross_entropy_to_which_the_paper_adds_the_label():
    t, s, y = 3 * sample(0, 16, 5), sample(1, 16, 5), torch.arange(16) % 5
    p, log_s = soft_log(t).exp(), soft_log(s)
    soft = cross_entropy(soft_log(t), log_s)
    code = soft_cross_entropy(targets.enhanced(p, y, 1.0, "code"), log_s)
    paper = soft_cross_entropy(targets.enhanced(p, y, 1.0, "paper"), log_s)
    torch.testing.assert_close(code, soft)
    torch.testing.assert_close(paper, soft + torch.nn.functional.cross_entropy(s, y, reduction="none"))


def test_both_variants_of_enhanced_equal_their_sums_written_out():
    t, s, y = 3 * sample(0, 16, 5), sample(1, 16, 5), torch.arange(16) % 5
    p, log_s = soft_log(t).exp(), soft_log(s)
    for gamma in (0.5, 1.5, 2.0):
        paper, code = np.zeros(16), np.zeros(16)
        for b in range(16):
            for c in range(5):
                hit = float(c == y[b])
                weight = (1 + float(p[b, c])) ** gamma if hit else float(p[b, c])
                paper[b] -= weight * float(log_s[b, c])
                code[b] -= ((float(p[b, c]) + hit) ** gamma - hit) * float(log_s[b, c])
        for variant, expected in (("paper", paper), ("code", code)):
            found = soft_cross_entropy(targets.enhanced(p, y, gamma, variant), log_s)
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
        assert np.abs(paper - code).min() > 1e-6, "one is not the other, whatever gamma"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    z, y = (3 * sample(4, 8, 200)).to(dtype), torch.arange(8)
    p = z.float().softmax(-1).to(dtype)
    builders = {
        "mean_probabilities": lambda z, p: targets.mean_probabilities([z, -z], tau=2.0),
        "standardise": lambda z, p: targets.standardise(z, 0),
        "blend": lambda z, p: targets.blend(targets.one_hot(y, 200).to(p), p, 0.3),
        "top_k": lambda z, p: targets.top_k(p, 5, tail="renormalise"),
        "zipf": lambda z, p: targets.zipf_by_rank(z, y),
    }
    for name, build in builders.items():
        got, wanted = build(z, p), build(z.double(), p.double())
        assert got.dtype == torch.float32 and wanted.dtype == torch.float64, name
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_everything_keeps_leading_axes():
    z, y = sample(5, 2, 3, 6), torch.tensor([[0, 1, 2], [3, 4, 5]])
    flat, flat_y = z.flatten(0, 1), y.flatten()
    for build in (
        targets.zipf_by_rank,
        targets.drop_label,
        lambda z, y: targets.top_k(z.softmax(-1), 2, tail="uniform"),
        lambda z, y: targets.smooth(y, 6, 0.1),
        lambda z, y: targets.mean_probabilities([z, 2 * z], [1, 3]),
        lambda z, y: soft_log(targets.standardise(z, -1)),
    ):
        torch.testing.assert_close(build(z, y).flatten(0, 1), build(flat, flat_y))
