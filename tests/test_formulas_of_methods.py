"""Formulas of methods, textures, measures and verdicts, each against a value worked out apart.

Every test is one that a mutant asked for: with the formula broken nothing else failed."""

import math
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from scipy import stats

from asyncpatch import spatial, texture
from asyncpatch.adaptive import calibration
from asyncpatch.budgets import calls_of, plan, setting
from asyncpatch.denoisers import CountCalls
from asyncpatch.distances import transport_cost
from asyncpatch.garments import garments
from asyncpatch.guidance import InputGuidance, weighted_answers
from asyncpatch.inpainting import biharmonic, pose
from asyncpatch.inverse_problems import ddnm, dps, mcg
from asyncpatch.joint import smooth_gaussian, toy_gaussian
from asyncpatch.laws import asyncpatch as asyncpatch_law
from asyncpatch.lowrank import LowRankMixture
from asyncpatch.objectives import SharedUncertainty, Velocity, sid2_weight
from asyncpatch.proper_scores import (
    Estimate,
    calibrate,
    classifier_test,
    crossed_mean,
    energy_score,
    patch_energy_score,
)
from asyncpatch.results import Effect, claims_table, percentile_interval
from asyncpatch.samplers import ddim_step, heun_step, sample


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Guidance and objectives


def test_equal_questions_are_asked_once_with_the_sum_of_their_weights():
    asked = []

    def denoiser(z, t, label):
        asked.append(len(z))
        return z * t

    z, t = torch.randn(2, 1, 2, 2, generator=seeded()), torch.full((2, 1, 2, 2), 0.5)
    question = z, t, torch.tensor([0, 1])
    found = weighted_answers(denoiser, [(2.0, question), (-1.5, question)])
    assert asked == [2] and torch.equal(found, 0.5 * z * t)


@pytest.mark.parametrize('dropout', [0.0, 0.1, 0.7, 1.0])
def test_a_label_is_hidden_as_often_as_was_said(dropout):
    n = 40_000
    drawn = Velocity(asyncpatch_law, label_dropout=dropout).draw((n, 1, 4, 4), seeded())
    error = math.sqrt(dropout * (1 - dropout) / n)
    assert abs(drawn['hidden'].double().mean() - dropout) <= 4.5 * error


def test_a_shared_head_is_trained_on_half_the_gaussian_likelihood():
    "loss = weighted squared error + share * mean of (s + e^2 exp(-s)) / 2, by hand."
    x = torch.randn(3, 2, 4, 4, generator=seeded(), dtype=torch.float64)
    drawn = dict(
        times=torch.rand(3, 1, 4, 4, generator=seeded(1), dtype=torch.float64) * 0.8 + 0.1,
        hidden=torch.zeros(3, dtype=torch.bool),
        noise=torch.randn(3, 2, 4, 4, generator=seeded(2), dtype=torch.float64),
    )
    said = torch.randn(3, 3, 4, 4, generator=seeded(3), dtype=torch.float64)
    objective = SharedUncertainty(asyncpatch_law, share=0.3)
    loss, parts = objective.loss(lambda z, t, label: said, x, torch.tensor([0, 1, 2]), **drawn)
    error = said[:, :2] - (drawn['noise'] - x)
    s, squared = said[:, 2:], error.square().mean(1, keepdim=True)
    velocity = (sid2_weight(drawn['times'], 2.0) * error**2).mean()
    torch.testing.assert_close(parts['velocity'], velocity)
    torch.testing.assert_close(loss, velocity + 0.3 * (s / 2 + squared / (2 * s.exp())).mean())


# Inpainting


def test_what_is_not_known_is_not_read():
    x = torch.full((1, 1, 2, 2), 7.0)
    known = torch.tensor([[True, False], [True, True]])
    for missing in (float('nan'), 7.0, -3.0):
        x[..., 0, 1] = missing
        assert pose(None, x, known).given.flatten().tolist() == [7, 0, 7, 7]
    x[..., 0, 0] = float('nan')
    with pytest.raises(ValueError, match='x must be finite where it is known'):
        pose(None, x, known)


