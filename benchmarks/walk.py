"""The monotone walk two ways: exponential clocks (one sort) against the Markov chain of eq. 14,
step by step.

    python benchmarks/walk.py [REPEATS]

Both run on one core in this process, alternating, so the ratio is fair on a busy machine too. A
chain of more than 20,000 steps is timed on its first 20,000 and scaled up; its steps all cost the
same."""

import statistics
import sys
import time

import numpy as np
import torch

from asyncpatch.walks import sample_environment, walk

LONGEST = 20_000


def chain(alpha, K, steps, generator):
    "The first `steps` moves of the walk, drawn one by one from eq. 14."
    left, moves = np.full(len(alpha), K), np.empty(steps, dtype=np.int64)
    for m in range(steps):
        weight = (alpha * left).cumsum()
        moves[m] = i = weight.searchsorted(generator.random() * weight[-1], side='right')
        left[i] -= 1
    return moves


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compare(N, K, repeats):
    "Seconds of one whole walk by the chain and by the clocks, for each repeat."
    alpha, steps = (
        sample_environment(1, N, generator=torch.Generator().manual_seed(N))[0],
        min(N * K, LONGEST),
    )
    rng, generator = np.random.default_rng(N), torch.Generator().manual_seed(N)
    walk(alpha, K, generator)
    return [
        (
            seconds(chain, alpha.numpy(), K, steps, rng) * N * K / steps,
            seconds(walk, alpha, K, generator),
        )
        for _ in range(repeats)
    ]


def main(repeats=5):
    torch.set_num_threads(1)
    print(
        f'{"tokens":>7} {"ticks":>6} {"steps":>9} {"chain":>20} {"clocks":>22} '
        f'{"ratio, median (range)":>28}'
    )
    for N, K in ((2, 256), (16, 256), (256, 256), (1024, 256), (4096, 256)):
        chains, clocks = zip(*compare(N, K, repeats))
        ratios = [a / b for a, b in zip(chains, clocks)]
        scaled = 'scaled' if N * K > LONGEST else 'whole'
        print(
            f'{N:7,} {K:6,} {N * K:9,} {statistics.median(chains):11.4f} s {scaled:>6} '
            f'{statistics.median(clocks):20.5f} s '
            f'{statistics.median(ratios):14.0f} ({min(ratios):.0f} to {max(ratios):.0f})'
        )


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
