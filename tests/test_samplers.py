"""Samplers and guidance across modules: shapes that tempt broadcasting, networks in batches of
other sizes, denoisers of azula."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from asyncpatch import spatial
from asyncpatch.adapters import from_sigma, one_clock
from asyncpatch.conventions import generators
from asyncpatch.denoisers import CountCalls, Denoiser
from asyncpatch.guidance import ClassGuidance, ConditionGuidance, InputGuidance
from asyncpatch.joint import smooth_gaussian, toy_gaussian, toy_mixture
from asyncpatch.samplers import (
    ancestral_step,
    ddim_step,
    ddim_update,
    euler_step,
    heun_step,
    sample,
)
from asyncpatch.schedules import cosine, linear_beta, rectified_flow
from asyncpatch.tables import plan_tables
from asyncpatch.unet import UNet

STEPS = {'ddim': ddim_step, 'ancestral': ancestral_step, 'euler': euler_step, 'heun': heun_step}


def network(seed=0):
    "A small network with labels, at random weights."
    net, draw = UNet(1, 8, classes=5).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=draw) / max(1, p[0].numel()) ** 0.5)
    return Denoiser(net.double())


def start(shape, seed=0):
    "Images, and a mask for each in which the first pixel is never known."
    draw = torch.Generator().manual_seed(seed)
    x, known = (
        torch.randn(shape, generator=draw, dtype=torch.float64),
        torch.rand(shape[0], 1, *shape[2:], generator=draw) < 0.5,
    )
    known[:, :, 0, 0] = False
    return x, known


@pytest.mark.parametrize('step', STEPS.values(), ids=STEPS)
@pytest.mark.parametrize('points', [2, 4])
@pytest.mark.parametrize(
    'shape', [(4, 1, 4, 4), (4, 2, 3, 4), (3, 3, 5, 2), (1, 1, 1, 1), (2, 1, 1, 1), (5, 5, 1, 5)]
)
def test_an_image_is_what_it_is_alone(shape, points, step):
    """B equal to W, H unequal to W, one channel, one pixel, one step: no axis is taken for another,
    with and without guidance."""
    oracle, (x, known) = smooth_gaussian(shape[1:]), start(shape)
    maps = spatial.inpainting_maps(known, points).double()
    seeds = range(shape[0])
    wrap = lambda rows: InputGuidance(
        oracle,
        torch.arange(1.0, 1 + shape[0]).view(-1, 1, 1, 1)[rows],
        known[rows],
        0.5,
        generators([50 + i for i in rows]),
    )
    for denoiser in (lambda rows: oracle, wrap):
        together = sample(denoiser([*seeds]), maps, x=x, generator=generators(seeds), step=step)
        assert together.shape == shape and torch.equal(
            together[known.expand(shape)], x[known.expand(shape)]
        )
        for i in seeds:
            alone = sample(
                denoiser([i]),
                maps[:, i : i + 1],
                x=x[i : i + 1],
                generator=generators([i]),
                step=step,
            )
            torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-10, atol=1e-10)


def test_one_step_is_the_posterior_mean():
    oracle, (x, known) = smooth_gaussian((1, 3, 4)), start((2, 1, 3, 4))
    made = sample(
        oracle, spatial.inpainting_maps(known, 2).double(), x=x, generator=generators([0, 1])
    )
    assert torch.allclose(
        made,
        torch.stack([oracle.condition(image, mask).mean for image, mask in zip(x, known)]),
        atol=1e-10,
    )


@pytest.mark.parametrize('schedule', [rectified_flow, cosine], ids=['rectified', 'cosine'])
@pytest.mark.parametrize('stochasticity', [0.0, 0.25, 1.0])
def test_the_update_is_its_formula(schedule, stochasticity):
    """The coefficients against equation eq-step written out, at fields of times with pixels that
    stay, wait and arrive."""
    draw = torch.Generator().manual_seed(1)
    z, x0, xi = torch.randn(3, 2, 2, 3, 4, generator=draw, dtype=torch.float64)
    t = torch.rand(2, 1, 3, 4, generator=draw, dtype=torch.float64) * 0.9 + 0.1
    s = t * torch.rand(t.shape, generator=draw, dtype=torch.float64)
    t[:, :, 0] = torch.tensor([0.0, 1.0, 0.5, 1.0])
    s[:, :, 0] = torch.tensor([0.0, 1.0, 0.5, 0.0])
    moved = ddim_update(z, x0, t, s, xi, stochasticity, schedule)
    (at, st), (as_, ss) = schedule(t[:, :, 1:]), schedule(s[:, :, 1:])
    kappa = 1 - stochasticity * (1 - at * ss / (as_ * st))
    eps = (z[:, :, 1:] - at * x0[:, :, 1:]) / st
    torch.testing.assert_close(
        moved[:, :, 1:],
        as_ * x0[:, :, 1:] + ss * (kappa * eps + (1 - kappa**2).clamp(min=0).sqrt() * xi[:, :, 1:]),
        rtol=1e-12,
        atol=1e-12,
    )
    assert torch.equal(moved[:, :, 0, :3], z[:, :, 0, :3]) and torch.equal(
        moved[:, :, 0, 3], x0[:, :, 0, 3]
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=['single', 'double'])
@pytest.mark.parametrize(
    'schedule', [rectified_flow, cosine, linear_beta], ids=['rectified', 'cosine', 'linear beta']
)
@pytest.mark.parametrize(
    'step',
    [*STEPS.values(), partial(ddim_step, stochasticity=0.0), partial(ddim_step, stochasticity=1.3)],
    ids=[*STEPS, 'c = 0', 'c = 1.3'],
)
def test_what_stays_and_what_arrives_is_exact(step, schedule, dtype):
    """A map per image whose pixels wait, stop anywhere, never start or arrive at any moment:
    unmoved ones are the same bits, those that arrive are the posterior mean."""
    draw = torch.Generator().manual_seed(5)
    maps = (
        torch.rand(6, 4, 1, 9, 7, generator=draw, dtype=dtype)
        * (torch.rand(6, 4, 1, 9, 7, generator=draw) > 0.2)
    ).cumprod(0)
    maps[..., 0, :], maps[:3, :, :, 1], maps[2:5, :, :, 2] = 0, 1, maps[2, :, :, 2]
    maps[0, ..., 1:, :], maps[-1] = 1, 0
    maps, x, states = (
        maps.cummin(0).values,
        torch.randn(4, 2, 9, 7, generator=draw, dtype=dtype),
        [],
    )
    made = sample(
        lambda z, t, label=None: 0.3 * z + 0.1,
        maps,
        x=x,
        generator=generators(range(4)),
        step=step,
        schedule=schedule,
        callback=lambda i, z, x0, t: states.append((z, x0)),
    )
    for (before, _), (z, x0), t, s in zip(states, states[1:], maps[1:], maps[2:]):
        stay, arrive = (s == t).expand_as(z), ((s == 0) & (t > 0)).expand_as(z)
        assert (
            stay.any()
            and arrive.any()
            and torch.equal(z[stay], before[stay])
            and torch.equal(z[arrive], x0[arrive])
        )
    assert torch.equal(made[:, :, 0], x[:, :, 0])


def test_a_schedule_that_does_not_end_clean_arrives_all_the_same():
    never_clean = lambda t: (0.99 * (1 - t), 0.01 + 0.99 * t)
    z, x0, xi = torch.randn(3, 2, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    t, s = torch.full((1, 1, 2, 2), 0.3), torch.tensor([0.0, 0.3, 0.1, 0.0]).view(1, 1, 2, 2)
    moved = ddim_update(z, x0, t, s, xi, 0.25, never_clean).flatten(2)
    assert torch.equal(moved[..., [0, 3]], x0.flatten(2)[..., [0, 3]]) and torch.equal(
        moved[..., 1], z.flatten(2)[..., 1]
    )


def plan_of_groups(images, size, groups, seed):
    "Random clocks that never rise, one for each group of pixels; groups drawn anew for each image."
    draw = torch.Generator().manual_seed(seed)
    clocks = (
        torch.rand(6, groups, generator=draw, dtype=torch.float64).sort(0, descending=True).values
    )
    return clocks[:, torch.randint(groups, (images, 1, size, size), generator=draw)]


@pytest.mark.parametrize('images', [1, 3])
@pytest.mark.parametrize('groups', [1, 2, 5])
def test_the_tables_of_a_plan_are_its_clocks(images, groups):
    """Against numpy's sorting of columns: the same times at every level of the network, and no row
    too many."""
    maps = plan_of_groups(images, 8, groups, seed=groups)
    levels = [maps.flatten(0, 1), torch.nn.functional.avg_pool2d(maps.flatten(0, 1), 2)]
    clocks = np.unique(
        np.concatenate([level.reshape(6, -1).numpy() for level in levels], 1), axis=1
    )
    for point, table in enumerate(plan_tables(maps, 1)):
        assert table.values.shape == (images, clocks.shape[1])
        assert torch.equal(table.field(), maps[point])
        assert torch.equal(
            table._replace(index=table.inner[0]).field(), levels[1].view(6, images, 1, 4, 4)[point]
        )
        for level, rows in zip(levels, table.flat, strict=True):
            assert torch.equal(table.values.flatten()[rows], level.view(6, -1)[point])


@pytest.mark.parametrize('step', STEPS.values(), ids=STEPS)
@pytest.mark.parametrize('images', [1, 3])
def test_a_run_by_tables_is_the_run_by_fields(images, step):
    "To rounding; a table that belongs to another point of the plan makes another image."
    model, maps = network(), plan_of_groups(images, 8, 4, seed=1)
    maps[0], maps[-1] = 1, 0
    run = lambda denoiser: sample(
        denoiser,
        maps,
        (3, 1, 8, 8),
        label=torch.tensor([3, -1, 4]),
        generator=generators(range(3)),
        step=step,
    )

    class Late:
        "A denoiser whose hook gives the third map the table of the first."

        def prepare(self, maps, like):
            planned = model.net.prepare_plan(model, maps, like)
            planned.tables[id(maps[2])] = planned.tables[id(maps[0])]
            return planned

        __call__ = model.__call__

    by_tables = run(model)
    by_fields = run(lambda z, t, label=None: model(z, t, label))
    torch.testing.assert_close(by_tables, by_fields, rtol=1e-9, atol=1e-9)
    assert (run(Late()) - by_tables).abs().max() > 1e-6


def test_a_network_in_company_and_alone():
    "With a network the images agree to rounding, and only those that move are asked about."
    model, (x, _) = network(), start((3, 1, 8, 8))
    label = torch.tensor([3, 1, 4])
    turns = spatial.autoregressive(spatial.raster(8, 8, 4), 3)
    lower = (torch.arange(8) >= 4).view(1, 1, 8, 1).expand(1, 1, 8, 8)
    maps = torch.cat(
        [
            turns,
            spatial.hold(turns, lower),
            torch.cat([spatial.synchronous_maps(4, 8, 8), torch.zeros(9, 1, 1, 8, 8)]),
        ],
        1,
    ).double()
    guide = lambda counted, rows: InputGuidance(
        ClassGuidance(counted, 0.5), 1.0, time=0.8, generator=generators([70 + i for i in rows])
    )
    counted = CountCalls(model)
    together = sample(
        guide(counted, range(3)), maps, x=x, label=label, generator=generators(range(3))
    )
    assert counted.calls == 12  # one call a step
    questions = 0
    for i in range(3):
        single = CountCalls(model)
        alone = sample(
            guide(single, [i]),
            maps[:, i : i + 1],
            x=x[i : i + 1],
            label=label[i : i + 1],
            generator=generators([i]),
        )
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-8, atol=1e-8)
        questions += single.images
    # four questions where something is clean and something is not, two before: each image's own, no
    # more
    assert questions <= counted.images <= 4 * (12 + 6 + 3)


def test_the_guided_flow_is_its_differential_equation():
    """Two pixels of correlation 0.7, the first known: input guidance with weight 2 followed by
    Heun, against scipy's solution of the guided flow written by hand."""
    rho, weight, known = 0.7, 2.0, torch.tensor([True, False]).view(1, 1, 1, 2)
    x = torch.tensor([1.3, 0.0], dtype=torch.float64).view(1, 1, 1, 2)

    def mean(z, t, m, v):
        return m + v * (1 - t) * (z - (1 - t) * m) / ((1 - t) ** 2 * v + t**2)

    def velocity(t, z):
        return (
            z - (1 + weight) * mean(z, t, 1.3 * rho, 1 - rho**2) + weight * mean(z, t, 0.0, 1.0)
        ) / t

    for start in (-1.0, 0.3, 2.0):
        z, maps = (
            torch.where(known, x, start),
            spatial.inpainting_maps(known, spatial.time_grid(201, dtype=torch.float64)),
        )
        guided = InputGuidance(
            toy_gaussian(rho), weight, generator=torch.Generator().manual_seed(0)
        )
        for t, s in zip(maps[:-1], maps[1:]):
            z, _ = heun_step(guided, z, t, s)
        assert (
            abs(
                z[..., 1].item()
                - solve_ivp(velocity, (1, 1e-6), [start], rtol=1e-10, atol=1e-12).y[0, -1]
            )
            < 1e-3
        )


