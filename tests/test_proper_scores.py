"""Proper scores prefer the right law, calibration sees what is wrong, tests keep their level."""

import math

import pytest
import torch

from asyncpatch.lowrank import LowRankMixture
from asyncpatch.proper_scores import (
    calibrate,
    classifier_test,
    coverage,
    crossed_mean,
    energy_score,
    likelihood_ratio_test,
    patch_energy_score,
    rank_deviation,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('power', [0.5, 1.0, 1.5])
@pytest.mark.parametrize('m', [2, 6])
def test_the_energy_score_is_smallest_for_the_truth(power, m):
    "Wrong means and spreads cost; so does no spread, which a paired distance rewards."
    truth, noise = normal(6_000, 3, seed=1), normal(m, 6_000, 3, seed=2)
    right = energy_score(noise, truth, power)
    for wrong in (noise + 0.7, 0.3 * noise, 2 * noise, 0 * noise):
        assert crossed_mean(energy_score(wrong, truth, power) - right) - 0 > 5
    assert (0 * noise[0] - truth).norm(dim=1).mean() < (noise[0] - truth).norm(dim=1).mean()


def test_patches_see_what_pixels_do_not():
    "Neighbours of correlation 0.9 against independent ones: more standard errors on patches."
    common, own = normal(7, 400, 1, 1, 1, seed=3), normal(7, 400, 1, 6, 6, seed=4)
    y, wrong = math.sqrt(0.9) * common + math.sqrt(0.1) * own, normal(6, 400, 1, 6, 6, seed=5)
    seen = crossed_mean(
        patch_energy_score(wrong, y[6], 3, 3) - patch_energy_score(y[:6], y[6], 3, 3)
    )
    assert seen - 0 > 5


def test_two_draws_are_unbiased():
    "The mean over pairs of many draws is the score of all of them."
    draws, truth = normal(6, 5, 4, seed=6), normal(5, 4, seed=7)
    pairs = [energy_score(draws[[i, j]], truth) for i in range(6) for j in range(i)]
    torch.testing.assert_close(torch.stack(pairs).mean(0), energy_score(draws, truth))


def law(distance=4.0):
    "Two equal modes in the plane of four pixels, of different directions."
    means = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    means[0], means[1] = -distance / 2, distance / 2
    factors = normal(2, 4, 2, seed=8)
    remainder = torch.full((2, 4), 0.1, dtype=torch.float64)
    return LowRankMixture([0.5, 0.5], means, factors, remainder, torch.zeros(2, dtype=torch.long))


def found(fills, level=0.0):
    truth = law()
    exact = truth.sample(2_000, torch.Generator().manual_seed(9))
    return calibrate(truth, fills, exact, level, torch.Generator().manual_seed(10))


@pytest.mark.parametrize('level', [0.0, 0.2])
def test_exact_fills_are_calibrated(level):
    fills = law().sample(1_000, torch.Generator().manual_seed(11))
    marks = found(fills, level)
    assert rank_deviation(marks.rank) < 0.07 and abs(coverage(marks.rank) - 0.9) < 0.05
    assert abs(marks.variance_ratio - 1) < 0.1 and abs(marks.components) < 0.01
    assert abs(marks.offset) < 0.01 and abs(marks.log_density.mean()) < 0.3


def test_each_mark_sees_its_own_fault():
    right = law().sample(1_000, torch.Generator().manual_seed(12))
    one_mode = right[(right.mean((1, 2, 3)) > 0)]
    seen = found(one_mode)
    assert rank_deviation(seen.rank) < 0.1 < seen.components  # one of two equal modes: passes ranks
    summit = law().means.view(2, 1, 2, 2).repeat(100, 1, 1, 1)
    assert rank_deviation(found(summit).rank) > 0.9  # all at the top of the density
    assert found(0.8 * right).variance_ratio < 0.75
    assert found(right + 0.5).offset > 0.02
    assert (
        rank_deviation(found(right + 3 * torch.tensor([1.0, -1, 1, -1]).view(1, 2, 2)).rank) > 0.9
    )


def test_noise_widens_a_law_that_calls_everything_impossible():
    "A speck of noise is rank 0 for a sharp law and nearly unseen with noise added."
    sharp = law()
    sharp = sharp._with(remainder=torch.full_like(sharp.remainder, 1e-6))
    exact = sharp.sample(500, torch.Generator().manual_seed(13))
    off = sharp.sample(200, torch.Generator().manual_seed(14)) + 0.02 * normal(200, 1, 2, 2)
    assert rank_deviation(calibrate(sharp, off, exact).rank) > 0.9
    soft = calibrate(sharp, off, exact, 0.3, torch.Generator().manual_seed(15))
    assert rank_deviation(soft.rank) < 0.15


def test_errors_count_seeds_and_questions():
    "Where all the spread is of seeds, more questions do not help."
    values = normal(1, 4, seed=16).expand(100, 4)
    estimate = crossed_mean(values)
    assert abs(estimate.error - values[0].std().item() / 2) < 1e-9
    assert crossed_mean(values[:, 0] + normal(100, seed=17)).error == pytest.approx(0.1, rel=0.3)
    with pytest.raises(ValueError, match='at least 2 questions'):
        crossed_mean(values[:1])


def test_levels_and_power():
    "Under equal laws p-values below 5 % are rare; a shift is found by both."
    repeats, rejected, caught = 60, torch.zeros(2), torch.zeros(2)

    def log_prob_at(centre):
        return lambda x: -((x - centre) ** 2).flatten(1).sum(1) / 2

    def fit(x):
        return log_prob_at(x.mean(0))

    for i in range(repeats):
        one, other = normal(100, 3, seed=100 + i), normal(100, 3, seed=900 + i)
        for sample, count in ((other, rejected), (other + 0.8, caught)):
            tests = (
                classifier_test(one, sample),
                likelihood_ratio_test(sample, log_prob_at(torch.zeros(3)), fit),
            )
            count += torch.tensor([test.p_value < 0.05 for test in tests])
    assert (rejected / repeats <= 0.15).all() and (caught / repeats > 0.9).all()
