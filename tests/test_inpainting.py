"""The inpainting methods against independent formulas, and the slips that were published about them
(each with its control)."""

import math

import pytest
import torch

from asyncpatch.adapters import from_sigma
from asyncpatch.conventions import generators
from asyncpatch.denoisers import CountCalls, Denoiser, masked_condition
from asyncpatch.exact_comparison import oracle_comparison
from asyncpatch.inpainting import Informed, rad
from asyncpatch.inverse_problems import ddnm, ddnm_step, ddrm_step, deqir, mcg, mcg_step
from asyncpatch.joint import smooth_gaussian, toy_gaussian, toy_mixture
from asyncpatch.methods import METHODS, measure
from asyncpatch.schedules import cosine, rectified_flow

ONE_CLOCK = {
    'imputation': dict(points=21),
    'repaint': dict(levels=12, jump=3, resamples=2),
    'mcg': dict(points=21),
    'ddrm': dict(points=21),
    'ddnm': dict(levels=20, eta=1.0),
}


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(batch=2, seed=0):
    "Noisy images, images, a mask, all different in the batch and none square."
    draw = draws(seed)
    z, x = torch.randn(2, batch, 2, 3, 4, generator=draw, dtype=torch.float64)
    return z, x, torch.rand(batch, 1, 3, 4, generator=draw) < 0.5


def time(value):
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


class Witness:
    "A denoiser that answers 1 everywhere and remembers times and images."

    def __init__(self):
        self.times, self.shown = [], []

    def __call__(self, z, t, label=None):
        self.times.append(t.unique().item())
        self.shown.append(z.detach().clone())
        return 1 + 0 * z


# -- what the network is shown of the known pixels -------------------------------------------------


def shown_noise(name, late=0, power=1, **parameters):
    """Noise of the known pixels in each call but the first, (calls, pixels): standard normal if
    level and strength are right."""
    known = (torch.arange(64) < 32).expand(1, 1, 64, 64)
    METHODS[name](
        witness := Witness(),
        torch.full((1, 1, 64, 64), 2.0, dtype=torch.float64),
        known,
        generator=draws(1),
        **parameters,
    )
    later = list(zip(witness.times[1:][late:], witness.shown[1:]))
    return torch.stack([(image[..., :32] - (1 - t) * 2).flatten() / t**power for t, image in later])


def worst(noise):
    "Largest of the standard errors of mean, variance and correlation with the next call."
    size = noise.shape[1]
    return max(
        (noise.mean(1) * size**0.5).abs().max(),
        ((noise.var(1) - 1) * ((size - 1) / 2) ** 0.5).abs().max(),
        ((noise[1:] * noise[:-1]).mean(1) * size**0.5).abs().max(),
    ).item()


@pytest.mark.parametrize('name', ONE_CLOCK)
def test_known_pixels_are_at_the_level_of_the_rest(name):
    """E.8 (a), (b) and deepinv's root of two: level, strength, freshness. DDNM keeps its noise
    unless eta is 1, so it is run with that."""
    noise = shown_noise(name, **ONE_CLOCK[name])
    assert worst(noise) < 4.5
    assert (
        worst(shown_noise(name, late=1, **ONE_CLOCK[name])) > 20
    )  # one level beside, as in MCG's own code
    assert worst(shown_noise(name, power=2, **ONE_CLOCK[name])) > 20  # sigma^2 for sigma
    assert worst(noise / 2**0.5) > 15  # the root of two


def test_no_noise_is_used_twice():
    "E.8 (e): what unknown pixels receive in a step is not what the known ones have."
    for name, parameters in ONE_CLOCK.items():
        known = (torch.arange(64) < 32).expand(1, 1, 64, 64)
        METHODS[name](
            witness := Witness(),
            torch.zeros(1, 1, 64, 64, dtype=torch.float64),
            known,
            generator=draws(2),
            **parameters,
        )
        for image in witness.shown[1:]:
            left, right = image[..., :32].flatten(), image[..., 32:].flatten()
            assert abs(torch.corrcoef(torch.stack([left, right]))[0, 1]) * 2048**0.5 < 5