def test_some_images_without_a_class():
    """An oracle takes -1 for no class, as the networks do, so that class guidance of a mixed batch
    is one call."""
    oracle, draw = toy_mixture(), torch.Generator().manual_seed(6)
    z, t = (
        torch.randn(6, 1, 1, 2, generator=draw, dtype=torch.float64),
        0.05 + 0.9 * torch.rand(6, 1, 1, 2, generator=draw, dtype=torch.float64),
    )
    label, counted = torch.tensor([0, 1, 2, -1, 0, -1]), CountCalls(oracle)
    free = oracle(z, t)
    expected = torch.stack(
        [
            oracle(z[i : i + 1], t[i : i + 1], label[i : i + 1])[0] if label[i] >= 0 else free[i]
            for i in range(6)
        ]
    )
    torch.testing.assert_close(oracle(z, t, label), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        ClassGuidance(counted, 1.7)(z, t, label),
        2.7 * expected - 1.7 * free,
        rtol=1e-12,
        atol=1e-12,
    )
    assert (counted.calls, counted.images) == (1, 12)
    with pytest.raises(ValueError, match='must not be below -1'):
        oracle(z, t, label - 1)


@torch.no_grad()
def test_guidance_of_nothing_is_nothing():
    model = network()
    z, t, label = (
        torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double(),
        torch.full((1, 1, 1, 1), 0.5).double(),
        torch.tensor([1, 2]),
    )
    plain = model(z, t, label)
    for nothing in (
        ClassGuidance(model, 0.0),
        InputGuidance(model, 0.0),
        InputGuidance(model, 3.0),
        InputGuidance(ClassGuidance(model, 0.0), 0.0),
        ConditionGuidance(lambda z, t, label, y: model.net(z, t, label), z, 0.0),
    ):
        counted = CountCalls(nothing)
        assert torch.equal(counted(z, t, label), plain)
    torch.testing.assert_close(
        ClassGuidance(model, -1.0)(z, t, label), model(z, t, torch.full((2,), -1))
    )
    torch.testing.assert_close(model(z, t, torch.full((2,), -1)), model(z, t))  # -1 is no class