def test_a_plane_is_continued_as_a_plane():
    "A linear function is biharmonic; inside what is known nothing has to be guessed."
    row, column = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing='ij')
    plane = ((2 * row - column) / 16)[None, None].double()
    known = torch.ones(9, 9, dtype=torch.bool)
    known[3:6, 4:7] = False
    filled = biharmonic(None, plane.where(known, 9.0), known)
    torch.testing.assert_close(filled, plane, atol=1e-9, rtol=0)


PAIR = dict(
    x=torch.tensor([1.5, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2),
    known=torch.tensor([True, False]).reshape(1, 1, 1, 2),
)


@pytest.mark.parametrize('method', [mcg, dps])
def test_any_length_of_a_push_is_taken(method):
    "From none to one and beyond; a negative one is refused."
    found = [
        method(toy_gaussian(0.8), **PAIR, generator=0, points=11, strength=strength)
        for strength in (0, 0.25, 1, 2)
    ]
    assert len({image[0, 0, 0, 1].item() for image in found}) == 4
    with pytest.raises(ValueError, match='strength must be finite and at least 0, got -0.5'):
        method(toy_gaussian(0.8), **PAIR, strength=-0.5)


def test_the_shortest_travel_is_two_levels():
    assert (
        ddnm(toy_gaussian(0.8), **PAIR, generator=0, levels=6, travel=2, repeats=2).isfinite().all()
    )
    with pytest.raises(ValueError, match='travel must be at least 2, got 1'):
        ddnm(toy_gaussian(0.8), **PAIR, travel=1)


# Heads and textures


def test_one_bin_is_the_mean_of_all():
    predicted, error = torch.rand(2, 50, generator=seeded(), dtype=torch.float64)
    found = calibration(predicted, error, bins=1)
    torch.testing.assert_close(found, torch.stack([predicted.mean(), error.mean()])[:, None])


def test_bricks_have_grain():
    wall = partial(texture.brick_wall, 60, 120)
    flat, rough = wall(seeded(), noise=0), wall(seeded(), noise=0.08)
    assert sorted(flat.unique().tolist()) == pytest.approx([-0.4, 0.7])
    spread, n = (rough - flat).std().item(), flat.numel()
    assert abs(spread / 0.08 - 1) < 4.5 / math.sqrt(2 * n)


def test_strips_are_half_a_window_high_unless_told_otherwise():
    exemplar, strips = torch.randn(1, 8, 8, generator=seeded()).clamp(-1, 1), []

    def denoiser(z, t, label=None):
        return 0.5 * z

    options = dict(height=17, size=6, points=4, weight=0.0)
    for rows in (None, 3, 2):
        made = texture.continue_texture(
            denoiser, exemplar, generator=seeded(1), rows=rows, **options
        )
        strips.append(made)
    assert torch.equal(strips[0], strips[1]) and not torch.equal(strips[0], strips[2])


# Measures and verdicts


def test_the_score_of_windows_is_the_mean_of_theirs():
    draws = torch.randn(5, 3, 1, 4, 8, generator=seeded(), dtype=torch.float64)
    truth = torch.randn(3, 1, 4, 8, generator=seeded(1), dtype=torch.float64)
    each = [
        energy_score(draws[..., here : here + 4].flatten(2), truth[..., here : here + 4].flatten(1))
        for here in (0, 2, 4)
    ]
    torch.testing.assert_close(patch_energy_score(draws, truth), torch.stack(each).mean(0))


def test_the_error_of_a_crossed_mean_is_that_of_its_analysis_of_variance():
    "(MS of questions + MS of seeds - MS of the rest) / number, by sums of squares."
    q, s = 6, 4
    numbers = partial(torch.randn, generator=seeded(), dtype=torch.float64)
    values = 2 * numbers(q, 1) + 3 * numbers(1, s) + 0.5 * numbers(q, s)
    total = values.sum() ** 2 / (q * s)
    of_questions = (values.sum(1) ** 2).sum() / s - total
    of_seeds = (values.sum(0) ** 2).sum() / q - total
    rest = (values**2).sum() - total - of_questions - of_seeds
    squares = of_questions / (q - 1), of_seeds / (s - 1), rest / ((q - 1) * (s - 1))
    wanted = (squares[0] + squares[1] - squares[2]) / (q * s)
    found = crossed_mean(values)
    assert found.error == pytest.approx(wanted.sqrt().item(), rel=1e-10)
    assert found.mean == pytest.approx(values.mean().item(), rel=1e-12)


def test_an_estimate_less_a_value_is_counted_in_standard_errors():
    assert (Estimate(3.0, 0.5) - 1.0, Estimate(1.0, 0.25) - 2.0) == (4.0, -4.0)


def test_transport_between_samples_of_two_sizes():
    "Three values against two: each third of u meets the halves that it overlaps."
    a, b = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[2.0], [3.0]])
    by_hand = (2 * (0 - 2) ** 2 + (1 - 2) ** 2 + (1 - 3) ** 2 + 2 * (5 - 3) ** 2) / 6
    assert transport_cost(a, b).item() == pytest.approx(by_hand)


