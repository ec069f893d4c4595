"""Other packages' DDRM and RePaint against ours, on data whose conditional law is known.

    make compare

Each package makes N samples of the unknown pixels, with the exact denoiser in the place of the
network. What they should be follows from our own steps, as exact mean and covariance (`propagate`),
for the very walk of the package. In coordinates in which that law is standard normal, every entry
of the mean and of the covariance of the samples has a known standard error; `z` is the largest
deviation in standard errors. The log, compare.md beside this file, is kept."""

import importlib.metadata
import io
import platform
import re
import time
import types
import warnings
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import torch
from torch import nn

from asyncpatch.conventions import randn
from asyncpatch.inpainting import repaint, repaint_step
from asyncpatch.inverse_problems import ddrm_step
from asyncpatch.joint import Gaussian, smooth_gaussian, toy_gaussian
from asyncpatch.moments import propagate
from asyncpatch.spatial import synchronous_maps, time_grid

N, HERE = {'pair': 10_000, 'cloud': 2_000}, Path(__file__).parent


def maps_of(points, x):
    "Times for images that run by one clock, (points, 1, 1, 1, 1)."
    return synchronous_maps(time_grid(points, dtype=torch.promote_types(x.dtype, torch.float32)))


# -- what is compared on ---------------------------------------------------------------------------


def problems():
    """Name, law of the data, an image, what is known of it: two pixels, and a smooth image with its
    right half missing."""
    first = torch.tensor([True, False]).reshape(1, 1, 1, 2)
    yield (
        'pair',
        toy_gaussian(0.8),
        torch.tensor([1.5, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2),
        first,
    )
    cloud = smooth_gaussian((1, 3, 4))
    yield (
        'cloud',
        cloud,
        cloud.sample(1, torch.Generator().manual_seed(3)),
        (torch.arange(4) < 2).expand(1, 1, 3, 4),
    )


def with_schedule(oracle, schedule):
    return Gaussian(oracle.mean, oracle.cov, schedule)


def of_hole(law, known):
    mean, cov = law
    hole = (~known).flatten()
    return mean.flatten()[hole], cov[hole][:, hole]


def largest_z(values, law):
    """Largest deviation of the mean and covariance of samples (n, d) from a normal law, in standard
    errors."""
    (mean, cov), n = law, len(values)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(cov), (values - mean).T, upper=False
    ).T
    spread = (white.T @ white / n - torch.eye(len(mean))) * n**0.5
    spread.diagonal().div_(2**0.5)
    return max((white.mean(0) * n**0.5).abs().max().item(), spread.abs().max().item())


# -- deepinv: DDRM ---------------------------------------------------------------------------------


def exploding(t):
    return torch.ones_like(t), t


def our_ddrm(oracle, x, known, eta, points=100):
    "Exact law of our DDRM on deepinv's grid of noise levels."
    maps = torch.linspace(1, 0, points, dtype=torch.float64).view(-1, 1, 1, 1, 1) * (
        1 - 1e-12
    )  # below 1: the start knows what is known
    step = partial(ddrm_step, x=x, known=known, eta=eta)
    return of_hole(
        propagate(
            with_schedule(oracle, exploding),
            maps,
            x=torch.where(known, x, 0),
            step=step,
            schedule=exploding,
        ),
        known,
    )


def deepinv_ddrm(oracle, x, known, n, eta, undo_root):
    import deepinv
    from deepinv.sampling import diffusion

    exact = with_schedule(oracle, exploding)
    physics = deepinv.physics.Inpainting(
        mask=known.double(), img_size=x.shape[1:], noise_model=deepinv.physics.GaussianNoise(1e-6)
    )
    numpy = diffusion.np
    torch.manual_seed(0)
    if undo_root:
        diffusion.np = types.SimpleNamespace(
            sqrt=lambda value: 1.0 if value == 2.0 else numpy.sqrt(value),
            linspace=numpy.linspace,
            random=numpy.random,
        )
    try:
        made = diffusion.DDRM(
            lambda z, sigma: exact(z, torch.as_tensor(sigma, dtype=z.dtype)), eta=eta
        )(torch.where(known, x, 0).expand(n, *x.shape[1:]).clone(), physics)
    finally:
        diffusion.np = numpy
    return made.flatten(1)[:, (~known).flatten()]


