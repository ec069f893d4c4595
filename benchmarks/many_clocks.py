"""What a field of times costs a network: training steps and evaluations against the same network with one time per image.

    python benchmarks/many_clocks.py [REPEATS] [digits] [60M]

Three ways with the same weights: the naive one (an embedding and a projection at every pixel for every block), ours
given a field, and ours given a table of times (the runs of the sampler find theirs themselves); and what no implementation can avoid where pixels have times of their
own (`floor`): a scale and a shift that differ from pixel to pixel, read and applied, but come from nowhere. Beside them
the peers' networks with the same features, in the environment that throughput.py makes. On one core, in this process;
processor time, each measurement beside one of the yardstick. The result is stored beside this file, and the page of the
UNet shows it.
"""

import copy
import json
import sys
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
from asyncpatch.tables import distinct_times, tabulated
from asyncpatch.unet import PAPER_UNETS, Embedding, FiLM, UNet, count_parameters

HERE = Path(__file__).parent
NETWORKS = {
    'digits': (
        dict(channels=1, base=16, multipliers=(1, 2), blocks=(1, 1), middle=1, classes=10),
        64,
        8,
    ),
    '60M': (PAPER_UNETS['60M'], 1, 64),
}
CALLS = {'digits': 48, '60M': 4}  # of the network in a run of the sampler


class NaiveEmbedding(Embedding):
    "The embedding without its last GELU, which every block then does for itself, at every pixel."

    def forward(self, t, label):
        e = self.mlp[2](F.gelu(F.linear(self._sinusoids(t), self.mlp[0].weight, self.mlp[0].bias)))
        return (
            e + (self.label(label.clamp(min=0)) * (label >= 0)[:, None])[:, None, None]
            if label is not None
            else e
        )

    def _sinusoids(self, t):
        from asyncpatch.unet import sinusoidal_embedding

        return sinusoidal_embedding(t, self.width)


class NaiveFiLM(FiLM):
    "A linear layer at every pixel, as a 1x1 convolution, for every block."

    def forward(self, h, e, index=None):
        scale, shift = (
            F.conv2d(
                F.gelu(e).permute(0, 3, 1, 2), self.both.weight[..., None, None], self.both.bias
            )
            .permute(0, 2, 3, 1)
            .chunk(2, -1)
        )
        return h * scale + shift


class FloorFiLM(FiLM):
    "Scale and shift of every pixel at hand: what remains is to read them, to apply them, and to give them a gradient."

    def forward(self, h, e, index=None):
        if not hasattr(self, 'maps'):
            self.maps = [nn.Parameter(torch.randn(h.shape)) for _ in range(2)]
        for m in self.maps:
            m.grad = None
        return torch.addcmul(self.maps[1], h, self.maps[0])


def floor(net: nn.Module) -> nn.Module:
    "The network with nothing to compute for its times but their application."
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, FiLM):
            module.__class__ = FloorFiLM
    return net


def naive(net: nn.Module) -> nn.Module:
    "The same function and the same weights, without a thought for what it costs."
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, FiLM):
            module.__class__ = NaiveFiLM
        if isinstance(module, Embedding):
            module.__class__ = NaiveEmbedding
    return net


def awake(net):
    for p in net.parameters():
        p.data += 0.02 * torch.randn(p.shape)
    return net