def test_the_smallest_effect_is_half_an_interval():
    assert Effect(1.0, 0.25, 4.0).smallest == pytest.approx(4.0)
    assert Effect(0.0, -0.3, 0.7, ratio=False).smallest == pytest.approx(0.5)


@pytest.mark.parametrize('level', [0.5, 0.95])
def test_an_interval_holds_its_share_of_the_draws_and_as_many_lie_on_either_side(level):
    draws = torch.arange(1001, dtype=torch.float64)[torch.randperm(1001, generator=seeded())]
    found = percentile_interval(
        torch.cat([torch.tensor([17.0], dtype=torch.float64), draws]), level
    )
    assert found == pytest.approx([17, 500 * (1 - level), 500 * (1 + level)])


@pytest.mark.parametrize('calls', [30, 60, 200, 700, 2000, 4750])
def test_repaint_is_resampled_only_where_each_round_has_25_levels(calls):
    found = dict(setting('repaint', calls=calls).parameters)
    cost = calls_of('repaint', found)
    assert cost <= calls and (found['resamples'] == 1 or found['levels'] >= 25 * found['resamples'])
    more = dict(found, resamples=found['resamples'] + 1)
    affordable = [
        levels
        for levels in range(25 * more['resamples'], 251)
        if calls_of('repaint', dict(more, levels=levels)) <= calls
    ]
    assert more['resamples'] > 10 or not affordable


# Prices and names


def test_seconds_are_counted_from_when_the_count_began():
    began = time.perf_counter()
    counted = CountCalls(toy_gaussian(0.8))
    time.sleep(0.02)
    assert 0.02 <= counted.seconds <= time.perf_counter() - began


@pytest.mark.parametrize('name', ['synchronous', 'inpainting', 'outpainting'])
def test_older_names_of_time_maps_are_understood(name):
    with pytest.warns(DeprecationWarning, match=f'{name}_maps'):
        assert getattr(spatial, name) is getattr(spatial, f'{name}_maps')
    assert not hasattr(spatial, f'{name}ly')


@pytest.mark.parametrize('step', [ddim_step, heun_step])
@pytest.mark.parametrize('order', ['together', 'raster', 'spiral'])
def test_a_plan_costs_what_it_says(order, step):
    "Heun's last step, to time 0, takes one call for two: where all go together it is counted so."
    for calls in (48, 97):
        maps, said = plan(8, 8, calls, order, step)
        counted = CountCalls(lambda z, t, label=None: 0.5 * z)
        sample(counted, maps, (1, 1, 8, 8), step=step)
        assert counted.calls <= said.calls <= calls
        assert said.calls - counted.calls <= (
            16 if step is heun_step and order != 'together' else 0
        )


# Tests of laws, and the table of claims


