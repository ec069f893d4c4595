"""Our step against azula's (an independent library), fed the same field of times; its RePaint, its
moment matching and its twisted particles against ours."""

from functools import partial

import pytest
import torch

pytest.importorskip('azula')
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance import RePaintSampler
from azula.guidance.mmps import MMPSDenoiser
from azula.guidance.tds import TDSSampler
from azula.linalg.covariance import IsotropicCovariance
from azula.noise import CosineSchedule, RectifiedSchedule
from azula.sample import DDIMSampler

from asyncpatch.exact_limits import Particles, moment_matched, propose
from asyncpatch.inpainting import pose, repaint_step
from asyncpatch.joint import smooth_gaussian, toy_gaussian, toy_mixture
from asyncpatch.moments import propagate
from asyncpatch.samplers import ddim_step, noise_ratio
from asyncpatch.spatial import time_grid


class Oracle(Denoiser):
    "One of our exact denoisers, as azula wants it."

    def __init__(self, oracle):
        super().__init__()
        self.oracle, self.schedule = oracle, oracle.schedule

    def forward(self, x_t, t, **kwargs):
        return DiracPosterior(mean=self.oracle(x_t, t))


def fields(seed=0):
    """Noisy images, and two fields of times: a pixel of each image stays, the others move by their
    own amount."""
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(3, 2, 3, 4, generator=draw, dtype=torch.float64)
    t = 0.05 + 0.95 * torch.rand(3, 1, 3, 4, generator=draw, dtype=torch.float64)
    s = t * (0.1 + 0.8 * torch.rand(3, 1, 3, 4, generator=draw, dtype=torch.float64))
    t[:, :, 0, 0], s[:, :, 1, 1] = 1.0, t[:, :, 1, 1]
    return z, t, s


def both(schedule, stochasticity, seed=0):
    "The same step from us and from azula, with the same noise."
    z, t, s = fields(seed)
    oracle = smooth_gaussian((2, 3, 4), schedule=schedule)
    r = noise_ratio(t, s, schedule)
    kappa = 1 - stochasticity * (1 - r)
    eta = torch.where(
        s == t, 0.0, (1 - kappa**2) / (1 - r**2)
    )  # azula writes kappa^2 = 1 - eta (1 - r^2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        theirs = DDIMSampler(Oracle(oracle), eta=eta).step(z, t, s)
        torch.manual_seed(7)
        ours, _ = ddim_step(oracle, z, t, s, stochasticity=stochasticity, schedule=schedule)
    return ours, theirs, eta, (z, t, s)


@pytest.mark.parametrize(
    'schedule', [RectifiedSchedule(), CosineSchedule()], ids=['rectified', 'cosine']
)
@pytest.mark.parametrize('stochasticity', [0.0, 0.25, 1.0])
def test_the_same_step(schedule, stochasticity):
    ours, theirs, _, _ = both(schedule, stochasticity)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_our_coefficient_is_not_their_eta():
    """c = 0 is eta = 0 and c = 1 is eta = 1; between, eta depends on the step, and in small steps
    it is c (Song's eta is its root)."""
    for c in (0.0, 1.0):
        _, _, eta, (z, t, s) = both(RectifiedSchedule(), c)
        torch.testing.assert_close(eta[s != t], torch.full_like(eta[s != t], c), rtol=0, atol=1e-12)
    t = torch.tensor(0.5, dtype=torch.float64)
    r = noise_ratio(t, t - 1e-4, RectifiedSchedule())
    assert abs((1 - (1 - 0.25 * (1 - r)) ** 2) / (1 - r**2) - 0.25) < 1e-4
    ours, _, _, (z, t, s) = both(RectifiedSchedule(), 0.25)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        theirs = DDIMSampler(
            Oracle(smooth_gaussian((2, 3, 4), schedule=RectifiedSchedule())), eta=0.25
        ).step(z, t, s)
    assert (ours - theirs).abs().max() > 1e-2


def test_pixels_that_stay_are_exact_with_us():
    ours, theirs, _, (z, t, s) = both(RectifiedSchedule(), 1.0)
    stay = (s == t).expand_as(z)
    assert torch.equal(ours[stay], z[stay])
    torch.testing.assert_close(theirs[stay], z[stay], rtol=1e-12, atol=1e-12)


def repaint_law(oracle, x, known, walk, levels):
    """Exact mean and standard deviation of the unknown pixel under our steps of RePaint along a
    walk over the levels."""
    times = time_grid(levels + 1, dtype=torch.float64).flip(0).view(-1, 1, 1, 1, 1)
    plan = lambda i, z, x0: times[walk[i]] if i < len(walk) else None
    mean, cov = propagate(
        oracle, plan, x=x, step=partial(repaint_step, x=x, known=known), schedule=oracle.schedule
    )
    return mean[..., 1].item(), cov[1, 1].item() ** 0.5