def test_resampling_happens_where_the_walk_is():
    """E.8 (c), (d): RePaint and DDNM ask at the levels of the walk, and are shown what the climb
    has made."""
    for name, parameters in (
        ('repaint', dict(levels=12, jump=3, resamples=3)),
        ('ddnm', dict(levels=12, travel=3, repeats=3)),
    ):
        METHODS[name](
            witness := Witness(),
            torch.zeros(1, 1, 8, 8, dtype=torch.float64),
            torch.zeros(1, 1, 8, 8, dtype=torch.bool),
            generator=draws(),
            **parameters,
        )
        levels = [round(t * 12) for t in witness.times]
        assert (
            levels[:8] == [12, 11, 10, 9, 8, 10, 9, 8]
            and levels[-1] == 1
            and len(levels) == 12 + 3 * 2 * 3
        )
        assert all((a - b).abs().max() > 0.01 for a, b in zip(witness.shown, witness.shown[1:]))


# -- one step against formulas written down independently ------------------------------------------


@pytest.mark.parametrize('eta, eta_known', [(0.85, 1.0), (0.3, 0.6), (1.0, 0.0)])
@pytest.mark.parametrize('schedule', [rectified_flow, cosine])
def test_ddrm_step_is_the_published_one(schedule, eta, eta_known):
    """In the coordinates of the paper, x + sigma noise, with an official step per kind of pixel
    (noiseless measurement)."""
    z, x, known = scene()
    oracle, t, s = smooth_gaussian((2, 3, 4), schedule=schedule), time(0.7), time(0.4)
    made, x0 = ddrm_step(
        oracle, z, t, s, draws(3), schedule=schedule, x=x, known=known, eta=eta, eta_known=eta_known
    )
    (at, st), (as_, ss) = schedule(t), schedule(s)
    noise, level, after = torch.randn(z.shape, generator=draws(3), dtype=z.dtype), st / at, ss / as_
    missing = x0 + (1 - eta**2) ** 0.5 * after * (z / at - x0) / level + eta * after * noise
    seen = (1 - eta_known) * x0 + eta_known * x + after * noise
    torch.testing.assert_close(
        made, as_ * torch.where(known, seen, missing), rtol=1e-10, atol=1e-10
    )


def test_ddnm_step_keeps_the_noise_of_the_uncorrected_answer():
    z, x, known = scene()
    oracle, t, s, eta = smooth_gaussian((2, 3, 4)), time(0.7), time(0.4), 0.6
    made, x0 = ddnm_step(oracle, z, t, s, draws(3), x=x, known=known, eta=eta)
    noise, mended = (
        torch.randn(z.shape, generator=draws(3), dtype=z.dtype),
        torch.where(known, x, x0),
    )
    predicted = lambda answer: (
        0.6 * mended + 0.4 * (eta * noise + (1 - eta**2) ** 0.5 * (z - 0.3 * answer) / 0.7)
    )
    torch.testing.assert_close(made, predicted(x0), rtol=1e-10, atol=1e-10)
    assert (made - predicted(mended)).abs().max() > 0.01
    up, x0 = ddnm_step(oracle, z, s, t, draws(3), x=x, known=known, eta=eta)
    torch.testing.assert_close(up, 0.3 * x0 + 0.7 * noise, rtol=1e-10, atol=1e-10)
    assert (x0 - torch.where(known, x, x0)).abs().max() > 0.1


def test_mcg_pushes_by_the_gradient_of_a_norm_per_image():
    """For a linear denoiser x0 = A z the gradient is known; one norm over the batch (as azula's DPS
    has it) would be another."""
    z, x, known = scene()
    A = torch.randn(24, 24, generator=draws(5), dtype=torch.float64) / 5
    linear = lambda z, t, label=None: (z.flatten(1) @ A.T).view_as(z)
    step = lambda **parameters: mcg_step(
        linear, z, time(0.7), time(0.4), draws(3), x=x, known=known, **parameters
    )[0]
    misfit = torch.where(known, linear(z, None) - x, 0.0).flatten(1)
    slope = (misfit / misfit.norm(dim=1, keepdim=True) @ A).view_as(z)
    pushed = step(strength=0.0) - step(strength=2.0)
    torch.testing.assert_close(pushed, torch.where(known, 0.0, 2 * slope), rtol=1e-10, atol=1e-10)
    joint = (misfit / misfit.norm() @ A).view_as(z)
    assert (pushed - torch.where(known, 0.0, 2 * joint)).abs().max() > 0.01


def test_mcg_leaves_no_graph_and_no_gradients_behind():
    z, x, known = scene()
    net = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    made = mcg(lambda z, t, label=None: net(z), x, known, generator=draws(), points=5)
    assert not made.requires_grad and all(parameter.grad is None for parameter in net.parameters())
    with pytest.raises(ValueError, match='denoiser must be differentiable'):
        mcg(torch.no_grad()(lambda z, t, label=None: net(z)), x, known, points=5)