@pytest.mark.parametrize('n', [4, 11, 60])
def test_the_probability_of_an_accuracy_is_that_of_fair_coins(n):
    one, other = torch.randn(2, n, 3, generator=seeded(n))
    accuracy, probability = classifier_test(one, other + 0.3)
    held_out = 2 * (n - n // 2)
    wanted = stats.binom.sf(round(accuracy * held_out) - 1, held_out, 0.5)
    assert probability == pytest.approx(wanted, rel=1e-9)


def test_fills_of_the_law_itself_have_no_offset_wherever_its_mean_lies():
    "|mean of m fills - mean|^2 less what m draws are off by, in variances: 0 +- sqrt(2 / D) / m."
    one = torch.ones(1, dtype=torch.float64)
    means = torch.full((1, 1, 5, 5), 3.0, dtype=torch.float64)
    spread = torch.full((1, 25), 0.5, dtype=torch.float64)
    law = LowRankMixture(one, means, torch.zeros(1, 25, 1, dtype=torch.float64), spread)
    fills, exact = law.sample(50, seeded()), law.sample(100, seeded(1))
    assert abs(calibrate(law, fills, exact).offset) < 5 * math.sqrt(2 / 25) / 50
    moved = calibrate(law, fills + 0.5, exact).offset
    assert moved == pytest.approx(0.5**2 / 0.5, abs=0.3)


def test_one_claim_with_a_control_shows_the_column_of_all():
    said = dict(ours='1', verdict='undecided')
    claims = dict(plain=dict(said), held=dict(said, control='wrong law, 3.0', smallest=0.25))
    record = SimpleNamespace(data=dict(claims=claims), scale='digits')
    table = claims_table(record)
    assert table.header[-2:] == ['positive control', 'smallest effect seen']
    assert [row[-1] for row in table.rows] == ['', '0.25']
    del claims['held']
    assert len(claims_table(record).header) == 3


@pytest.mark.parametrize('label', [None, torch.arange(4)])
def test_an_exact_law_is_asked_apart_and_answers_as_in_one_batch(label):
    world = garments('garments14', torch.float64)
    z = torch.randn(4, 1, 14, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.full((1, 1, 14, 14), 0.5, dtype=torch.float64)
    t[..., :7] = 0
    noise = torch.ones(1, 1, 14, 14, dtype=torch.float64)
    settings = dict(weight=1.5, noise=noise, schedule=world.schedule)
    apart = InputGuidance(world, **settings)(z, t, label)
    together = InputGuidance(lambda *question: world(*question), **settings)(z, t, label)
    assert (apart - together).abs().max() < 1e-9
    unguided = world(z, t, label)
    assert (apart - unguided).abs().max() > 1e-3  # the control: guidance changes the answer


def test_a_sum_of_answers_weights_one_answer_and_keeps_a_shared_map():
    asked = []

    def doubled(z, t, label=None):
        asked.append((len(z), len(t)))
        return 2 * z

    z, one_map = torch.randn(3, 1, 1, 2, generator=seeded()), torch.full((1, 1, 1, 2), 0.5)
    assert torch.equal(weighted_answers(doubled, [(2.0, (z, one_map))]), 4 * z)
    terms = [(2.0, (z, one_map)), (-1.0, (z + 1, one_map))]
    assert torch.allclose(weighted_answers(doubled, terms), 2 * z - 2, atol=1e-6)
    weighted_answers(doubled, [(2.0, (z, one_map)), (-1.0, (z, one_map / 2))])
    assert asked == [(3, 1), (6, 1), (6, 6)]
    both = weighted_answers(doubled, [(1.0, (z, one_map)), (1.0, (z + 1, one_map))])
    assert torch.allclose(both, 4 * z + 2, atol=1e-6)


def test_a_smooth_world_has_the_length_that_was_asked_for():
    row = smooth_gaussian((1, 1, 4), length=2.0, white=0.25).cov[0]
    wanted = [1.0, *(0.75 * math.exp(-(d**2) / 8) for d in (1, 2, 3))]
    assert torch.allclose(row, torch.tensor(wanted, dtype=row.dtype), atol=1e-12)
