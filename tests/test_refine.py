"""Refinements: each law of METHODS.md sections 1 and 2, and beside it the popular recipe that breaks it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rs_model.refine.gates import QueryGate, attention_alpha, load_query_gate, presence_gate, query_gate, save_query_gate
from rs_model.refine.importance import patch_importance, presence_attention
from rs_model.refine.laplacian import laplacian
from rs_model.refine.lowpass import lowpass
from rs_model.refine.prune import kept_tokens, pruned_keys
from rs_model.refine.reweight import reweight
from rs_model.refine.smooth import smooth
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers.models.sam3.configuration_sam3 import Sam3DETRDecoderConfig
from transformers.models.sam3.modeling_sam3 import Sam3DetrDecoder

from rs_pipeline.errors import SegmenterError

FILTERS = {
    "smooth": smooth,
    "lowpass": lambda tokens, grid, strength: lowpass(tokens, grid, strength, 12),
    "cg": lambda tokens, grid, strength: laplacian(tokens, grid, strength, 0.2, "cg", 30),
    "sparse": lambda tokens, grid, strength: laplacian(tokens, grid, strength, 0.2, "sparse", 1),
}
"""Section 1 as (tokens, grid, strength)."""
every_filter = pytest.mark.parametrize("refine", FILTERS.values(), ids=FILTERS)
few = settings(max_examples=20)
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))
STRENGTHS = st.floats(0, 1)


def random_tokens(rows, grid, channels=5, seed=0):
    return torch.randn(rows, grid[0] * grid[1], channels, generator=torch.Generator().manual_seed(seed))


def random_shares(*shape, seed=0):
    """Not negative, sums to 1 over the last axis."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).pow(3).softmax(-1)


def row_major(field):
    """(B, C, h, w) → tokens, spelled out one by one."""
    return torch.stack([field[:, :, y, x] for y in range(field.shape[2]) for x in range(field.shape[3])], 1)


GUIDED = {
    "reweight": reweight,
    "reweight per token": lambda tokens, w, strength: reweight(tokens, w, torch.full_like(w, strength)),
    "presence_gate": lambda tokens, w, strength: presence_gate(tokens, tokens[:, 0, :1], strength),
    "presence_gate by position": lambda tokens, w, strength: presence_gate(tokens, tokens[:, 0, :1], strength, w),
    "query_gate": lambda tokens, w, strength: query_gate(tokens, w, 1 - w, strength),
}
"""Section 2 as (tokens, importance, strength)."""
every_guided = pytest.mark.parametrize("refine", GUIDED.values(), ids=GUIDED)


@every_filter
def test_a_filter_of_strength_zero_gives_the_tensor_that_came(refine):
    tokens = random_tokens(2, (4, 6))
    assert refine(tokens, (4, 6), 0.0) is tokens


@every_guided
@given(rows=st.integers(1, 3), count=st.integers(1, 40), seed=st.integers(0, 99))
@few
def test_guidance_of_strength_zero_changes_no_bit(refine, rows, count, seed):
    tokens = random_tokens(rows, (1, count), seed=seed)
    assert torch.equal(refine(tokens, random_shares(rows, count), 0.0), tokens)


@pytest.mark.parametrize("name", ["reweight", "presence_gate", "presence_gate by position", "query_gate"])
def test_guidance_of_strength_zero_gives_the_tensor_that_came(name):
    tokens = random_tokens(2, (1, 9))
    assert GUIDED[name](tokens, random_shares(2, 9), 0.0) is tokens


@every_filter
@given(grid=GRIDS, strength=STRENGTHS, seed=st.integers(0, 99))
@few
def test_a_constant_field_is_unchanged(refine, grid, strength, seed):
    constant = random_tokens(2, (1, 1), seed=seed).expand(-1, grid[0] * grid[1], -1)
    torch.testing.assert_close(refine(constant, grid, strength), constant, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["smooth", "cg", "sparse"])
def test_a_constant_field_is_unchanged_at_any_strength(name):
    constant = random_tokens(2, (1, 1)).expand(-1, 24, -1)
    torch.testing.assert_close(FILTERS[name](constant, (4, 6), 1e3), constant, rtol=1e-4, atol=1e-4)