def test_mcg_where_the_misfit_is_zero():
    "The slope of a norm at 0 is taken as 0: nothing is pushed, nothing is NaN."
    z, x, known = scene()
    made = mcg(
        lambda z, t, label=None: torch.where(known, x, 0.0) + 0 * z,
        x,
        known,
        generator=draws(),
        points=5,
    )
    assert bool(made.isfinite().all())


# -- DeqIR -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('schedule', [rectified_flow, cosine])
def test_deqir_is_serial_ddnm(schedule):
    oracle, (_, x, known) = smooth_gaussian((2, 3, 4), schedule=schedule), scene(3)
    walked = ddnm(
        oracle, x, known, generator=generators([1, 2, 3]), levels=12, eta=0.0, schedule=schedule
    )
    for memory, rounds in ((1, 12), (5, 40)):
        solved = deqir(
            oracle,
            x,
            known,
            generator=generators([1, 2, 3]),
            levels=12,
            rounds=rounds,
            memory=memory,
            tolerance=1e-10,
            schedule=schedule,
        )
        torch.testing.assert_close(solved, walked, rtol=0, atol=1e-7)
    early = deqir(
        oracle, x, known, generator=generators([1, 2, 3]), levels=12, rounds=2, schedule=schedule
    )
    assert (early - walked).abs().max() > 0.01
    assert torch.equal(early.masked_select(known), x.masked_select(known))


def test_deqir_converges_image_by_image():
    """An easy image stops early and leaves the batch; in company it is the same image, to rounding.
    Labels go with their images."""
    oracle, first = toy_mixture(), torch.tensor([True, False]).reshape(1, 1, 1, 2)
    x = torch.tensor([-1.5, 0.4, 1.2], dtype=torch.float64).view(3, 1, 1, 1).repeat(1, 1, 1, 2)
    label = torch.tensor([0, 2, 1])
    together = measure(
        'deqir', oracle, x, first, label, generators([5, 6, 7]), tolerance=1e-3, rounds=30
    )
    for i in range(3):
        alone = measure(
            'deqir',
            oracle,
            x[i : i + 1],
            first,
            label[i : i + 1],
            generators([5 + i]),
            tolerance=1e-3,
            rounds=30,
        )
        torch.testing.assert_close(alone.images, together.images[i : i + 1], rtol=0, atol=1e-9)
        assert alone.rounds <= together.rounds and alone.calls == 25 * alone.rounds
    assert together.calls < 25 * together.rounds


# -- RAD and the supervised network ----------------------------------------------------------------


def test_rad_asks_only_for_what_its_network_was_trained_on():
    "Known pixels at 0, the others at one time: a state of the Perlin law with b = 0."
    _, x, known = scene()

    def careful(z, t, label=None):
        t = t.expand(len(z), 1, 3, 4)
        assert bool((t[known] == 0).all()) and all(
            len(t[i][~known[i]].unique()) == 1 for i in range(len(z))
        )
        assert torch.equal(z.masked_select(known), x.masked_select(known))
        return 0.8 * z

    assert measure(rad, careful, x, known, generator=draws()).calls == 100


def test_supervised_tells_the_network_image_and_mask():
    _, x, known = scene()
    hidden, told = torch.where(known, x, math.nan), []

    def net(z, t, label=None, condition=None):
        told.append((t.shape, condition))
        return 0 * z

    made = measure(
        'supervised', Denoiser(net, prediction='x0'), hidden, known, generator=draws(), points=7
    )
    assert made.calls == 6 and torch.equal(made.images, torch.where(known, x, 0.0))
    for shape, condition in told:
        assert shape == (2, 1, 1, 1)  # one clock
        assert torch.equal(condition[:, :2], torch.where(known, x, 0.0)) and torch.equal(
            condition[:, 2:], known.double()
        )


def test_informed_is_the_posterior_mean_given_the_condition():
    """Against the law of the data given what is known, itself asked at one time: noise on known
    pixels carries no news."""
    oracle, (z, x, known) = smooth_gaussian((2, 3, 4)), scene(1)
    answer = Informed(oracle)(z, time(0.6), None, masked_condition(x, known))
    torch.testing.assert_close(
        answer,
        oracle.condition(x[0], known[0])(torch.where(known, 0.4 * x, z), time(0.6)),
        rtol=1e-8,
        atol=1e-8,
    )
    assert (answer - oracle(z, time(0.6))).abs().max() > 0.1