def test_its_repaint_makes_the_law_of_our_steps():
    """azula takes each step `iterations` times, from s back up to t, the last included: our steps
    along its walk, in law; not along a walk without."""
    n, levels, iterations, oracle = 8000, 20, 3, toy_gaussian(0.8, RectifiedSchedule())
    x, known = (
        torch.tensor([1.5, 0.0], dtype=torch.float64).view(1, 1, 1, 2),
        torch.tensor([True, False]).view(1, 1, 1, 2),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        sampler = RePaintSampler(
            Oracle(oracle),
            y=x.expand(n, 1, 1, 2),
            mask=known,
            iterations=iterations,
            steps=levels,
            eta=1.0,
            silent=True,
            dtype=torch.float64,
        )
        made = sampler(sampler.init((n, 1, 1, 2), dtype=torch.float64))[..., 1]

    def deviation(walk):
        mean, sd = repaint_law(oracle, x, known, walk, levels)
        return max(
            abs(made.mean().item() - mean) / sd * n**0.5,
            abs(made.var().item() / sd**2 - 1) * (n / 2) ** 0.5,
        )

    walk = [levels] + [
        level for s in range(levels - 1, -1, -1) for level in [s] + [s + 1, s] * (iterations - 1)
    ]
    assert deviation(walk) < 4.5
    assert deviation(list(range(levels, -1, -1))) > 20


@pytest.mark.parametrize('rounds', [1, 3])
@pytest.mark.parametrize('law', [smooth_gaussian((2, 3, 4)), None], ids=['gaussian', 'mixture'])
def test_moments_are_matched_as_azula_matches_them(law, rounds):
    "The same posterior mean after as many rounds of conjugate gradients; not after another number."
    oracle = toy_mixture() if law is None else law
    draw = torch.Generator().manual_seed(1)
    z, x = torch.randn(2, 1, *oracle.shape, generator=draw, dtype=torch.float64)
    known = torch.rand(1, 1, *oracle.shape[1:], generator=draw) < 0.6
    known[..., 0] = True
    t = torch.tensor(0.4, dtype=torch.float64)
    ours = moment_matched(oracle, z, t, None, x, known, 0.1, rounds)
    pick = known.expand_as(x)
    size = IsotropicCovariance(torch.tensor(0.01, dtype=torch.float64))
    azula = MMPSDenoiser(
        Oracle(oracle), x[pick], lambda v: v[pick], size, solver='cg', iterations=rounds
    )
    torch.testing.assert_close(ours, azula(z, t).mean, rtol=1e-8, atol=1e-8)
    if pick.sum() > rounds:
        other = moment_matched(oracle, z, t, None, x, known, 0.1, rounds + 1)
        assert (other - ours).abs().max() > 1e-4


def test_particles_move_and_are_weighted_as_azulas():
    "One step of many particles from one place: the law of the move, and every weight."
    oracle, count, noise = toy_mixture(), 20000, 0.1
    t, s = (torch.tensor(v, dtype=torch.float64) for v in (0.6, 0.5))
    z = torch.tensor([0.3, -0.4], dtype=torch.float64).view(1, 1, 1, 2).expand(count, 1, 1, 2)
    known = torch.tensor([True, False]).view(1, 1, 1, 2)
    x = torch.tensor([0.6, 0.0], dtype=torch.float64).view(1, 1, 1, 2)

    def twist(x_hat, level):
        variance = noise**2 + level**2 / (1 + level**2)
        normal = torch.distributions.Normal(x_hat[..., :1], variance.sqrt())
        return normal.log_prob(torch.full_like(x_hat[..., :1], 0.6))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        carry = {}
        theirs = TDSSampler(Oracle(oracle), twist, steps=1).step(z, t, s, carry)
    cloud = one_cloud(oracle, x, known, noise, count)
    x0, log_twist, slope = cloud.twist(z, t.view(1, 1, 1, 1))
    ours, log_ratio = propose(cloud, z, x0, slope, t.view(1, 1, 1, 1), s.view(1, 1, 1, 1))
    error = 4.5 * ours.std(0) / count**0.5
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 1.5 * error).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.03, atol=0)
    assert slope.abs().max() > 0.1  # the twist does push
    fit = lambda moved, weight: (
        torch.linalg.lstsq(
            torch.cat([moved.flatten(1), torch.ones(count, 1)], 1), weight[:, None]
        ).solution
    )  # both log-weights are linear in where a particle went
    weight = log_ratio - log_twist + half_log_two_pi()
    torch.testing.assert_close(fit(ours, weight), fit(theirs, carry['log_w']), rtol=1e-6, atol=1e-6)


def half_log_two_pi():
    "What our twist leaves out of a normal density of one number, on both ends of a step."
    return 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))


def one_cloud(oracle, x, known, noise, count):
    "The particles of `tds` for one image."
    problem = pose(oracle, x, known, None, torch.Generator().manual_seed(4))
    return Particles(oracle, problem, count, noise)
