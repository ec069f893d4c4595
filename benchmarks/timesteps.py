"""What a training law costs: each law's draw of 512 fields of 64x64, against uniform noise of the
same size.

    python benchmarks/timesteps.py [REPEATS]

All run on one core in this process, in turn, so the ratios are fair on a busy machine too.
"""

import statistics
import sys
import time

import torch

from asyncpatch.rival_laws import LAWS

SHAPE = (512, 64, 64)


def noise(n, height, width, generator):
    "The yardstick: one uniform number per pixel and nothing else."
    return torch.rand(n, 1, height, width, generator=generator)


def seconds(law, generator):
    start = time.perf_counter()
    law(*SHAPE, generator=generator)
    return time.perf_counter() - start


def main(repeats=9):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    laws = {'uniform noise': noise, **LAWS}
    for law in laws.values():
        seconds(law, generator)
    rounds = [{name: seconds(law, generator) for name, law in laws.items()} for _ in range(repeats)]
    print(
        f'{SHAPE[0]} fields of {SHAPE[1]}x{SHAPE[2]}, one core, {repeats} repeats: median '
        'milliseconds, and ratio to uniform noise: median (lowest to highest)'
    )
    for name in laws:
        ratios = [r[name] / r['uniform noise'] for r in rounds]
        print(
            f'{name:20}{1e3 * statistics.median(r[name] for r in rounds):9.1f} ms '
            f'{statistics.median(ratios):7.2f} ({min(ratios):.2f} to {max(ratios):.2f})'
        )


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
