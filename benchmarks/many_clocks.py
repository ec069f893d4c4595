"""What a field of times costs a network, against the same network with one time per image.

    python benchmarks/many_clocks.py [--repeats N] [--alone] [digits] [60M]

Three ways with the same weights: the naive one (an embedding and a projection at every pixel for
every block), ours at fields, and ours by tables: those of the law in training, those of the plan in
sampling, which a run of the sampler finds itself. Beside them what no implementation can avoid
where pixels have times of their own (`floor`): a scale and a shift that differ from pixel to pixel,
read and applied, but come from nowhere; and, but for `--alone`, the peers' networks with the same
features, in the environment that throughput.py makes.

On one core, in this process; processor time, each measurement beside one of the yardstick. The
result is stored beside this file, and the page of tables shows it. Run it on a quiet machine.
"""

import argparse
import copy
import json
from functools import partial
from pathlib import Path

import torch
from throughput import PAPER, SHAPES, built, evaluate, in_peers_environment, machine, paired, train
from torch import nn
from torch.nn import functional as F

from asyncpatch import spatial
from asyncpatch.denoisers import Denoiser
from asyncpatch.laws import asyncpatch, synchronous
from asyncpatch.rival_laws import td_paint
from asyncpatch.samplers import sample
from asyncpatch.tables import ask_by_table, distinct_times, prepare_network
from asyncpatch.unet import (
    PAPER_UNETS,
    Embedding,
    FiLM,
    UNet,
    count_parameters,
    sinusoidal_embedding,
)

HERE = Path(__file__).parent
SMALL = dict(channels=1, base=16, multipliers=(1, 2), blocks=(1, 1), middle=1, classes=10)
NETWORKS = {'digits': (SMALL, 64, 8), '60M': (PAPER_UNETS['60M'], 1, 64)}  # batch, size
CALLS = {'digits': 48, '60M': 4}  # of the network in a run of the sampler


class NaiveEmbedding(Embedding):
    "The embedding without its last GELU, which every block then does for itself, at every pixel."

    def forward(self, t, label):
        e = self.mlp(sinusoidal_embedding(t, self.width))
        if label is None:
            return e
        vector = self.label(label.clamp(min=0)) * (label >= 0)[:, None]
        return e + vector[:, None, None]


class NaiveFiLM(FiLM):
    "A linear layer at every pixel, as a 1x1 convolution, for every block."

    def forward(self, h, e):
        e = F.gelu(e).permute(0, 3, 1, 2)
        both = F.conv2d(e, self.both.weight[..., None, None], self.both.bias)
        scale, shift = both.permute(0, 2, 3, 1).chunk(2, -1)
        return h * scale + shift


class FloorFiLM(FiLM):
    """Scale and shift of every pixel at hand.

    What remains is to read them, to apply them, and to give them a gradient."""

    def forward(self, h, e):
        if not hasattr(self, 'maps'):
            self.maps = [nn.Parameter(torch.randn(h.shape)) for _ in range(2)]
        for m in self.maps:
            m.grad = None
        return torch.addcmul(self.maps[1], h, self.maps[0])


def with_classes(net: nn.Module, classes: dict) -> nn.Module:
    "The same weights, computed by other classes."
    net = copy.deepcopy(net)
    for module in net.modules():
        module.__class__ = classes.get(type(module), type(module))
    return net


floor = partial(with_classes, classes={FiLM: FloorFiLM})
naive = partial(with_classes, classes={FiLM: NaiveFiLM, Embedding: NaiveEmbedding})


def awake(net):
    "A network whose weights are not at their start, where much is zero."
    for p in net.parameters():
        p.data += 0.02 * torch.randn(p.shape)
    return net