@every_filter
@given(grid=GRIDS, strength=STRENGTHS, seed=st.integers(0, 99))
@few
def test_a_filtered_row_does_not_depend_on_the_others(refine, grid, strength, seed):
    tokens = random_tokens(3, grid, seed=seed)
    tokens[1] = 1e3  # a row that is solved at once, and much larger
    alone = torch.cat([refine(row[None], grid, strength) for row in tokens])
    torch.testing.assert_close(refine(tokens, grid, strength), alone, rtol=1e-5, atol=1e-6)


@every_guided
@given(count=st.integers(1, 40), strength=STRENGTHS, seed=st.integers(0, 99))
@few
def test_a_guided_row_does_not_depend_on_the_others(refine, count, strength, seed):
    tokens, w = random_tokens(3, (1, count), seed=seed), random_shares(3, count, seed=seed)
    alone = torch.cat([refine(tokens[i : i + 1], w[i : i + 1], strength) for i in range(3)])
    torch.testing.assert_close(refine(tokens, w, strength), alone)


@every_filter
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_filter_keeps_the_dtype_and_does_not_write_to_what_came(refine, dtype):
    tokens = random_tokens(2, (6, 10)).to(dtype)
    before = tokens.clone()
    got = refine(tokens, (6, 10), 0.5)
    assert got.dtype == dtype
    assert torch.equal(tokens, before)
    # computed in float32 and rounded once; the CPU has no FFT of half precision (trap 4)
    torch.testing.assert_close(got.float(), refine(tokens.float(), (6, 10), 0.5).to(dtype).float(), rtol=1e-5, atol=1e-5)


def test_the_cpu_has_no_fft_of_half_precision():
    with pytest.raises(RuntimeError):
        torch.fft.rfft2(torch.ones(1, 8, 8, dtype=torch.bfloat16))


@every_guided
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_guidance_keeps_the_dtype_and_does_not_write_to_what_came(refine, dtype):
    tokens, w = random_tokens(2, (6, 10)).to(dtype), random_shares(2, 60)
    before = tokens.clone(), w.clone()
    got = refine(tokens, w, 0.5)
    assert got.dtype == dtype
    assert torch.equal(tokens, before[0])
    assert torch.equal(w, before[1])
    torch.testing.assert_close(got.double(), refine(tokens.double(), w, 0.5), rtol=1e-2, atol=1e-3)


@every_filter
def test_the_same_call_gives_the_same_bits(refine):
    tokens = random_tokens(2, (6, 10))
    assert torch.equal(refine(tokens, (6, 10), 0.5), refine(tokens, (6, 10), 0.5))


@every_filter
def test_tokens_that_do_not_fill_the_grid_are_refused(refine):
    with pytest.raises(ValueError, match="grid of 5 x 6"):
        refine(random_tokens(1, (4, 6)), (5, 6), 0.2)


@pytest.mark.parametrize("name", sorted(GUIDED.keys() - {"presence_gate"}))
def test_weights_of_other_tokens_are_refused(name):
    with pytest.raises(ValueError, match=r"\(2, 8\)"):
        GUIDED[name](random_tokens(2, (1, 9)), random_shares(2, 8), 0.5)


def test_presence_of_another_batch_is_refused():
    with pytest.raises(ValueError, match="presence must be"):
        presence_gate(random_tokens(2, (1, 9)), torch.zeros(3, 1), 0.5)


@every_filter
def test_a_filter_of_strength_above_zero_moves_noise(refine):
    tokens = random_tokens(1, (12, 12))
    moved = (refine(tokens, (12, 12), 0.2) - tokens).norm() / tokens.norm()
    assert 0.005 < moved < 0.5


