"Regret of real networks among the garments: another oracle, one spoiled use, quadrature."

import math

import pytest
import torch

from asyncpatch.draws import draws
from asyncpatch.garments import garments
from asyncpatch.learning_curves import after
from asyncpatch.masks import square
from asyncpatch.proper_scores import crossed_mean
from asyncpatch.regret import (
    T_END,
    answers,
    behind,
    draw_exam,
    draw_led_exam,
    hurried,
    in_order,
    mark,
    nats_weight,
    regret,
    together,
)
from asyncpatch.spatial import raster
from asyncpatch.weights import load

SIDE, COUNT = 14, 60
WINDOW = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
WINDOW[..., 4:10, 4:10] = True


@pytest.fixture(scope='module')
def world():
    return garments('garments14')


@pytest.fixture(scope='module')
def network():
    return load(after('garments14', 'asyncpatch', 0, 2000))


@pytest.fixture(scope='module')
def papers(world):
    seen = draws(world, 'held_out')[torch.arange(COUNT)]
    uses = {
        'synchronous': together(SIDE, SIDE),
        'square': behind(square, SIDE, SIDE),
        'outpainting': together(SIDE, SIDE, WINDOW),
        'raster': in_order(raster(SIDE, SIDE)),
    }
    chance = torch.Generator().manual_seed(0)
    exams = {name: draw_exam(world, use, seen.x, seen.label, chance) for name, use in uses.items()}
    rule = hurried(world.posterior_variance, 4)
    exams['led'] = draw_led_exam(world, rule, 4, seen.x, seen.label, chance)
    return exams


def test_the_exact_denoiser_loses_nothing_on_any_use(world, papers):
    for exam in papers.values():
        marks = regret({'exact': world}, exam)['exact']
        assert marks.nats.max() < 1e-4 and marks.weighted.max() < 1e-4


def test_exact_answers_are_those_of_a_dense_oracle_in_double_precision(papers):
    "The oracle's low-rank algebra plays no part in the second computation."
    precise = garments('garments14', torch.float64)
    for exam in papers.values():
        for i in (0, 17, 33):
            dense = precise.of_class(int(exam.label[i])).dense()
            found = dense(exam.z[i : i + 1].double(), exam.t[i : i + 1].double())
            apart = (found - exam.exact[i]) ** 2
            nats = (nats_weight(exam, precise.schedule)[i].double() * apart).sum()
            assert nats < 1e-3  # beside some 50 nats that a network loses


def test_a_network_that_is_spoiled_on_one_use_loses_more_on_that_use_only(network, papers):
    def spoiled(z, t, label=None):
        x0 = network(z, t, label)
        outside = (t == 0).flatten(1) == WINDOW.flatten()
        return torch.where(outside.all(1).view(-1, 1, 1, 1), 0.9 * x0, x0)

    spoiled.schedule = network.schedule
    for name, exam in papers.items():
        both = regret({'sound': network, 'spoiled': spoiled}, exam)
        more = both['spoiled'].nats - both['sound'].nats
        assert (more.mean() > 1) if name == 'outpainting' else (more == 0).all()


def test_the_estimate_is_the_integral(world, network):
    "Against quadrature in log t: the same pictures and noise at each of 24 places."
    seen = draws(world, 'held_out')[torch.arange(40)]
    by_place = []
    for place in (torch.arange(24) + 0.5) / 24:
        t = torch.full((40, 1, SIDE, SIDE), T_END ** place.item())
        noise = torch.randn(seen.x.shape, generator=torch.Generator().manual_seed(1))
        z = (1 - t) * seen.x + t * noise
        with torch.no_grad():
            error = (network(z, t, seen.label) - world(z, t, seen.label)) ** 2
        density = (1 - t) / t**3 * t * -math.log(T_END)
        by_place.append((density * error).sum((1, 2, 3)))
    integral = crossed_mean(torch.stack(by_place).mean(0))
    chance, many = torch.Generator().manual_seed(2), draws(world, 'held_out')[torch.arange(400)]
    exam = draw_exam(world, together(SIDE, SIDE), many.x, many.label, chance)
    estimate = crossed_mean(mark(answers(network, exam), exam, network.schedule).nats)
    assert abs(estimate.mean - integral.mean) < 4.5 * math.hypot(estimate.error, integral.error)
