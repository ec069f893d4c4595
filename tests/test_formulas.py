"""Formulas at the places where a wrong one would go unnoticed: ends, branches, other settings.

Each was found by breaking the formula on purpose (`tools/mutants.py`) and seeing every other test
pass."""

import math
from functools import partial

import pytest
import torch
from scipy import integrate, special, stats

from asyncpatch.asyncpatch_bound import asyncpatch_weights
from asyncpatch.codebook import Codebook
from asyncpatch.density import log_flux
from asyncpatch.elbo import Bound, categorical_nats, log_weights, prior_nats
from asyncpatch.elbo_estimator import bits_per_dimension, nll_bound
from asyncpatch.holes import brush_radius
from asyncpatch.joint import GaussianMixture
from asyncpatch.laws import clocks_of, logit_normal, logit_normal_pixel_density, patch_index, perlin
from asyncpatch.lowrank import LowRankMixture
from asyncpatch.moments import Impulses
from asyncpatch.paths import hazards
from asyncpatch.rival_laws import (
    mean_beta,
    pixel_density,
    td_paint,
    td_paint_cells,
    td_paint_strokes,
)
from asyncpatch.spatial import hold, inpainting_maps, outpainting_maps, time_grid
from asyncpatch.walks import log_environment, smallest_shape
from asyncpatch.weights import load, save
from asyncpatch.windows import Windowed


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(variance, shape=(1, 2, 2)):
    "An oracle of independent normal pixels."
    mean = torch.zeros(1, *shape, dtype=torch.float64)
    return GaussianMixture(
        torch.ones(1), mean, variance * torch.eye(math.prod(shape))[None].double()
    )


# -- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_one_rate_in_a_million_underflows_at_the_smallest_shape(dtype):
    "A Gamma number of shape k is below x with probability x**k, for small k and x."
    assert torch.finfo(dtype).tiny ** smallest_shape(dtype) == pytest.approx(1e-6, rel=1e-9)


def test_the_logarithm_of_a_small_rate_has_the_mean_of_a_gamma_number():
    "E log Gamma(k) = digamma(k), its variance trigamma(k), also where the rate itself underflows."
    k, n = 0.0185, 100_000
    assert k < smallest_shape(torch.float64)
    found = log_environment(n, 1, k, draws()).mean().item()
    error = math.sqrt(special.polygamma(1, k) / n)
    assert abs(found - special.digamma(k)) < 4.5 * error < 0.8  # a shape of k + 1 would be 1 off


@pytest.mark.parametrize('eps', [0.0, 0.01, 0.2])
def test_hazards_are_the_logarithm_of_what_is_left(eps):
    t = torch.linspace(eps, 1 - eps - 1e-6, 50, dtype=torch.float64)
    torch.testing.assert_close(hazards(t, eps), torch.log((1 - 2 * eps) / (1 - eps - t)))


# -- the bound -------------------------------------------------------------------------------------


def test_the_prior_is_the_divergence_of_two_normal_laws():
    x, eps = torch.tensor([[-1.0, 0.3, 2.0]], dtype=torch.float64), 0.3
    alpha, sigma = eps, 1 - eps  # of the straight path at time 1 - eps
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(alpha * x, sigma), normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(prior_nats(x, eps), wanted)