def times(batch, size, halvings):
    "Fields of times, and for some of them tables."
    patches = partial(asyncpatch, scales=tuple(2**k for k in range(1, size.bit_length())))
    table = lambda law: tabulated(law)(batch, size, size)
    hole = torch.zeros(1, 1, size, size)
    hole[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 0.5
    rows = (
        torch.linspace(1, 0.3, 4)
        .repeat_interleave(size // 4)
        .view(1, 1, size, 1)
        .expand(batch, 1, size, size)
    )
    fields = {
        'patches from 2 pixels': table(patches),
        'default mixture': asyncpatch(batch, size, size),
        'every pixel': asyncpatch(batch, size, size, scales=(1,)),
        'TD-Paint': table(td_paint),
        'inpainting': distinct_times(hole.expand(batch, 1, size, size), halvings),
        'autoregressive, 4 rows': distinct_times(rows, halvings),
    }
    return table(synchronous).values.view(-1, 1, 1, 1), fields


def cases(net, config, batch, size):
    "Every call that is timed: its title, the network, and the call of noisy images, for training and for evaluation."
    label = torch.randint(0, config['classes'], (batch,))
    one, fields = times(batch, size, len(net.down) - 1)
    plain, bare = naive(net), floor(net)
    found = {
        'one time': (net, one),
        'default mixture, floor': (bare, one),
        'inpainting, floor': (bare, one),
    }
    for title, t in fields.items():
        field = t if torch.is_tensor(t) else t.field()
        if title in ('default mixture', 'inpainting'):
            found[f'{title}, naive'] = (plain, field)
        if title in ('patches from 2 pixels', 'default mixture', 'every pixel', 'inpainting'):
            found[f'{title}, field'] = (net, field)
        if not torch.is_tensor(t):
            found[f'{title}, table'] = (net, t)
    call = lambda n, t: lambda z: n(z, t, label)
    of = lambda left_out: {
        title: (n, call(n, t)) for title, (n, t) in found.items() if not title.startswith(left_out)
    }
    return dict(
        training=of(('inpainting', 'autoregressive')), evaluation=of(('patches', 'TD-Paint'))
    )


def runs(net, config, batch, size, calls):
    "Runs of the sampler with equally many calls, as works of one noisy batch: one time per image, and few."
    label, bands = torch.randint(0, config['classes'], (batch,)), torch.arange(size) * 4 // size
    hole = torch.ones(1, 1, size, size, dtype=torch.bool)
    hole[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = False
    moved = torch.cat([hole.roll((i, -i), (2, 3)) for i in range(batch)])
    plans = {
        'one time': spatial.synchronous(calls + 1),
        'inpainting, table': spatial.inpainting(hole, calls + 1),
        'autoregressive, 4 rows, table': spatial.autoregressive(
            bands[:, None].expand(size, size), calls // 4
        ),
    }
    if batch > 1:
        plans['inpainting, a mask each, table'] = spatial.inpainting(moved, calls + 1)
    of = lambda net, plan: lambda z: sample(Denoiser(net), plan, x=z, label=label)
    found = {title: of(net, plan) for title, plan in plans.items()}
    found['inpainting, field'] = of(
        lambda z, t, label: net(z, t, label), plans['inpainting, table']
    )
    return found


def difference(net, z, label, fields):
    "Largest difference between the naive way and ours, fields and tables, relative to the largest answer."
    plain, net, worst = naive(net).eval(), net.eval(), 0.0
    with torch.no_grad():
        for t in fields.values():
            want = plain(z, t if torch.is_tensor(t) else t.field(), label)
            worst = max(worst, float((net(z, t, label) - want).abs().max() / want.abs().max()))
    return worst


def told(name, work, repeats, measured):
    print(
        f'\n{name}, {work}: time relative to one time per image: median of {repeats} pairs and its 95 % interval'
    )
    for title, v in measured.items():
        print(
            f"{title:44}{v['ratio']:6.3f} ({v['low']:.3f} to {v['high']:.3f}) {v['milliseconds']:9.1f} ms",
            flush=True,
        )
    return measured


def main(repeats=41, *names):
    in_peers_environment()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = HERE / 'many_clocks.json'
    result = json.loads(path.read_text()) if path.exists() else {}
    for name in names or NETWORKS:
        config, batch, size = NETWORKS[name]
        net = awake(UNet(**config))
        z, one = torch.randn(batch, config['channels'], size, size), torch.rand(batch)
        entry = dict(machine(), repeats=repeats, batch=batch, size=size)
        entry['difference'] = difference(
            net, z, torch.zeros(batch, dtype=torch.long), times(batch, size, len(net.down) - 1)[1]
        )
        peers, entry['errors'] = built(PAPER if name == '60M' else SHAPES['digits, 8x8'])
        peers = {f'{k} (one time)': v for k, v in peers.items() if not k.startswith('ours')}
        if 'spatialreasoners (one time)' in peers:
            peers['spatialreasoners (a time for every pixel)'] = peers.pop(
                'spatialreasoners (one time)'
            )
        entry['parameters'] = {
            'ours': count_parameters(net),
            **{k: count_parameters(n) for k, (n, _) in peers.items()},
        }
        for work, ways in cases(net, config, batch, size).items():
            ways |= {
                title: (n, partial(lambda c, z: c(z, one), c)) for title, (n, c) in peers.items()
            }
            for n, _ in ways.values():
                if isinstance(n, nn.Module):
                    n.train(work == 'training')
            do = {
                title: partial(train, n, lambda z, t, c=c: c(z), z, one)
                if work == 'training'
                else partial(evaluate, lambda z, t, c=c: c(z), z, one)
                for title, (n, c) in ways.items()
            }
            entry[work] = told(name, work, repeats, paired(do, 'one time', repeats))
        entry['sampling'] = told(
            name,
            f'sampling, {CALLS[name]} calls',
            repeats,
            paired(
                {
                    title: partial(run, z)
                    for title, run in runs(net.eval(), config, batch, size, CALLS[name]).items()
                },
                'one time',
                repeats,
            ),
        )
        entry['calls'] = CALLS[name]
        result[name] = entry
        path.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 41, *sys.argv[2:])