@every_filter
def test_a_filter_knows_rows_from_columns(refine):
    # transposing the map and the grid transposes the result, so the neighbours are the true ones; with .view they are not (trap 8)
    field = random_tokens(1, (5, 9)).reshape(1, 5, 9, 5)
    upright = refine(field.flatten(1, 2), (5, 9), 0.8).reshape(1, 5, 9, 5)
    lying = refine(field.transpose(1, 2).flatten(1, 2), (9, 5), 0.8).reshape(1, 9, 5, 5)
    torch.testing.assert_close(upright, lying.transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_smooth_is_the_mean_of_the_true_neighbours_with_the_border_repeated():
    field = random_tokens(2, (5, 7), 3).transpose(1, 2).reshape(2, 3, 5, 7)
    expected = torch.empty_like(field)
    for y in range(5):
        for x in range(7):
            near = [field[..., min(max(y + i, 0), 4), min(max(x + j, 0), 6)] for i in (-1, 0, 1) for j in (-1, 0, 1)]
            expected[..., y, x] = (field[..., y, x] + 0.2 * torch.stack(near).mean(0)) / 1.2
    tokens = row_major(field)
    torch.testing.assert_close(smooth(tokens, (5, 7), 0.2), row_major(expected))
    scrambled = tokens.view(2, 3, 5, 7)
    viewed = (scrambled + 0.2 * F.avg_pool2d(F.pad(scrambled, (1, 1, 1, 1), mode="replicate"), 3, 1)) / 1.2
    assert not torch.allclose(viewed.reshape(2, 35, 3), row_major(expected), atol=0.05)


def test_smooth_has_gain_one_where_the_unnormalised_sum_has_1_2():
    constant = torch.ones(1, 36, 2)
    field = constant.transpose(1, 2).reshape(1, 2, 6, 6)
    popular = field + 0.2 * F.avg_pool2d(F.pad(field, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert popular.mean() == pytest.approx(1.2)
    assert smooth(constant, (6, 6), 0.2).mean() == pytest.approx(1)


def test_smooth_does_not_darken_the_border_where_zero_padding_does():
    weight = torch.full((1, 1, 3, 3), 1 / 9)
    popular = F.conv2d(torch.ones(1, 1, 6, 6), weight, padding=1)[0, 0]
    assert popular[0, 0] == pytest.approx(4 / 9)
    assert popular[0, 3] == pytest.approx(6 / 9)
    ours = smooth(torch.ones(1, 36, 1), (6, 6), 1e6)
    torch.testing.assert_close(ours, torch.ones(1, 36, 1))


def waves(grid, cycles_down, cycles_across):
    """(1, N, 1): a standing wave that its mirrors at the border continue."""
    y = torch.cos(2 * math.pi * cycles_down * torch.arange(grid[0]))
    x = torch.cos(2 * math.pi * cycles_across * torch.arange(grid[1]))
    return (y[:, None] * x).reshape(1, -1, 1)


@pytest.mark.parametrize("grid", [(72, 72), (36, 72), (40, 24)])
@pytest.mark.parametrize(("share_of_radius", "gain"), [(0, 1.0), (0.25, 0.9786), (1, 0.7071), (2, 0.25), (2.9, 0.0542)])
@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_lowpass_damps_a_wave_by_the_stated_gain_on_every_grid(grid, share_of_radius, gain, strength):
    n = grid[1] - 1
    cycles = round(12 / 72 * share_of_radius * 2 * n) / (2 * n)
    exact = 2 ** (-((cycles * 72 / 12) ** 2) / 2)
    assert exact == pytest.approx(gain, abs=0.05)
    wave = waves(grid, 0, cycles)
    torch.testing.assert_close(lowpass(wave, grid, strength, 12), wave * (1 - strength + strength * exact), atol=0.01, rtol=0)


def test_lowpass_keeps_the_low_where_a_mask_centred_without_fftshift_keeps_the_high():
    grid, middle = (24, 24), torch.arange(24) - 12
    mask = torch.exp2(-(middle[:, None].square() + middle.square()) / (2 * 4**2))

    def popular(tokens):
        return torch.fft.ifft2(torch.fft.fft2(tokens.reshape(grid)) * mask).real.reshape(1, -1, 1)

    low, high = torch.ones(1, 576, 1), waves(grid, 0.5, 0.5)
    torch.testing.assert_close(popular(high), high)
    assert popular(low).abs().max() < 0.01
    torch.testing.assert_close(lowpass(low, grid, 1.0, 12), low)
    assert lowpass(high, grid, 1.0, 12).abs().max() < 0.02


@pytest.mark.parametrize("axis", [0, 1])
def test_lowpass_keeps_opposite_borders_apart_where_a_bare_fft_joins_them(axis):
    field = torch.zeros(24, 24)
    field.select(axis, 0).fill_(1)
    frequency = torch.fft.fftfreq(24) * 72 / 12
    mask = torch.exp2(-(frequency[:, None].square() + frequency.square()) / 2)
    popular = torch.fft.ifft2(torch.fft.fft2(field) * mask).real
    assert popular.select(axis, -1).mean() > 0.2
    ours = lowpass(field.reshape(1, -1, 1), (24, 24), 1.0, 12).reshape(24, 24)
    assert ours.select(axis, -1).abs().max() < 0.002
    assert ours.select(axis, 0).mean() > 0.4


def dense_system(tokens, grid, strength, temperature):
    """I + λL of one row, (N, N), from the definition."""
    h, w = grid
    weights = torch.zeros(h * w, h * w, dtype=torch.float64)
    for i in range(h * w):
        for j in range(h * w):
            if i != j and abs(i // w - j // w) <= 1 and abs(i % w - j % w) <= 1:
                weights[i, j] = torch.exp((F.cosine_similarity(tokens[i], tokens[j], 0) - 1) / temperature)
    return torch.eye(h * w) + strength * (torch.diag(weights.sum(1)) - weights)


@pytest.mark.parametrize(("solver", "most"), [("cg", 1e-5), ("sparse", 1e-12)])
def test_the_laplacian_solves_its_system(solver, most):
    tokens = random_tokens(2, (5, 7)).double()
    for row, solved in zip(tokens, laplacian(tokens, (5, 7), 1.0, 0.5, solver, 20), strict=True):
        residual = dense_system(row, (5, 7), 1.0, 0.5) @ solved - row
        assert residual.norm() / row.norm() < most


@given(grid=GRIDS, strength=st.floats(0.01, 3), temperature=st.floats(0.05, 5), seed=st.integers(0, 99))
@few
def test_the_two_solvers_agree(grid, strength, temperature, seed):
    tokens = random_tokens(2, grid, seed=seed)
    by_steps = laplacian(tokens, grid, strength, temperature, "cg", 40)
    torch.testing.assert_close(by_steps, laplacian(tokens, grid, strength, temperature, "sparse", 1), rtol=1e-4, atol=1e-4)


def test_ten_steps_are_ample_at_strength_one():
    tokens = random_tokens(1, (24, 24), 16)
    got, exact = (laplacian(tokens, (24, 24), 1.0, 0.5, solver, 10) for solver in ("cg", "sparse"))
    assert (got - exact).norm() / exact.norm() < 1e-3


def test_an_unfinished_solution_does_not_depend_on_the_batch_either():
    tokens = random_tokens(3, (6, 6)) * torch.tensor([1.0, 0.01, 100.0])[:, None, None]
    alone = torch.cat([laplacian(row[None], (6, 6), 3.0, 1.0, "cg", 2) for row in tokens])
    torch.testing.assert_close(laplacian(tokens, (6, 6), 3.0, 1.0, "cg", 2), alone)


def test_more_steps_than_needed_do_no_harm():
    tokens = random_tokens(2, (4, 4)) * torch.tensor([1.0, 0.0])[:, None, None]
    got = laplacian(tokens, (4, 4), 1.0, 0.5, "cg", 200)
    torch.testing.assert_close(got, laplacian(tokens, (4, 4), 1.0, 0.5, "sparse", 1))


def two_regions():
    """(1, 144, 8) tokens on 12 x 12: the left half around one vector, the right half around another, with noise."""
    left, right = torch.eye(8)[0], torch.eye(8)[1]
    clean = torch.where(torch.arange(12)[None, :, None] < 6, left, right).expand(12, 12, 8).reshape(1, 144, 8)
    return clean, clean + 0.1 * random_tokens(1, (12, 12), 8)


def test_the_laplacian_removes_noise_and_leaves_edges_that_smooth_blurs():
    clean, noisy = two_regions()
    by_graph, by_mean = laplacian(noisy, (12, 12), 1.0, 0.1, "cg", 20), smooth(noisy, (12, 12), 10.0)

    def error(tokens):
        off = (tokens - clean).reshape(12, 12, 8).norm(dim=-1)
        return off[:, 5:7].mean(), off[:, :4].mean()

    edge, inside = error(by_graph)
    assert inside < 0.5 * error(noisy)[1]
    assert edge < 0.5 * error(by_mean)[0]


def test_a_larger_strength_smooths_more_and_keeps_the_mean():
    tokens = random_tokens(1, (10, 8))
    rough = []
    for strength in (0.0, 0.1, 1.0, 10.0):
        got = laplacian(tokens, (10, 8), strength, 1.0, "cg", 80)
        torch.testing.assert_close(got.mean(1), tokens.mean(1), rtol=0, atol=1e-5)
        rough.append(got.var(1).mean().item())
    assert rough == sorted(rough, reverse=True)
    assert rough[-1] < 0.2 * rough[0]


def test_the_laplacian_takes_zero_tokens():
    tokens = random_tokens(1, (4, 4))
    tokens[:, :5] = 0
    assert laplacian(tokens, (4, 4), 1.0, 0.1, "cg", 10).isfinite().all()


POOLINGS = ("score", "mean", "max", "entropy")


@pytest.mark.parametrize("pooling", POOLINGS)
@given(rows=st.integers(1, 3), queries=st.integers(1, 4), count=st.integers(1, 30), layers=st.integers(1, 4), seed=st.integers(0, 99))
@few
def test_importance_sums_to_one_and_a_row_does_not_depend_on_the_others(pooling, rows, queries, count, layers, seed):
    attention = random_shares(rows, 3, 2, 1 + queries, count, seed=seed)
    scores = torch.rand(rows, queries, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    w = patch_importance(attention, scores, pooling, layers)
    assert w.shape == (rows, count)
    assert w.min() >= 0
    torch.testing.assert_close(w.sum(1), torch.ones(rows))
    alone = torch.cat([patch_importance(attention[i : i + 1], scores[i : i + 1], pooling, layers) for i in range(rows)])
    torch.testing.assert_close(w, alone)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_importance_ignores_what_the_presence_token_looks_at(pooling):
    attention, scores = random_shares(1, 2, 2, 4, 9), torch.rand(1, 3)
    other = attention.clone()
    other[:, :, :, 0] = torch.eye(9)[0]
    assert torch.equal(patch_importance(attention, scores, pooling, 2), patch_importance(other, scores, pooling, 2))
    popular = [a.mean((1, 2, 3)) for a in (attention, other)]
    assert (popular[0] - popular[1]).abs().max() > 0.1
    assert not torch.allclose(presence_attention(attention, 2), presence_attention(other, 2))
    assert torch.equal(presence_attention(other, 1), torch.eye(9)[:1])


def test_only_the_last_layers_count():
    attention = random_shares(1, 4, 2, 3, 9)
    scores = torch.ones(1, 2)
    for layers in (1, 2, 4, 9):
        expected = attention[:, -layers:, :, 1:].mean((1, 2, 3))
        torch.testing.assert_close(patch_importance(attention, scores, "mean", layers), expected)
        torch.testing.assert_close(presence_attention(attention, layers), attention[:, -layers:, :, 0].mean((1, 2)))


def test_each_pooling_weighs_the_queries_as_it_says():
    looks = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])
    attention = torch.cat([torch.full((1, 4), 0.25), looks])[None, None, None]
    scores = torch.tensor([[0.1, 0.0, 0.3]])
    expected = {
        "score": looks[0] * 0.25 + looks[2] * 0.75,
        "mean": looks.mean(0),
        "max": torch.tensor([0.5, 1.0, 0.25, 0.25]) / 2,
        # 1 - entropy / log 4 is 1, 0 and 1/2
        "entropy": looks[0] * 2 / 3 + looks[2] / 3,
    }
    for pooling, w in expected.items():
        torch.testing.assert_close(patch_importance(attention, scores, pooling, 1)[0], w)


def test_scores_that_are_all_zero_weigh_alike():
    attention = random_shares(2, 2, 2, 4, 9)
    by_score = patch_importance(attention, torch.zeros(2, 3), "score", 2)
    torch.testing.assert_close(by_score, patch_importance(attention, torch.zeros(2, 3), "mean", 2))


def test_attention_of_half_precision_is_averaged_in_float32():
    attention = random_shares(2, 3, 4, 5, 700)
    w = patch_importance(attention.bfloat16(), torch.rand(2, 4), "mean", 2)
    assert w.dtype == torch.float32
    torch.testing.assert_close(w, patch_importance(attention, torch.rand(2, 4), "mean", 2), rtol=5e-3, atol=0)


@pytest.mark.parametrize(
    ("attention", "scores", "layers"), [((1, 2, 4, 9), (1, 3), 1), ((1, 2, 2, 4, 9), (1, 4), 1), ((1, 2, 2, 4, 9), (1, 3), 0)]
)
def test_attention_of_another_shape_is_refused(attention, scores, layers):
    with pytest.raises(ValueError, match=r"must be|needed"):
        patch_importance(torch.ones(attention), torch.ones(scores), "mean", layers)


def test_reweight_changes_tokens_by_the_stated_factor():
    w = torch.tensor([[0.7, 0.1, 0.1, 0.1]])
    got = reweight(torch.ones(1, 4, 2), w, 0.5)
    # 1 + 0.5 · 4 · w is 2.4, 1.2, 1.2, 1.2, of mean 1.5
    torch.testing.assert_close(got[0, :, 0], torch.tensor([1.6, 0.8, 0.8, 0.8]))


def test_reweight_acts_at_full_size_where_the_factor_without_n_does_nothing():
    tokens, w = random_tokens(1, (72, 72)), random_shares(1, 5184)
    w = w.square() / w.square().sum()
    popular = tokens * (1 + 0.5 * w[..., None])
    assert (popular - tokens).norm() / tokens.norm() < 1e-3
    assert (reweight(tokens, w, 0.5) - tokens).norm() / tokens.norm() > 0.1
    assert torch.equal((tokens.bfloat16() * (1 + 0.5 * w[..., None]).bfloat16()), tokens.bfloat16())


@given(count=st.integers(1, 50), strength=st.floats(0, 5), seed=st.integers(0, 99))
@few
def test_reweight_keeps_the_mean_scale_and_an_even_look_changes_nothing(count, strength, seed):
    gain = reweight(torch.ones(2, count, 1), random_shares(2, count, seed=seed), strength)
    torch.testing.assert_close(gain.mean(1), torch.ones(2, 1))
    tokens = random_tokens(2, (1, count), seed=seed)
    torch.testing.assert_close(reweight(tokens, torch.full((2, count), 1 / count), strength), tokens)


def test_the_presence_gate_scales_by_the_probability_of_presence_once():
    tokens, presence = random_tokens(2, (1, 9)), torch.tensor([[-1.0], [2.0]])
    p = torch.sigmoid(presence)[:, :, None]
    torch.testing.assert_close(presence_gate(tokens, presence, 1.0), tokens * p)
    torch.testing.assert_close(presence_gate(tokens, presence, 0.3), tokens * (0.7 + 0.3 * p))


def test_the_presence_gate_follows_position():
    presence = torch.tensor([[-1.0]])
    even = presence_gate(torch.ones(1, 4, 1), presence, 1.0, torch.full((1, 4), 0.25))
    torch.testing.assert_close(even, torch.sigmoid(presence).expand(1, 4)[..., None])
    gain = presence_gate(torch.ones(1, 4, 1), presence, 1.0, torch.tensor([[0.75, 0.25, 0.0, 0.0]]))[0, :, 0]
    torch.testing.assert_close(gain[:2], torch.sigmoid(torch.tensor([-1 + math.log(3), -1.0])))
    assert torch.equal(gain[2], gain[3])
    assert 0 < gain[2] < 1e-6


def test_the_query_gate_gives_each_token_its_own_strength():
    tokens, w = random_tokens(2, (1, 9)), random_shares(2, 9)
    assert torch.equal(query_gate(tokens, w, torch.ones(2, 9), 0.5), reweight(tokens, w, 0.5))
    alpha = (torch.arange(9) < 4).float().expand(2, 9)
    gain = query_gate(torch.ones(2, 9, 1), w, alpha, 0.5)[..., 0]
    expected = 1 + 0.5 * alpha * w * 9
    torch.testing.assert_close(gain, expected / expected.mean(1, keepdim=True))


@pytest.mark.parametrize(("layers", "read"), [(1, 0), (2, 0), (6, 4)])
def test_alpha_by_attention_is_of_the_layer_before_the_last(layers, read):
    attention = random_shares(2, layers, 3, 4, 9)
    looks = attention[:, read, :, 1:].mean((1, 2))
    alpha = attention_alpha(attention)
    torch.testing.assert_close(alpha, looks / looks.amax(1, keepdim=True))
    assert alpha.amax(1).tolist() == [1, 1]


def test_an_untrained_query_gate_says_one_half_everywhere_and_can_learn():
    gate = QueryGate(5)
    alpha = gate(random_tokens(2, (3, 3)), random_tokens(2, (1, 4)))
    assert torch.equal(alpha, torch.full((2, 9), 0.5))
    alpha.square().sum().backward()
    assert gate.out.weight.grad.abs().sum() > 0


def trained_gate(width=5, hidden=7):
    gate = QueryGate(width, hidden)
    torch.nn.init.normal_(gate.out.weight, generator=torch.Generator().manual_seed(0))
    return gate.eval()


@torch.no_grad()
def test_the_query_gate_is_an_mlp_of_the_token_beside_the_mean_query():
    gate, tokens, queries = trained_gate(), random_tokens(2, (3, 3)), random_tokens(2, (1, 4), seed=1)
    beside = torch.cat([tokens, queries.mean(1, keepdim=True).expand(-1, 9, -1)], 2)
    first = F.linear(beside, torch.cat([gate.patch.weight, gate.query.weight], 1), gate.patch.bias)
    torch.testing.assert_close(gate(tokens, queries), torch.sigmoid(gate.out(F.gelu(first)))[..., 0])
    assert gate(tokens.bfloat16(), queries.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="width 5"):
        gate(random_tokens(2, (3, 3), 6), queries)


@torch.no_grad()
def test_a_query_gate_comes_back_from_its_file(tmp_path):
    gate, path = trained_gate(), tmp_path / "gate.safetensors"
    save_query_gate(QueryGate(9, 3), path)
    save_query_gate(gate, path)
    back = load_query_gate(path)
    call = random_tokens(2, (3, 3)), random_tokens(2, (1, 4), seed=1)
    assert torch.equal(back(*call), gate(*call))
    assert not back.training
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def bad_gates():
    whole = trained_gate().state_dict()
    return {
        "missing": None,
        "junk": b"junk",
        "empty": {},
        "another model": {"head.weight": torch.ones(2, 2)},
        "a tensor missing": {k: v for k, v in whole.items() if k != "out.bias"},
        "another shape": whole | {"query.weight": torch.ones(7, 6)},
        "a vector": whole | {"patch.weight": torch.ones(7)},
    }


@pytest.mark.parametrize("content", bad_gates().values(), ids=bad_gates())
def test_a_bad_gate_file_is_one_clear_line(tmp_path, content):
    path = tmp_path / "gate.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    with pytest.raises(SegmenterError) as caught:
        load_query_gate(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(count=st.integers(1, 60), strength=st.floats(0, 1), seed=st.integers(0, 99))
@few
def test_the_kept_tokens_are_the_most_important_ones_in_order(count, strength, seed):
    # few distinct values, so that there are ties
    w = torch.randint(0, 4, (3, count), generator=torch.Generator().manual_seed(seed)).float()
    kept = kept_tokens(w, strength)
    assert kept.dtype == torch.int64
    assert kept.shape == (3, max(1, round((1 - strength) * count)))
    for row, indices in zip(w.tolist(), kept.tolist(), strict=True):
        best = sorted(range(count), key=lambda i, row=row: (-row[i], i))[: len(indices)]
        assert indices == sorted(best)


GRID = (5, 6)
KEPT = torch.tensor([[0, 3, 4, 11, 29], [1, 2, 7, 8, 20]])


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_layers": 3, "num_queries": 4, "num_attention_heads": 4, "intermediate_size": 32, "dropout": 0.0}
    decoder = Sam3DetrDecoder(Sam3DETRDecoderConfig(**sizes)).eval()
    for parameter in decoder.parameters():  # SAM 3's own start is too faint to tell anything apart
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    decoder.set_attn_implementation("eager")
    return decoder


@torch.no_grad()
def decode(decoder, features=None):
    features = random_tokens(2, GRID, 32) if features is None else features
    return decoder(
        vision_features=features,
        text_features=random_tokens(2, (1, 3), 32, seed=1),
        vision_pos_encoding=random_tokens(2, GRID, 32, seed=2),
        text_mask=torch.ones(2, 3, dtype=torch.bool),
        spatial_shapes=torch.tensor([GRID]),
        output_attentions=True,
    )


def numbers(decoded):
    return torch.cat([decoded.intermediate_hidden_states.flatten(), decoded.presence_logits.flatten(), decoded.reference_boxes.flatten()])


def masked(decoder, kept):
    """All keys, with -inf on those that are not kept."""
    drop = torch.full((2, 30), float("-inf")).scatter(1, kept, 0.0)[:, None, None]

    def mask(_, args, kwargs):
        return args, kwargs | {"vision_cross_attn_mask": kwargs["vision_cross_attn_mask"] + drop}

    handles = [layer.register_forward_pre_hook(mask, with_kwargs=True) for layer in decoder.layers]
    decoded = decode(decoder)
    for handle in handles:
        handle.remove()
    return decoded


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_pruned_keys_equal_masked_keys(decoder, implementation):
    decoder.set_attn_implementation(implementation)
    with pruned_keys(decoder, KEPT):
        pruned = numbers(decode(decoder))
    torch.testing.assert_close(pruned, numbers(masked(decoder, KEPT)), rtol=1e-4, atol=1e-5)
    assert (pruned - numbers(decode(decoder))).abs().max() > 0.1
    # zeroed tokens are still looked at: that is no pruning
    zeroed = random_tokens(2, GRID, 32) * torch.zeros(2, 30).scatter(1, KEPT, 1.0)[..., None]
    assert (pruned - numbers(decode(decoder, zeroed))).abs().max() > 0.1
    decoder.set_attn_implementation("eager")


def test_pruned_attention_is_the_whole_one_renormalised_over_fewer_keys(decoder):
    whole = decode(decoder).attentions[2::3]
    with pruned_keys(decoder, KEPT):
        pruned = decode(decoder).attentions[2::3]
    assert [tuple(a.shape) for a in whole] == [(2, 4, 5, 30)] * 3
    assert [tuple(a.shape) for a in pruned] == [(2, 4, 5, 5)] * 3
    first = whole[0].gather(3, KEPT[:, None, None].expand(2, 4, 5, 5))
    torch.testing.assert_close(pruned[0], first / first.sum(-1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_attention_sees_only_the_kept_keys_and_values(decoder):
    seen = []

    def look(_, args, kwargs):
        seen.append((kwargs["key"].shape[1], kwargs["value"].shape[1], kwargs["attention_mask"].shape[3]))

    handles = [layer.vision_cross_attn.register_forward_pre_hook(look, with_kwargs=True) for layer in decoder.layers]
    with pruned_keys(decoder, KEPT):
        decode(decoder)
    for handle in handles:
        handle.remove()
    assert seen == [(5, 5, 5)] * 3


def test_keeping_all_tokens_changes_no_bit(decoder):
    with pruned_keys(decoder, kept_tokens(random_shares(2, 30), 0.0)):
        pruned = numbers(decode(decoder))
    assert torch.equal(pruned, numbers(decode(decoder)))


def test_the_hooks_are_gone_afterwards_also_after_an_error(decoder):
    before = numbers(decode(decoder))
    with pruned_keys(decoder, KEPT):
        decode(decoder)
    with pytest.raises(RuntimeError, match="stop"), pruned_keys(decoder, KEPT):
        raise RuntimeError("stop")
    assert not any(layer._forward_pre_hooks for layer in decoder.layers)
    assert torch.equal(numbers(decode(decoder)), before)


def test_kept_tokens_of_another_batch_are_refused(decoder):
    with pytest.raises(ValueError, match="1 rows"), pruned_keys(decoder, KEPT[:1]):
        decode(decoder)


def test_the_decoders_attention_feeds_importance(decoder):
    attention = torch.stack(decode(decoder).attentions[2::3], 1)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 4, 5))
    w = patch_importance(attention, torch.tensor([[0.9, 0.1, 0.0, 0.3]] * 2), "score", 2)
    assert w.shape == (2, 30)
    assert (w * 30).std() > 0.1  # not an even look
