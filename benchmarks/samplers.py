"""What the sampler itself costs: `sample` with a denoiser that does nothing, against a plain DDIM
with one time in Python floats that draws the same noise, and against a step of the smallest network
that ships.

    python benchmarks/samplers.py [REPEATS]

All run on one core in this process, in turn. The fastest repeat says what the code costs, the
median of the ratios, in brackets, what it costs on this machine with all else that was going on:
caches are shared, and a map per image fills them."""

import platform
import statistics
import sys
import time

import torch

from asyncpatch import spatial
from asyncpatch.denoisers import Denoiser
from asyncpatch.samplers import sample
from asyncpatch.unet import UNet

SHAPES = ((64, 1, 8, 8), (64, 3, 32, 32), (8, 3, 64, 64))
STEPS = 249  # the default: a grid of 250 points


def silent(z, t, label=None):
    "The denoiser that costs nothing: it returns what it is given."
    return z


def scalar_ddim(shape, generator, c=0.25, steps=STEPS):
    "The sampler as one writes it for one time: floats for the coefficients, the same noise."
    z = torch.randn(shape, generator=generator)
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        x0, noise = silent(z, t), torch.randn(shape, generator=generator)
        kappa = 1 - c * (1 - (1 - t) * s / ((1 - s) * t))
        z = (
            ((1 - s) - kappa * s * (1 - t) / t) * x0
            + kappa * s / t * z
            + s * max(0, 1 - kappa**2) ** 0.5 * noise
        )
    return z


def plans(shape):
    "One time; one map for all, half of it known; a map for every image."
    known = torch.rand(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(0)) < 0.5
    return {
        'one time': spatial.synchronous_maps(STEPS + 1),
        'one map': spatial.inpainting_maps(known[:1], STEPS + 1),
        'a map per image': spatial.inpainting_maps(known, STEPS + 1),
    }


def per_step(function, steps=STEPS):
    start = time.process_time()
    function()
    return (time.process_time() - start) / steps


def compare(shape, repeats):
    "Seconds per step of the scalar loop and of `sample` under each plan, for each repeat."
    x, generator = torch.zeros(shape), torch.Generator().manual_seed(0)
    runs = {'scalar loop': lambda: scalar_ddim(shape, generator)}
    runs |= {
        name: (lambda maps: lambda: sample(silent, maps, x=x, generator=generator))(maps)
        for name, maps in plans(shape).items()
    }
    for run in runs.values():
        run()
    return [{name: per_step(run) for name, run in runs.items()} for _ in range(repeats)]


def network_step(repeats):
    """Seconds of one call of a network of the size of digits-asyncpatch for 64 images, one time for
    all: the cheapest there is."""
    network, (z, t) = (
        Denoiser(UNet(1, 16, (1, 2), (1, 1), 1, classes=10).eval()),
        (torch.zeros(SHAPES[0]), torch.full((1, 1, 1, 1), 0.5)),
    )
    with torch.no_grad():
        return [
            per_step(lambda: network(z, t, torch.zeros(len(z), dtype=torch.long)), 1)
            for _ in range(repeats + 3)
        ][3:]


def main(repeats=15):
    torch.set_num_threads(1)
    print(
        f'torch {torch.__version__}, {platform.machine()}, one core, {repeats} repeats of '
        f'{STEPS} steps: microseconds a step and ratio to the scalar loop, fastest repeat '
        '[median repeat]'
    )
    for shape in SHAPES:
        rounds = compare(shape, repeats)
        for name in rounds[0]:
            times, scalar = ([r[one] for r in rounds] for one in (name, 'scalar loop'))
            print(
                f'{str(shape):18}{name:18}{1e6 * min(times):8.0f} us '
                f'[{1e6 * statistics.median(times):5.0f}] {min(times) / min(scalar):7.2f} '
                f'[{statistics.median(a / b for a, b in zip(times, scalar)):.2f}]'
            )
        if shape == SHAPES[0]:
            network = statistics.median(network_step(repeats))
            for name in list(rounds[0])[1:]:
                share = 100 * statistics.median(r[name] for r in rounds) / network
                call = f'a call of the network ({1e3 * network:.1f} ms)'
                print(f'{"":18}{name:18}{share:9.1f} % of {call}')


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