def hole_of(size, value=0.0):
    "A square hole in the middle, (1, 1, size, size)."
    field = torch.full((1, 1, size, size), value)
    field[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 0.5
    return field


def laws_of(size):
    "Laws of training times, by title."
    sides = tuple(2**k for k in range(1, size.bit_length()))
    patches = partial(asyncpatch, scales=sides)
    return {
        'patches from 2 pixels': patches,
        'default mixture': asyncpatch,
        'every pixel': partial(asyncpatch, scales=(1,)),
        'TD-Paint': td_paint,
    }


def plan_fields(batch, size):
    "Times in the middle of a plan, by title: a hole, and rows one after another."
    rows = torch.linspace(1, 0.3, 4).repeat_interleave(size // 4).view(1, 1, size, 1)
    return {
        'inpainting': hole_of(size).expand(batch, 1, size, size),
        'autoregressive, 4 rows': rows.expand(batch, 1, size, size),
    }


def training_ways(net, batch, size, label):
    "What is timed in training: title, network, and the call at noisy images."
    fields = {title: law(batch, size, size) for title, law in laws_of(size).items()}
    one = synchronous(batch, size, size)[..., :1, :1]
    field = fields['default mixture']
    ways = {
        'one time': (net, one),
        'default mixture, floor': (floor(net), one),
        'default mixture, naive': (naive(net), field),
    }
    for title in ('patches from 2 pixels', 'default mixture', 'every pixel'):
        ways[f'{title}, field'] = (net, fields[title])
    for title in ('patches from 2 pixels', 'TD-Paint'):
        ways[f'{title}, table'] = (prepare_network(net, laws_of(size)[title]), fields[title])
    return {title: (n, lambda z, n=n, t=t: n(z, t, label)) for title, (n, t) in ways.items()}


def evaluation_ways(net, batch, size, label):
    "What is timed in evaluation."
    mixture, plans = asyncpatch(batch, size, size), plan_fields(batch, size)
    one, hole = synchronous(batch, size, size)[..., :1, :1], plans['inpainting']
    plain, bare = naive(net), floor(net)
    ways = {
        'one time': (net, one),
        'default mixture, floor': (bare, one),
        'inpainting, floor': (bare, one),
        'default mixture, naive': (plain, mixture),
        'default mixture, field': (net, mixture),
        'every pixel, field': (net, laws_of(size)['every pixel'](batch, size, size)),
        'inpainting, naive': (plain, hole),
        'inpainting, field': (net, hole),
    }
    found = {title: (n, lambda z, n=n, t=t: n(z, t, label)) for title, (n, t) in ways.items()}
    for title, field in plans.items():
        table = distinct_times(field, net.halvings)
        found[f'{title}, table'] = (net, lambda z, t=table: ask_by_table(net, z, t, label))
    return found


def plans_of(batch, size, calls):
    "Time maps of runs with equally many calls: one time per image, and few."
    hole = hole_of(size, 1.0) == 1.0
    bands = (torch.arange(size) * 4 // size)[:, None].expand(size, size)
    plans = {
        'one time': spatial.synchronous_maps(calls + 1),
        'inpainting, table': spatial.inpainting_maps(hole, calls + 1),
        'autoregressive, 4 rows, table': spatial.autoregressive(bands, calls // 4),
    }
    if batch > 1:
        moved = torch.cat([hole.roll((i, -i), (2, 3)) for i in range(batch)])
        plans['inpainting, a mask each, table'] = spatial.inpainting_maps(moved, calls + 1)
    return plans


def runs(net, batch, size, calls, label):
    "Runs of the sampler, as works of one noisy batch."
    plans = plans_of(batch, size, calls)
    of = lambda net, plan: lambda z: sample(Denoiser(net), plan, x=z, label=label)
    found = {title: of(net, plan) for title, plan in plans.items()}
    plain = lambda z, t, label: net(z, t, label)  # offers no hook
    return found | {'inpainting, field': of(plain, plans['inpainting, table'])}


@torch.no_grad()
def difference(net, z, label, size):
    "Largest difference between the naive way and ours, relative to the largest answer."
    plain, batch, worst = naive(net).eval(), len(z), 0.0
    cases = [(net, law(batch, size, size)) for law in laws_of(size).values()]
    for law in laws_of(size).values():
        cases.append((prepare_network(net, law), law(batch, size, size)))
    for way, field in cases:
        want = plain(z, field, label)
        worst = max(worst, float((way(z, field, label) - want).abs().max() / want.abs().max()))
    return worst


def report(name, work, repeats, measured):
    "Say what was measured, and hand it on."
    what = f'median of {repeats} pairs and its 95 % interval'
    print(f'\n{name}, {work}: time relative to one time per image: {what}')
    for title, v in measured.items():
        interval = f"{v['ratio']:6.3f} ({v['low']:.3f} to {v['high']:.3f})"
        print(f"{title:44}{interval} {v['milliseconds']:9.1f} ms", flush=True)
    return measured


def peers_of(name):
    "The peers' networks with one time per image, and the errors of those that cannot be had."
    found, errors = built(PAPER if name == '60M' else SHAPES['digits, 8x8'])
    titles = {k: f'{k} (one time)' for k in found if not k.startswith('ours')}
    titles |= {'spatialreasoners': 'spatialreasoners (a time for every pixel)'}
    return {title: found[k] for k, title in titles.items() if k in found}, errors


def timed(net, ways, work, z, one, repeats):
    "Every way beside the yardstick."
    do = {}
    for title, (module, call) in ways.items():
        if isinstance(module, nn.Module):
            module.train(work == 'training')
        run = partial(train, module) if work == 'training' else evaluate
        do[title] = partial(run, lambda z, t, call=call: call(z), z, one)
    net.train(work == 'training')
    return paired(do, 'one time', repeats)


def measure(name, repeats, alone):
    "All prices of one network."
    config, batch, size = NETWORKS[name]
    net = awake(UNet(**config))
    z, one = torch.randn(batch, config['channels'], size, size), torch.rand(batch)
    label = torch.randint(0, config['classes'], (batch,))
    peers, errors = ({}, {}) if alone else peers_of(name)
    counts = {title: count_parameters(n) for title, (n, _) in peers.items()}
    entry = dict(machine(), repeats=repeats, batch=batch, size=size, errors=errors)
    entry['difference'] = difference(net.eval(), z, label, size)
    entry['parameters'] = dict(ours=count_parameters(net), **counts)
    asked = {title: (n, lambda z, c=c: c(z, one)) for title, (n, c) in peers.items()}
    works = dict(training=training_ways, evaluation=evaluation_ways)
    for work, ways in works.items():
        found = timed(net, ways(net, batch, size, label) | asked, work, z, one, repeats)
        entry[work] = report(name, work, repeats, found)
    calls = CALLS[name]
    works = runs(net.eval(), batch, size, calls, label)
    found = paired({k: partial(run, z) for k, run in works.items()}, 'one time', repeats)
    entry['sampling'] = report(name, f'sampling, {calls} calls', repeats, found)
    return dict(entry, calls=calls)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', choices=[[], *NETWORKS], help='networks, or all')
    parser.add_argument('--repeats', type=int, default=41, help='pairs of each (default: 41)')
    parser.add_argument('--alone', action='store_true', help="leave the peers' networks out")
    parser.add_argument('--out', type=Path, default=HERE / 'many_clocks.json', help='the record')
    args = parser.parse_args()
    if not args.alone:
        in_peers_environment()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.names or NETWORKS:
        result[name] = measure(name, args.repeats, args.alone)
        args.out.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
