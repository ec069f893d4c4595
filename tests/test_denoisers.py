"""A denoiser knows its schedule: white noise stays white through every method and every wrapper."""

from functools import partial

import pytest
import torch

from asyncpatch.adaptive import posterior_variance
from asyncpatch.conventions import generators
from asyncpatch.denoisers import FACTS, Conditioned, CountCalls, Denoiser, fact, schedule_of
from asyncpatch.guidance import ClassGuidance, ConditionGuidance, InputGuidance
from asyncpatch.inpainting import Informed
from asyncpatch.joint import smooth_gaussian
from asyncpatch.methods import METHODS
from asyncpatch.schedules import cosine, linear_beta, rectified_flow

SIDE, COUNT = 5, 40
QUICK = {
    'native': dict(points=101),
    'supervised': dict(points=101),
    'rad': dict(points=101),
    'imputation': dict(points=101),
    'score_sde': dict(points=201, ratio=0.0),
    'repaint': dict(levels=60, jump=5, resamples=2, variance=1.0),
    'mcg': dict(points=101, strength=0.0),
    'dps': dict(points=101, strength=0.0),
    'ddrm': dict(points=101, eta=0.3),
    'ddnm': dict(levels=100, eta=0.0),
    'deqir': dict(levels=40, rounds=40),
    'mmps': dict(points=101),
    'tds': dict(points=101, particles=2),
    'lanpaint': dict(points=101, inner=1),
}


def white(schedule):
    "A network that is the perfect denoiser of white noise of variance 1, wrapped once."

    def net(z, t, label=None, condition=None):
        alpha, sigma = schedule(t)
        return alpha * z / (alpha**2 + sigma**2)

    return Denoiser(net, schedule, 'x0', classes=3)


def images():
    known = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    known[:, 0] = True
    x = torch.randn((COUNT, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(3))
    return x, known


def missing_variance(method, denoiser, **parameters):
    x, known = images()
    made = METHODS[method](denoiser, x, known, generator=7, **QUICK[method], **parameters)
    return made[..., ~known].var().item()


@pytest.mark.parametrize('schedule', [cosine, linear_beta], ids=lambda s: s.__name__)
@pytest.mark.parametrize('method', QUICK)
def test_white_noise_stays_white_under_the_denoisers_own_schedule(method, schedule):
    assert abs(missing_variance(method, white(schedule)) - 1) < 0.2


@pytest.mark.parametrize('method', QUICK)
def test_the_wrong_schedule_does_not_make_white_noise(method):
    "The negative control: a function that hides what the denoiser knows."
    known = white(cosine)
    hidden = lambda z, t, label=None, condition=None: known(z, t, label)
    assert missing_variance(method, hidden) < 0.75


@pytest.mark.parametrize('method', QUICK)
def test_another_schedule_is_refused(method):
    with pytest.raises(ValueError, match="schedule must be the denoiser's own, cosine"):
        missing_variance(method, white(cosine), schedule=rectified_flow)


def wrappers(denoiser):
    condition = torch.zeros(1, 2, SIDE, SIDE)
    yield 'counted', CountCalls(denoiser)
    yield 'restricted', CountCalls(denoiser).restrict(torch.arange(COUNT))
    yield 'prepared', CountCalls(denoiser).prepare((), torch.zeros(COUNT, 1, SIDE, SIDE))
    yield 'conditioned', Conditioned(denoiser, condition)
    yield 'input guidance', InputGuidance(denoiser, 1.5, noise=torch.zeros(1, 1, SIDE, SIDE))
    yield 'class guidance', ClassGuidance(denoiser, 0.0)
    yield 'condition guidance', ConditionGuidance(denoiser, condition, 1.0)
    yield 'both', InputGuidance(ClassGuidance(CountCalls(denoiser), 0.0), 0.0)
    yield 'partial', partial(denoiser)
    yield 'method', denoiser.__call__


@pytest.mark.parametrize('name', [name for name, _ in wrappers(white(cosine))])
def test_a_wrapped_denoiser_knows_what_the_denoiser_knows(name):
    denoiser = white(cosine)
    denoiser.about = {'data': 'white noise'}
    wrapped = dict(wrappers(denoiser))[name]
    assert schedule_of(wrapped) is cosine
    for what in FACTS:
        assert fact(wrapped, what) == fact(denoiser, what), what
    with pytest.raises(ValueError, match="schedule must be the denoiser's own"):
        schedule_of(wrapped, linear_beta)
    x, known = images()
    ask = partial(METHODS['native'], wrapped, x, known, points=61)
    made = ask(generator=generators(range(COUNT)))
    assert abs(made[..., ~known].var() - 1) < 0.25


def test_informed_and_the_posterior_variance_use_the_denoisers_schedule():
    oracle = smooth_gaussian((1, 3, 3), white=1.0, schedule=cosine)
    assert schedule_of(Informed(oracle)) is cosine
    t = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    alpha, sigma = cosine(t)
    z = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    variance = posterior_variance(oracle, z, t)
    torch.testing.assert_close(variance, (sigma**2).expand(variance.shape))
    with pytest.raises(ValueError, match="schedule must be the denoiser's own"):
        posterior_variance(oracle, z, t, schedule=rectified_flow)