# -- diffusers: RePaint ----------------------------------------------------------------------------


def table_of(scheduler, steps):
    "Our schedule with the noise levels of theirs: level k of `steps` is their index k - 1."
    every = scheduler.config.num_train_timesteps // steps
    alpha = torch.cat([torch.ones(1), scheduler.alphas_cumprod[::every]]).double().sqrt()

    def schedule(t):
        level = (t * steps).round().long()
        return alpha.to(t)[level], (1 - alpha**2).sqrt().to(t)[level]

    return schedule


def levels_of(timesteps):
    "The levels that the loop of their pipeline goes through."
    walk, last = [timesteps[0] + 1], timesteps[0] + 1
    for t in timesteps:
        walk.append(t if t < last else last + 1)
        last = t
    return walk


def diffusers_repaint(oracle, x, known, n, trained, steps, jump, resamples):
    """Samples, the exact law of our steps on their walk, with their climb, and of our RePaint; and
    the number of calls."""
    from diffusers import RePaintScheduler

    scheduler = RePaintScheduler(
        num_train_timesteps=trained,
        beta_start=0.1 / trained,
        beta_end=20 / trained,
        clip_sample=False,
        eta=1.0,
    )
    scheduler.set_timesteps(steps, jump, resamples)
    schedule, every, draw = (
        table_of(scheduler, steps),
        trained // steps,
        torch.Generator().manual_seed(0),
    )
    exact = with_schedule(oracle, schedule)
    image, last, calls = (
        torch.randn((n, *x.shape[1:]), generator=draw, dtype=torch.float64),
        scheduler.timesteps[0] + 1,
        0,
    )
    for t in scheduler.timesteps:  # the loop of RePaintPipeline
        if t < last:
            level = torch.tensor((t.item() // every + 1) / steps, dtype=torch.float64)
            alpha, sigma = schedule(level)
            eps, calls = (image - alpha * exact(image, level)) / sigma, calls + 1
            image = scheduler.step(
                eps, t, image, x.expand_as(image), known.double(), generator=draw
            ).prev_sample
        else:
            image = scheduler.undo_step(image, last, generator=draw)
        last = t
    times, walk = (
        maps_of(steps + 1, x).flip(0),
        levels_of([t // every for t in scheduler.timesteps.tolist()]),
    )
    assert sum(b < a for a, b in zip(walk, walk[1:])) == calls and walk[-1] == 0
    plan = lambda i, z, x0: times[walk[i]] if i < len(walk) else None
    step, kept = (
        partial(repaint_step, x=x, known=known),
        (1 - scheduler.betas.double()).unfold(0, every, every).prod(1),
    )

    def their_step(denoiser, z, t, s, generator, label, schedule):
        # climbs by betas[t], ..., betas[t + every - 1]
        # where betas[t - every + 1], ..., betas[t] lead there
        if bool((s < t).all()):
            return step(denoiser, z, t, s, generator, label, schedule=schedule)
        a = kept[(t * steps).round().long()]
        return a.sqrt() * z + (1 - a).sqrt() * randn(z.shape, generator, dtype=z.dtype), None

    of = lambda step: of_hole(
        propagate(exact, plan, x=torch.where(known, x, 0), step=step, schedule=schedule), known
    )
    ours = repaint(
        exact,
        x,
        known,
        levels=steps,
        jump=jump,
        resamples=resamples,
        schedule=schedule,
        run=propagate,
    )
    return (
        image.flatten(1)[:, (~known).flatten()],
        of(step),
        of(their_step),
        of_hole(ours, known),
        calls,
    )


# -- azula: RePaint --------------------------------------------------------------------------------


def azula_repaint(oracle, x, known, n, steps, iterations):
    from azula.denoise import Denoiser, DiracPosterior
    from azula.guidance import RePaintSampler
    from azula.noise import RectifiedSchedule

    schedule = RectifiedSchedule()
    exact = with_schedule(oracle, schedule)

    class Oracle(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule = schedule

        def forward(self, x_t, t, **kwargs):
            return DiracPosterior(mean=exact(x_t, t))

    torch.manual_seed(0)
    sampler = RePaintSampler(
        Oracle(),
        y=x.expand(n, *x.shape[1:]),
        mask=known,
        iterations=iterations,
        steps=steps,
        eta=1.0,
        silent=True,
        dtype=torch.float64,
    )
    made = sampler(sampler.init((n, *x.shape[1:]), dtype=torch.float64))
    times = maps_of(steps + 1, x).flip(0)
    walk = [steps] + [
        level for s in range(steps - 1, -1, -1) for level in [s] + [s + 1, s] * (iterations - 1)
    ]
    plan = lambda i, z, x0: times[walk[i]] if i < len(walk) else None
    theirs = propagate(
        exact,
        plan,
        x=torch.where(known, x, 0),
        step=partial(repaint_step, x=x, known=known),
        schedule=schedule,
    )
    ours = repaint(
        exact,
        x,
        known,
        levels=steps,
        jump=1,
        resamples=iterations,
        schedule=schedule,
        run=propagate,
    )
    return (
        made.flatten(1)[:, (~known).flatten()],
        of_hole(theirs, known),
        of_hole(ours, known),
        steps * iterations,
    )


# -- lucidrains: RePaint ---------------------------------------------------------------------------


def lucidrains_repaint(x, known, n, scale=0.15, levels=250):
    """Its network is asked for x0 and clipped to [-1, 1], so the pair is made small; returned in
    the units of the pair."""
    from denoising_diffusion_pytorch.repaint import GaussianDiffusion

    class Oracle(nn.Module):
        channels, out_dim, self_condition, random_or_learned_sinusoidal_cond = 1, 1, False, False

        def forward(self, z, t, cond=None):
            return exact(z.double(), (t[:1].double() + 1) / levels).float()

    diffusion = GaussianDiffusion(
        Oracle(), image_size=(1, 2), timesteps=levels, objective='pred_x0', beta_schedule='linear'
    )
    alpha = torch.cat([torch.ones(1), diffusion.alphas_cumprod]).double().sqrt()

    def schedule(t):
        level = (t * levels).round().long()
        return alpha[level], (1 - alpha**2).sqrt()[level]

    pair = toy_gaussian(0.8)
    exact = Gaussian(pair.mean, pair.cov * scale**2, schedule)
    torch.manual_seed(0)
    with redirect_stderr(io.StringIO()):
        made = diffusion.p_sample_loop(
            (n, 1, 1, 2), gt=((scale * x + 1) / 2).float(), mask=known.float()
        )
    mean, cov = repaint(
        exact,
        scale * x,
        known,
        levels=levels,
        jump=3,
        resamples=1,
        schedule=schedule,
        run=propagate,
    )
    return (made.double() * 2 - 1).flatten(1)[:, 1:] / scale, of_hole(
        (mean / scale, cov / scale**2), known
    )


# -- the log ---------------------------------------------------------------------------------------


def shown(mean, sd, n=None):
    if len(mean) > 1:
        return ''
    return (
        f'{mean[0]:.3f}{f" ± {sd[0] / n**0.5:.3f}" if n else ""}, '
        f'{sd[0]:.3f}{f" ± {sd[0] / (2 * n) ** 0.5:.3f}" if n else ""}'
    )


def row(package, data, values, predicted, reading, calls):
    mean, cov = predicted
    z, limit = largest_z(values, predicted), 4.5
    return [
        package,
        data,
        f'{calls:,}',
        shown(values.mean(0), values.std(0), len(values)),
        shown(mean, cov.diagonal().sqrt()),
        f'{z:.1f}',
        reading,
        'yes' if z < limit else '**no**',
    ], z


def tried(name):
    "Whether a package imports, or what it says."
    try:
        __import__(name)
        return 'imports'
    except Exception as error:
        return f'`{type(error).__name__}: {re.sub(r" [(]/.*[)]$", "", str(error).splitlines()[0])}`'


def main():
    warnings.simplefilter('ignore')
    started, rows, failures = time.perf_counter(), [], []

    def add(package, data, values, predicted, reading, calls, agrees=True):
        cells, z = row(package, data, values, predicted, reading, calls)
        rows.append(cells)
        print(' | '.join(cells), flush=True)
        if agrees is not None and (z < 4.5) != agrees:
            failures.append(
                f'{package}, {data}: z = {z:.1f}, expected '
                f'{"agreement" if agrees else "a difference"}'
            )

    for data, oracle, x, known in problems():
        n = N[data]
        for eta in (0.85, 1.0) if data == 'pair' else (0.85,):
            mean, cov = our_ddrm(oracle, x, known, eta)
            as_is, mended = (
                deepinv_ddrm(oracle, x, known, n, eta, undo_root) for undo_root in (False, True)
            )
            add(f'deepinv DDRM, η = {eta}', data, as_is, (mean, cov), 'our DDRM', 100, agrees=False)
            add(
                f'deepinv DDRM, η = {eta}',
                data,
                as_is,
                (mean, cov / 2),
                'our DDRM, its covariance halved',
                100,
            )
            add(
                f'deepinv DDRM, η = {eta}, without its two √2',
                data,
                mended,
                (mean, cov),
                'our DDRM',
                100,
            )
        for trained, jump, resamples in (
            ((50, 1, 1), (50, 5, 5), (1000, 5, 5)) if data == 'pair' else ((50, 5, 5),)
        ):
            values, on_walk, with_climb, ours, calls = diffusers_repaint(
                oracle, x, known, n, trained, 50, jump, resamples
            )
            name, whole = (
                f'diffusers RePaint, 50 of {trained} steps, jump {jump}, {resamples} samples',
                trained == 50,
            )
            add(
                name,
                data,
                values,
                ours,
                'our RePaint',
                calls,
                agrees=whole if resamples == 1 else None,
            )
            if resamples > 1:
                add(name, data, values, on_walk, 'our steps on its walk', calls, agrees=whole)
            if not whole:
                add(name, data, values, with_climb, 'our steps on its walk, with its climb', calls)
        for iterations in (1, 10) if data == 'pair' else (10,):
            values, on_walk, ours, calls = azula_repaint(oracle, x, known, n, 30, iterations)
            add(
                f'azula RePaint, 30 steps, {iterations} iterations',
                data,
                values,
                on_walk,
                'our steps on its walk',
                calls,
            )
            add(
                f'azula RePaint, 30 steps, {iterations} iterations',
                data,
                values,
                ours,
                'our RePaint, jump 1',
                calls,
                agrees=None,
            )
        if data == 'pair':
            values, ours = lucidrains_repaint(x, known, n)
            add(
                'denoising-diffusion-pytorch RePaint',
                data,
                values,
                ours,
                'our RePaint, no resampling',
                250 + 6 * 30,
                agrees=False,
            )
    write(rows, time.perf_counter() - started)
    for line in failures:
        print('UNEXPECTED', line)
    return bool(failures)


def write(rows, seconds):
    packages = ['deepinv', 'diffusers', 'azula', 'denoising-diffusion-pytorch', 'torch']
    versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in packages)
    table = [
        '| package, setting | data | calls | theirs: mean, sd | predicted: mean, sd | z | '
        'predicted by | agree |',
        '|:--|:--|--:|:--|:--|--:|:--|:--|',
        *('| ' + ' | '.join(cells) + ' |' for cells in rows),
    ]
    text = f'''# Other packages against ours

Written by `make compare` ({versions}; Python {platform.python_version()}, {seconds:.0f} s).
{N["pair"]:,} samples of the pair, {N["cloud"]:,} of a smooth 3 × 4 image with its right half
missing (its means and spreads are too many to print). `z` is the largest deviation of mean and
covariance from the prediction, in standard errors. The truth for the pair is mean 1.2, standard
deviation 0.6.

{chr(10).join(table)}

`import spatialreasoners`: {tried('spatialreasoners')}.
'''
    (HERE / 'compare.md').write_text(text)


if __name__ == '__main__':
    raise SystemExit(main())