# -- prices and judgement --------------------------------------------------------------------------


def test_a_price_counts_images_calls_and_gradients():
    _, x, known = scene()
    made = measure(mcg, lambda z, t, label=None: 0.8 * z, x, known, generator=draws(), points=9)
    assert (made.calls, made.gradients, made.rounds) == (8, 8, 8) and made.seconds > 0
    counted = CountCalls(lambda z, t, label=None: z)
    counted(torch.zeros(5, 1, 1, 2), torch.zeros(1))
    assert (counted.images, counted.calls, counted.gradients) == (5, 1, 0)
    with pytest.raises(ValueError, match='method must be one of native'):
        measure('lama', None, x, known)


def test_oracle_comparison_knows_the_truth_from_a_lie():
    """A method that draws from the exact conditional law scores zero to its floor; with twice the
    noise, KL(N(m, 4C) | N(m, C)) is closed."""
    pair, first = toy_gaussian(0.8), torch.tensor([True, False]).reshape(1, 1, 1, 2)
    x = torch.tensor([1.5, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    truth = pair.condition(x[0], first[0])

    def drawn(stretch):
        def method(denoiser, x, known, label=None, generator=None):
            made = truth.sample(len(x), generator)
            return truth.mean + stretch * (made - truth.mean)

        return method

    METHODS.update(exact=drawn(1.0), wide=drawn(2.0))
    try:
        exact, wide = oracle_comparison(pair, x, first, [('exact', {}), ('wide', {})], n=4000)
    finally:
        del METHODS['exact'], METHODS['wide']
    assert (
        exact['distance'] < 0.06
        and exact['kl'] < 3 / 4000**0.5 * 0.05 + 1e-3
        and abs(exact['log_prob_gap']) < 4.5 * (0.5 / 4000) ** 0.5
    )
    assert (
        abs(wide['distance'] - 1) < 0.06
        and abs(wide['kl'] - (3 - math.log(4)) / 2) < 0.1
        and abs(wide['log_prob_gap'] + 1.5) < 0.15
    )


def test_many_images_with_their_own_masks_and_seeds():
    "Batch equal to width, a mask for each, a seed for each: the same images one by one."
    oracle, (_, x, known) = smooth_gaussian((2, 3, 4)), scene(4)
    for name, method in METHODS.items():
        denoiser = Informed(oracle) if name == 'supervised' else oracle
        parameters = (
            {'points': 9}
            if name
            in ('native', 'supervised', 'rad', 'imputation', 'mcg', 'dps', 'score_sde')
            + ('mmps', 'tds', 'lanpaint')
            else {'levels': 9}
            if name in ('repaint', 'ddnm', 'deqir')
            else {}
        )
        together = method(denoiser, x, known, generator=generators(range(4)), **parameters)
        alone = torch.cat(
            [
                method(
                    denoiser,
                    x[i : i + 1],
                    known[i : i + 1],
                    generator=generators([i]),
                    **parameters,
                )
                for i in range(4)
            ]
        )
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-7)


# -- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('schedule', [rectified_flow, cosine])
def test_a_network_that_takes_the_logarithm_of_sigma_inpaints(schedule):
    "At known pixels sigma is 0 and the network says NaN; pixels that stay are not its business."

    def net(y, sigma, label=None):
        return y / (1 + (2 * sigma.log()).exp()) + 0 * sigma.log()

    known = torch.tensor([True, False]).view(1, 2)
    denoiser, x = from_sigma(net, schedule), torch.full((500, 1, 1, 2), 0.7)
    assert net(torch.zeros(1), torch.zeros(1)).isnan()  # negative control: it does say NaN
    for name in ('native', 'rad', 'imputation'):
        made = METHODS[name](denoiser, x, known, generator=0, points=60)
        assert torch.equal(made[..., 0], x[..., 0])
        assert abs(made[..., 1].var() - 1) < 0.2


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_times_have_the_precision_of_the_images(dtype):
    _, x, known = scene()
    for name in ('native', 'rad', 'imputation', 'ddrm'):
        METHODS[name](witness := Clock(), x.to(dtype), known, generator=draws(), points=8)
        expected = torch.linspace(1, 0, 8, dtype=dtype)[:-1]
        assert torch.equal(torch.stack(witness.times), expected)


class Clock:
    "A denoiser that remembers the latest time it was asked at."

    def __init__(self):
        self.times = []

    def __call__(self, z, t, label=None):
        self.times.append(t.max())
        return 0 * z