def test_the_price_of_a_level_is_the_mean_logarithm_of_its_probability():
    "Two levels at distance d: E log(1 + exp(-d^2 / 2s^2 - d e / s)), e normal, s = sigma / alpha."
    eps, levels, n = 0.45, torch.tensor([-1.0, 1.0], dtype=torch.float64), 20_000
    ratio = eps / (1 - eps) / 2

    def integrand(e):
        loss = math.log1p(math.exp(-(0.5 / ratio**2 + e / ratio)))
        return loss * math.exp(-e * e / 2) / math.sqrt(2 * math.pi)

    x = levels.repeat(n // 2)[:, None]
    nats = categorical_nats(x, levels, eps, draws())
    error = nats.std().item() / math.sqrt(n)
    assert nats.min() >= 0
    assert abs(nats.mean().item() - integrate.quad(integrand, -12, 12)[0]) < 4.5 * error


@pytest.mark.parametrize('eps', [0.01, 0.2])
def test_a_normal_law_has_the_bound_of_its_information(eps):
    "With the reference at the data's own variance nothing is left to estimate."
    variance, x = 0.4, torch.randn(8, 1, 2, 2, generator=draws(), dtype=torch.float64)
    found = nll_bound(gaussian(variance), x, eps=eps, reference=variance, generator=draws())
    snr = [((1 - t) / t) ** 2 for t in (eps, 1 - eps)]
    wanted = 2 * (math.log1p(variance * snr[0]) - math.log1p(variance * snr[1]))
    excess = found.diffusion - wanted
    assert abs(excess.mean().item()) < 4.5 * excess.std().item() / excess.numel() ** 0.5 + 1e-9
    plain = nll_bound(gaussian(variance), x, eps=eps, reference=0.0, passes=400, generator=draws())
    error = plain.diffusion.mean(1).std().item() / 20
    assert abs(plain.diffusion.mean().item() - found.diffusion.mean().item()) < 4.5 * error + 0.1


def test_a_patch_has_to_divide_both_sides():
    with pytest.raises(ValueError, match='patch must divide the sides 4 and 6'):
        nll_bound(gaussian(1.0, (1, 4, 6)), torch.zeros(1, 1, 4, 6), patch=4)


def test_two_passes_have_a_standard_error():
    diffusion = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    bound = Bound(torch.zeros(2), diffusion, torch.zeros(2), 1)
    found = bits_per_dimension(bound)
    assert found[1] == pytest.approx(math.sqrt(2) / math.sqrt(2) / math.log(2))
    assert found[2] == 0


def test_one_mean_outside_is_enough_to_refuse():
    t = torch.full((2, 1), 0.5)
    with pytest.raises(ValueError, match='mean must lie in'):
        asyncpatch_weights(t, torch.tensor([[0.5], [1.2]]))
    with pytest.raises(ValueError, match='mean must lie in'):
        asyncpatch_weights(t, torch.tensor([[0.5], [-0.2]]))


# -- laws of times ---------------------------------------------------------------------------------


def total(density, low, high):
    "The integral of a density of times."
    inside = [0.25 * (k * high + (4 - k) * low) for k in (1, 2, 3)]

    def value(t):
        return density(torch.tensor(t, dtype=torch.float64)).item()

    return integrate.quad(value, low, high, points=inside, limit=200)[0]


@pytest.mark.parametrize('how', [{}, dict(loc=0.7, scale=0.5)])
def test_the_density_of_a_logit_normal_time(how):
    def density(t):
        return logit_normal_pixel_density(t, **how)

    assert total(density, 1e-9, 1 - 1e-9) == pytest.approx(1, abs=1e-6)
    n, middle = 20_000, 0.6
    below = (logit_normal(n, 1, 1, draws(), **how) < middle).double().mean().item()
    assert abs(below - total(density, 1e-9, middle)) < 4.5 * 0.5 / math.sqrt(n) + 1e-4


def test_the_density_of_a_law_between_other_ends_is_one():
    density = pixel_density(partial(logit_normal, t_min=0.2, t_max=0.7))
    assert total(density, 0.2 + 1e-9, 0.7 - 1e-9) == pytest.approx(1, abs=1e-6)


def test_perlin_has_two_clocks_unless_every_pixel_has_its_own():
    t = perlin(40, 8, 8, draws())
    most = max(len(one.unique()) for one in t)
    assert most == clocks_of(perlin) == 2
    assert perlin(3, 8, 6, draws(), per_pixel=True).shape == (3, 1, 8, 6)


@pytest.mark.parametrize('probability', [0.0, 0.2, 1.0])
def test_the_rest_of_a_perlin_image_is_noise_so_often(probability):
    n = 2_000
    t = perlin(n, 8, 8, draws(), probability=probability, t_min=0.0, t_max=1.0)
    noisy, clean = (t == 1).flatten(1).any(1), (t == 0).flatten(1).any(1)
    either = noisy | clean  # some masks fill the image
    found = noisy[either].double().mean().item()
    error = math.sqrt(probability * (1 - probability) / either.sum().item())
    assert either.double().mean() > 0.9 and abs(found - probability) <= 4.5 * error


def test_every_image_has_brush_strokes_of_its_own():
    t = td_paint_strokes(6, 32, 32, draws(), share=1.0)
    shapes = {tuple((one == one.min()).flatten().tolist()) for one in t}
    assert len(shapes) == 6


@pytest.mark.parametrize('side', [1, 2])
@pytest.mark.parametrize('law', [td_paint, partial(td_paint_cells, share=0.0)])
def test_a_uniform_number_of_patches_is_clean(law, side):
    "Of sixteen patches none to fifteen, each with the same probability."
    n, size = 1_600, 4 * side
    t = law(n, size, size, draws(), scales=[side], weights=[1], t_min=0.0, t_max=1.0)
    clean = (t[:, 0, ::side, ::side] == 0).flatten(1).sum(1)
    count = torch.bincount(clean, minlength=16).double()
    squares = ((count - n / 16) ** 2 / (n / 16)).sum().item()
    assert len(count) == 16 and squares < stats.chi2(15).isf(1e-5)


@pytest.mark.parametrize('law, also', [(td_paint, 1), (partial(td_paint_cells, share=0.0), 0)])
def test_the_whole_image_is_one_patch_eight_times_as_often(law, also):
    "As each smaller side; where one time serves all, a smaller one may also have nothing clean."
    n, cells = 1_000, (64, 16, 4)
    t = law(n, 8, 8, draws(), t_min=0.0, t_max=1.0).flatten(1)
    found = (t == t[:, :1]).all(1).double().mean().item()
    wanted = (8 + also * sum(1 / c for c in cells)) / (8 + len(cells))
    assert abs(found - wanted) < 4.5 * math.sqrt(wanted * (1 - wanted) / n)


def test_the_mean_of_an_image_is_uniform():
    "Of mean_beta, where the side divides the image: it is split exactly."
    n = 4_000
    means = mean_beta(n, 8, 8, draws(), side=4, t_min=0.0, t_max=1.0).mean((1, 2, 3))
    assert stats.kstest(means.numpy(), 'uniform').pvalue > 1e-5
    spread = means.double().var().item()  # of uniform numbers 1/12, known within sqrt(1/180 n)
    assert abs(spread - 1 / 12) < 4.5 * math.sqrt(1 / 180 / n)


# -- oracles and windows ---------------------------------------------------------------------------


def low_rank(components=3):
    factors = torch.randn(components, 4, 2, generator=draws(1), dtype=torch.float64)
    means = torch.randn(components, 1, 2, 2, generator=draws(2), dtype=torch.float64)
    weights = torch.tensor([0.5, 0.2, 0.3])[:components]
    remainder = torch.full((components, 4), 0.3, dtype=torch.float64)
    return LowRankMixture(weights, means, factors, remainder, torch.tensor([0, 1, 1])).to(
        torch.float64
    )


def test_an_oracle_is_loaded_as_it_was_saved(tmp_path):
    law = low_rank()
    again = load(save(tmp_path / 'law.safetensors', law))
    assert set(again.tensors()) == {'means', 'factors', 'remainder', 'log_weights', 'labels'}
    for name, value in law.tensors().items():
        torch.testing.assert_close(again.tensors()[name].to(value), value)
    assert again.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize('fields', [1, 2, 3])
def test_any_number_of_fields_has_the_answers_of_the_dense_oracle(fields):
    law = low_rank()
    cov = law.factors @ law.factors.mT + torch.diag_embed(law.remainder)
    dense = GaussianMixture(law.log_weights.exp(), law.means.reshape(3, 1, 2, 2), cov)
    z = torch.randn(6, 1, 2, 2, generator=draws(3), dtype=torch.float64)[: max(fields, 2)]
    t = torch.rand(fields, 1, 2, 2, generator=draws(4), dtype=torch.float64)
    t = t if fields > 1 else t.expand(1, -1, -1, -1)
    torch.testing.assert_close(law(z, t), dense(z, t))


def test_what_is_known_is_what_was_measured_whatever_the_scale_of_the_data():
    "At sigma = 0 the clean value is z / alpha."

    def doubled(t):
        return 2 * (1 - t), t

    base = low_rank()
    law = LowRankMixture(
        base.log_weights.exp(),
        base.means.reshape(3, 1, 2, 2),
        base.factors,
        base.remainder,
        schedule=doubled,
    ).to(torch.float64)
    z = torch.randn(2, 1, 2, 2, generator=draws(), dtype=torch.float64)
    t = torch.tensor([0.0, 0.5, 0.5, 1.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    torch.testing.assert_close(law(z, t)[..., 0, 0], z[..., 0, 0] / 2)


def test_a_posterior_takes_times_in_any_shape_that_broadcasts():
    law = gaussian(0.5)
    z, half = torch.ones(1, 2, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    for t in (half, half.expand(2, 2), half.expand(1, 2, 2)):
        torch.testing.assert_close(law.posterior(z, t).means, law.posterior(z, half).means)


@pytest.mark.parametrize('size, stride', [(1, None), (1, 1), (2, 1), (2, None), (3, None)])
def test_windows_of_any_size_leave_an_answer_without_neighbours_as_it_is(size, stride):
    z = torch.randn(1, 1, 4, 5, generator=draws())
    alone = Windowed(lambda z, t, label=None: 3 * z, size, stride)
    torch.testing.assert_close(alone(z, torch.full((1, 1, 4, 5), 0.5)), 3 * z)


# -- maps of times, holes, impulses ----------------------------------------------------------------


def test_what_is_no_map_is_refused():
    known = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    maps = inpainting_maps(known, 3)
    with pytest.raises(ValueError, match='points must never rise'):
        inpainting_maps(known, torch.tensor([1.0, 0.2, 0.5, 0.0]))
    with pytest.raises(ValueError, match='start and end must be times'):
        time_grid(5, start=1.5)
    for wrong in (known[:, 0], known.expand(1, 3, 4, 4)):
        with pytest.raises(ValueError, match='known must have shape'):
            hold(maps, wrong)


def test_a_window_may_lie_in_a_corner():
    maps = outpainting_maps(4, 6, (0, 0, 2, 3), 3)
    assert (maps[1, 0, 0] == 0).nonzero().tolist() == [[i, j] for i in (0, 1) for j in (0, 1, 2)]


def test_a_brush_of_opencv_covers_half_its_width_rounded_up_and_a_quarter():
    widths = torch.tensor([1, 2, 5, 9, 10])
    assert brush_radius(widths).tolist() == [1.25, 1.25, 3.25, 5.25, 5.25]


def test_impulses_go_to_one_sample_each_in_the_order_of_the_numbers_drawn():
    with Impulses(1):
        first, second = torch.randn(7, 1, 2, 2), torch.randn(7, 2)
    wanted = torch.cat([torch.zeros(1, 6), torch.eye(6)])
    assert torch.equal(torch.cat([first.flatten(1), second], 1), wanted)


@pytest.mark.parametrize('eps', [0.0, 1e-12, 1e-3, 0.2])
def test_the_weight_of_a_late_time_is_that_of_what_is_left_of_it(eps):
    "Rectified flow: that of x0's error is u / (1 - u)^3 at u = 1 - t, also where t rounds to 1."
    h = torch.tensor([0.3, 5.0, 25.0, 60.0], dtype=torch.float64)
    u = eps + (1 - 2 * eps) * (-h).exp()
    wanted = u.log() - 3 * torch.log1p(-u)
    found = log_weights(h, eps=eps, prediction='x0') - log_flux(h, 1.0, eps)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_a_rule_is_asked_for_as_many_times_as_there_are_patches():
    asked = []

    def rule(n, tokens, eps, generator):
        asked.append((n, tokens))
        t = torch.full((n, tokens), 0.5, dtype=torch.float64)
        return t, torch.ones_like(t)

    x = torch.zeros(3, 1, 4, 8, dtype=torch.float64)
    for patch in (1, 2, 4):
        nll_bound(lambda z, t, label=None: z, x, rule=rule, passes=1, patch=patch)
    assert asked == [(3, 32), (3, 8), (3, 2)]


def test_a_grid_of_squares_moves_by_its_shift():
    "A share of the side: squares of four that begin two rows and one column before the image."
    side, shift = torch.tensor([[4]]), torch.tensor([[0.5, 0.25]])
    index = patch_index(side, 8, 8, shift)
    rows, columns = torch.arange(8)[:, None], torch.arange(8)
    assert torch.equal(index[0], (rows + 2) // 4 * 8 + (columns + 1) // 4)


def test_a_codebook_knows_mean_and_spread_of_what_it_saw():
    book = Codebook(codes=5, width=3)
    mean, spread = book.mean_and_std()
    assert torch.equal(mean, torch.zeros(3)) and torch.equal(spread, torch.ones(3))
    z = 2 + 0.5 * torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        book.update(z, book(z), torch.ones(400), torch.Generator().manual_seed(1))
    mean, spread = book.mean_and_std()
    torch.testing.assert_close(mean, z.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(spread, z.std(0, correction=0), atol=1e-3, rtol=0)