def test_the_condition_goes_with_the_image():
    "An image-conditioned network in a batch whose images leave at different steps."
    net = lambda z, t, label, y: 0.3 * z + 0.1 * t + y.mean(1, keepdim=True)
    y = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    ends = torch.cat(
        [
            torch.cat([spatial.synchronous_maps(n + 1, 4, 4), torch.zeros(8 - n, 1, 1, 4, 4)])
            for n in (2, 8, 5)
        ],
        1,
    )
    run = lambda rows: sample(
        ConditionGuidance(net, y[rows], 1.5),
        ends[:, rows],
        (len(rows), 1, 4, 4),
        generator=generators(rows),
    )
    together = run([0, 1, 2])
    for i in range(3):
        assert torch.equal(run([i]), together[i : i + 1])


def test_wrapped_denoisers_of_azula():
    """azula's exact Gaussian, asked at one time and in the world of exploding variance, is our
    oracle."""
    pytest.importorskip('azula')
    from azula.denoise import GaussianDenoiser
    from azula.linalg.covariance import FullCovariance
    from azula.noise import RectifiedSchedule, VESchedule

    ours = smooth_gaussian((1, 2, 3))
    z = torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    mean, cov = (
        torch.zeros(6, dtype=torch.float64),
        FullCovariance(*(lambda L, Q: (Q, L))(*torch.linalg.eigh(ours.cov))),
    )
    flat = lambda denoiser: lambda y, t: denoiser(y.flatten(1), t).mean.view(y.shape)
    straight = flat(GaussianDenoiser(mean, cov, RectifiedSchedule(alpha_min=0.0, sigma_min=0.0)))
    for t in (0.1, 0.5, 0.95):
        time = torch.full((1, 1, 1, 1), t, dtype=torch.float64)
        wrapped = Denoiser(lambda z, t, label: straight(z, one_clock(t)[0]), prediction='x0')
        torch.testing.assert_close(wrapped(z, time), ours(z, time), rtol=1e-9, atol=1e-9)
        exploding = VESchedule()
        log_ratio = torch.log(
            torch.tensor(exploding.sigma_max / exploding.sigma_min, dtype=torch.float64)
        )
        theirs = flat(GaussianDenoiser(mean, cov, exploding))
        wrapped = from_sigma(
            lambda y, sigma, label: theirs(
                y, torch.log(one_clock(sigma)[0] / exploding.sigma_min) / log_ratio
            )
        )
        torch.testing.assert_close(wrapped(z, time), ours(z, time), rtol=1e-9, atol=1e-9)
