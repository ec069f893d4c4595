"""What one network call tells about the likelihood bound: rules of `elbo` and `fluxes` against
uniform times with eq. 48.

    python benchmarks/elbo_estimators.py [IMAGES] [RUNS]

The data are smooth random images of known density and the denoiser is exact, so the truth of every
image is known. Each run gives every image one call. Printed for N = 16, 64, 256 tokens: the median
over the runs of the estimated bound and the 10% and 90% quantiles, in bits per dimension, and the
standard error of one call: the scatter of the runs times the root of the images. The naive rule has
infinite variance, so its scatter is what happened to occur, and its median is the number to look
at."""

import math
import statistics
import sys
from functools import partial

import torch

from asyncpatch.density import log_flux
from asyncpatch.elbo_estimator import bits_per_dimension, nll_bound, path_times
from asyncpatch.asyncpatch_bound import asyncpatch_times
from asyncpatch.fluxes import ordered_times, synchronous_times
from asyncpatch.joint import smooth_gaussian
from asyncpatch.paths import token_times


def naive_times(n, tokens, eps=1e-3, generator=None):
    "Uniform times, weighted by eq. 48: unbiased, and useless."
    h = torch.empty(n, tokens, dtype=torch.float64).exponential_(generator=generator)
    return token_times(h, eps), (log_flux(h, 1.0, eps) + tokens * math.log(1 - 2 * eps)).exp()


RULES = {
    'uniform times, eq. 48': (naive_times, 0.0),
    'path_times': (path_times, 0.0),
    'path_times + reference': (path_times, 0.1),
    'path_times, k = 1/4': (partial(path_times, shape=0.25), 0.1),
    'synchronous_times': (synchronous_times, 0.1),
    'ordered_times': (ordered_times, 0.1),
    'asyncpatch_times': (asyncpatch_times, 0.1),
}


def scatter(side, rule, reference, images, runs):
    "Estimates of `runs` runs, in bits per dimension above the truth of the very images."
    data, generator = smooth_gaussian((1, side, side)), torch.Generator().manual_seed(side)
    x = data.sample(images, generator)
    truth = -data.log_prob(x).mean().item() / (side**2 * math.log(2))
    return [
        bits_per_dimension(
            nll_bound(data, x, rule=rule, reference=reference, passes=1, generator=generator)
        ).bits
        - truth
        for _ in range(runs)
    ]


if __name__ == '__main__':
    images, runs = (int(value) for value in (sys.argv[1:] + ['64', '20'][len(sys.argv) - 1 :]))
    torch.set_num_threads(1)
    print(
        f'{images} images a run, {runs} runs; bound minus truth in bits per dimension (0 is right)'
    )
    print(f"{'N':>4}  {'rule':<24}{'10%':>9}{'median':>9}{'90%':>9}{'se of one call':>16}")
    for side in (4, 8, 16):
        for name, (rule, reference) in RULES.items():
            values = sorted(scatter(side, rule, reference, images, runs))
            low, high = values[runs // 10], values[-1 - runs // 10]
            middle, error = statistics.median(values), statistics.stdev(values) * images**0.5
            print(
                f'{side**2:>4}  {name:<24}{low:>9.3f}{middle:>9.3f}{high:>9.3f}{error:>16.2f}',
                flush=True,
            )
