"""Every claim of speed as a ratio in one run: `make bench`; `benchmarks/bench.json` is its record.

    python benchmarks/bench.py [--repeats N] [--out FILE] [SECTION ...]

Measured on one core, in this process, as processor time, each beside its yardstick and by turns
(`throughput.paired`): medians of ratios with an interval that holds the true median in 95 per cent.

- `networks`: our UNet beside those of diffusers, lucidrains, azula and spatialreasoners
- `clocks`: what times of their own cost pixels, in training, in evaluation and in sampling
- `samplers`: ours, a loop written by hand, and those of diffusers and azula, without a network
- `laws`: fields of training times, against uniform noise
- `exact`: the exact denoiser of garments, against a call of the network that is trained on them
- `growth`: milliseconds over pixels, batch, tokens and ticks
- `profile`: the share of this machine's rate that a training step reaches, and where the rest goes
- `memory`: what a step or a run adds to the memory of a fresh process

Where a record lies already, ratios that have changed by more than a tenth, with intervals that do
not meet, are marked in the new one. Run it on a quiet machine. deepinv's inpainting methods have
an environment of their own: `make compare`.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import cpu_share
import many_clocks
import samplers
import throughput
import torch
from throughput import HERE, SHAPES, built, evaluate, in_peers_environment, machine, paired, train

from asyncpatch import spatial
from asyncpatch.denoisers import Denoiser
from asyncpatch.garments import garments
from asyncpatch.laws import asyncpatch
from asyncpatch.rival_laws import LAWS
from asyncpatch.samplers import sample
from asyncpatch.unet import UNet
from asyncpatch.walks import sample_environment, walk

GARMENTS = dict(channels=1, base=16, multipliers=(1, 2, 4), blocks=(1, 1, 1), middle=1, classes=10)
STEPS = 49


def networks(repeats):
    "Peers' networks against ours with one time per image."
    found = {}
    for title, shape in SHAPES.items():
        made, errors = built(shape)
        z = torch.randn(shape['batch'], shape['channels'], shape['size'], shape['size'])
        t = torch.rand(shape['batch'])
        evaluations = {name: partial(evaluate, call, z, t) for name, (_, call) in made.items()}
        trainings = {name: partial(train, net, call, z, t) for name, (net, call) in made.items()}
        found[f'{title}, evaluation'] = paired(evaluations, 'ours', repeats)
        found[f'{title}, training'] = paired(trainings, 'ours', repeats)
        for name, error in errors.items():
            print(f'{name} was not measured: {error}')
    return found


def clocks(repeats):
    "Times of their own against one time per image, for the network of digits."
    found = many_clocks.measure('digits', repeats, alone=True)
    return {f'digits, {work}': found[work] for work in ('training', 'evaluation', 'sampling')}


def azula_sampler(shape):
    "azula's DDIM with a denoiser that does nothing."
    from azula.denoise import Denoiser as Base
    from azula.denoise import DiracPosterior
    from azula.noise import RectifiedSchedule
    from azula.sample import DDIMSampler

    class Silent(Base):
        def __init__(self):
            super().__init__()
            self.schedule = RectifiedSchedule()

        def forward(self, x_t, t, **_):
            return DiracPosterior(mean=x_t)

    sampler = DDIMSampler(Silent(), steps=STEPS, eta=0.25, silent=True)
    return lambda: sampler(torch.randn(shape))


def diffusers_sampler(shape):
    "diffusers' DDIM with a denoiser that does nothing."
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(STEPS)

    def run():
        z = torch.randn(shape)
        for t in scheduler.timesteps:
            z = scheduler.step(z, t, z, eta=0.25).prev_sample

    return run


def sampler_loops(repeats):
    "Samplers without a network, against the loop that one writes for one time."
    found = {}
    for shape in ((64, 1, 28, 28), (8, 3, 64, 64)):
        known = torch.rand(shape[0], 1, *shape[2:]) < 0.5
        plans = {
            'ours, one time': spatial.synchronous_maps(STEPS + 1),
            'ours, one map': spatial.inpainting_maps(known[:1], STEPS + 1),
            'ours, a map per image': spatial.inpainting_maps(known, STEPS + 1),
        }
        x, chance = torch.zeros(shape), torch.Generator().manual_seed(0)
        run = partial(sample, samplers.silent, x=x, generator=chance)
        works = {'by hand': partial(samplers.scalar_ddim, shape, chance, steps=STEPS)}
        works |= {title: partial(run, maps=plan) for title, plan in plans.items()}
        for title, make in {'diffusers': diffusers_sampler, 'azula': azula_sampler}.items():
            try:
                works[title] = make(shape)
                works[title]()
            except Exception as error:
                works.pop(title, None)
                print(f'{title} was not measured: {type(error).__name__}: {error}')
        found[f'{STEPS} steps, {" x ".join(map(str, shape))}'] = paired(works, 'by hand', repeats)
    net, x, label = Denoiser(UNet(**GARMENTS).eval()), torch.zeros(64, 1, 28, 28), torch.arange(64)
    run = partial(sample, maps=spatial.synchronous_maps(5), x=x, label=label % 10)
    works = {'with the network of garments': partial(run, net)}
    works['with none'] = partial(run, samplers.silent)
    found['4 steps, 64 garments'] = paired(works, 'with the network of garments', repeats)
    return found


def laws(repeats):
    "512 fields of 64 x 64 by every law, against as many uniform numbers."
    chance = torch.Generator().manual_seed(0)
    works = {'uniform numbers': lambda: torch.rand(512, 1, 64, 64, generator=chance)}
    works |= {name: partial(law, 512, 64, 64, generator=chance) for name, law in LAWS.items()}
    return {'512 fields of 64 x 64': paired(works, 'uniform numbers', repeats)}


def exact(repeats):
    "Posterior means of 64 garments, against a call of the network that is trained on them."
    world, net, label = garments(), UNet(**GARMENTS).eval(), torch.arange(64) % 10
    z, fields = torch.randn(64, 1, 28, 28), asyncpatch(64, 28, 28).clamp(0.05, 0.95)

    def of(denoiser, t, label=None):
        return partial(evaluate, lambda z, t: denoiser(z, t, label), z, t)

    works = {
        'network, a field each': of(net, fields, label),
        'exact, class given, one field': of(world, fields[:1], label),
        'exact, class given, a field each': of(world, fields, label),
        'exact, no class, one field': of(world, fields[:1]),
    }
    return {'64 garments': paired(works, 'network, a field each', repeats)}


def milliseconds(work, repeats):
    "The median time of some work after one that warms up."
    work()
    seconds = sorted(throughput.processor_seconds(work) for _ in range(repeats))
    return 1e3 * seconds[len(seconds) // 2]


def growth(repeats):
    "Milliseconds as one size grows and the others stay."
    net, world = Denoiser(UNet(**GARMENTS).eval()), garments()
    repeats = max(3, repeats // 3)

    def call(n, side):
        t, z = asyncpatch(n, side, side), torch.randn(n, 1, side, side)
        return partial(evaluate, net, z, t)

    def walked(tokens, ticks):
        chance = torch.Generator().manual_seed(0)
        alpha = sample_environment(1, tokens, generator=chance)[0]
        return partial(walk, alpha, ticks, chance)

    def means(n):
        z, t = torch.randn(n, 1, 28, 28), asyncpatch(1, 28, 28).clamp(0.05, 0.95)
        return partial(evaluate, lambda z, t: world(z, t, torch.arange(n) % 10), z, t)

    curves = {
        'network, pixels on a side (8 images)': {s: call(8, s) for s in (8, 16, 32, 64, 128)},
        'network, images (28 x 28)': {n: call(n, 28) for n in (1, 4, 16, 64, 256)},
        'exact denoiser, images (28 x 28)': {n: means(n) for n in (1, 4, 16, 64, 256)},
        'walk, ticks K (256 tokens)': {k: walked(256, k) for k in (16, 64, 256, 1024, 4096)},
        'walk, tokens N (256 ticks)': {n: walked(n, 256) for n in (16, 64, 256, 1024, 4096)},
    }
    return {
        title: {size: milliseconds(work, repeats) for size, work in works.items()}
        for title, works in curves.items()
    }


def profile(repeats):
    "Operations, share of the machine's rate and the three largest losses of a training step."
    best, found = cpu_share.rates(max(3, repeats // 3)), {}
    for title, shape in SHAPES.items():
        net, call = throughput.ours_per_pixel(**shape)
        z = torch.randn(shape['batch'], shape['channels'], shape['size'], shape['size'])
        work = partial(train, net, call, z, torch.rand(shape['batch']))
        counted, taken = cpu_share.operations_of(work), milliseconds(work, repeats)
        ideal = sum(count / best[kind][0] for kind, count in counted.items())
        losses = cpu_share.largest_losses(work)
        found[title] = dict(milliseconds=taken, share=1e3 * ideal / taken, losses=losses)
    rates = {kind: rate for kind, (rate, _) in best.items()}
    return dict(rates=rates, steps=found)


def memory_of(what):
    "Run in a process of its own: mebibytes that some work adds to what the imports have taken."
    net, z = UNet(**GARMENTS), torch.randn(64, 1, 28, 28)
    label, world = torch.arange(64) % 10, garments()
    many = torch.randn(256, 1, 28, 28)
    works = {
        'training step, one time, 64 garments': lambda: train(
            net, lambda z, t: net(z, t, label), z, torch.rand(64, 1, 1, 1)
        ),
        'training step, a field each, 64 garments': lambda: train(
            net, lambda z, t: net(z, t, label), z, asyncpatch(64, 28, 28)
        ),
        'sampling 64 garments, network': lambda: sample(
            Denoiser(net.eval()), spatial.synchronous_maps(5), x=z, label=label
        ),
        'sampling 256 garments, exact': lambda: sample(
            world, spatial.synchronous_maps(5), x=many, label=torch.arange(256) % 10
        ),
    }
    if what is None:
        return list(works)
    Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
    before = status('VmRSS')
    works[what]()
    return (status('VmHWM') - before) / 1024


def status(name):
    "A number of /proc/self/status, in kibibytes."
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def memory(repeats):
    "Mebibytes that a step or a run adds, each in a fresh process."
    found = {}
    for what in memory_of(None):
        call = [sys.executable, __file__, '--memory-of', what]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        found[what] = float(done.stdout.split()[-1])
    return found


SECTIONS = dict(
    networks=networks,
    clocks=clocks,
    samplers=sampler_loops,
    laws=laws,
    exact=exact,
    growth=growth,
    profile=profile,
    memory=memory,
)
RATIOS = ('networks', 'clocks', 'samplers', 'laws', 'exact')


def changes(new, old):
    "Ratios that have changed by more than a tenth, with intervals that do not meet."
    found = []
    for section in RATIOS:
        for title, rows in new.get(section, {}).items():
            for name, row in rows.items():
                before = old.get(section, {}).get(title, {}).get(name)
                if before is None:
                    continue
                apart = row['low'] > before['high'] or row['high'] < before['low']
                if apart and not 1 / 1.1 < row['ratio'] / before['ratio'] < 1.1:
                    which = 'slower' if row['ratio'] > before['ratio'] else 'faster'
                    found.append(
                        dict(
                            section=section,
                            title=title,
                            name=name,
                            before=before['ratio'],
                            now=row['ratio'],
                            which=which,
                        )
                    )
    return found


def report(section, found):
    "Say what was measured."
    print(f'\n{section}')
    if section in RATIOS:
        for title, rows in found.items():
            print(f'  {title}')
            for name, row in rows.items():
                words = f"{row['ratio']:7.2f} ({row['low']:.2f} to {row['high']:.2f})"
                print(f"    {name:44}{words} {row['milliseconds']:9.1f} ms", flush=True)
    else:
        print(json.dumps(found, indent=1), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('sections', nargs='*', choices=[[], *SECTIONS], help='all if not given')
    parser.add_argument('--repeats', type=int, default=15, help='pairs of each (default: 15)')
    parser.add_argument('--out', type=Path, default=HERE / 'bench.json', help='the record')
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.memory_of:
        print(memory_of(args.memory_of))
        return
    in_peers_environment()
    old = json.loads(args.out.read_text()) if args.out.is_file() else {}
    new = dict(old, machine=machine(), repeats=args.repeats)
    for section in args.sections or SECTIONS:
        new[section] = SECTIONS[section](args.repeats)
        report(section, new[section])
    new['changes'] = changes(new, old)
    for change in new['changes']:
        print(f"{change['which']}: {change}")
    args.out.write_text(json.dumps(new, indent=1) + '\n')


if __name__ == '__main__':
    main()
