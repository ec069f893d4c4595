"""What a field of times costs a network: training steps and evaluations against the same network with one time per image.

    python benchmarks/many_clocks.py [REPEATS] [digits] [60M]

Three ways with the same weights: the naive one (an embedding and a projection at every pixel for every block), ours
given a field, and ours given a table of times. On one core, in turn, in this process; processor time, so that neighbours
on the machine disturb little. Where the environment of throughput.py has been made, the peers' networks are in the
same run. The result is stored beside this file, and the page of the UNet shows it.
"""
from functools import partial
from pathlib import Path
import copy
import json
import statistics
import sys

import torch
from torch import nn
from torch.nn import functional as F

from asyncpatch.timesteps import asyncpatch, distinct_times, synchronous, tabulated, td_paint
from asyncpatch.unet import Embedding, FiLM, PAPER_UNETS, UNet

from throughput import SHAPES, built, interleaved, machine, ratios, train, evaluate

HERE = Path(__file__).parent
NETWORKS = {
    'digits': (dict(channels=1, base=16, multipliers=(1, 2), blocks=(1, 1), middle=1, classes=10), 64, 8),
    '60M': (PAPER_UNETS['60M'], 1, 64),
}


class NaiveEmbedding(Embedding):
    "The embedding without its last GELU, which every block then does for itself, at every pixel."
    def forward(self, t, label):
        e = self.mlp[2](F.gelu(F.linear(self._sinusoids(t), self.mlp[0].weight, self.mlp[0].bias)))
        return e + (self.label(label.clamp(min=0))*(label >= 0)[:, None])[:, None, None] if label is not None else e

    def _sinusoids(self, t):
        from asyncpatch.unet import sinusoidal_embedding
        return sinusoidal_embedding(t, self.width)


class NaiveFiLM(FiLM):
    "A linear layer at every pixel, as a 1x1 convolution, for every block."
    def forward(self, h, e, index=None):
        weight, bias = torch.cat([self.scale.weight, self.shift.weight]), torch.cat([self.scale.bias, self.shift.bias])
        scale, shift = F.conv2d(F.gelu(e).permute(0, 3, 1, 2), weight[..., None, None], bias).permute(0, 2, 3, 1).chunk(2, -1)
        return h*scale + shift


def naive(net:nn.Module)->nn.Module:
    "The same function and the same weights, without a thought for what it costs."
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, FiLM): module.__class__ = NaiveFiLM
        if isinstance(module, Embedding): module.__class__ = NaiveEmbedding
    return net


def awake(net):
    for p in net.parameters(): p.data += .02*torch.randn(p.shape)
    return net


def times(batch, size):
    "Fields of times, and for some of them tables."
    patches = partial(asyncpatch, scales=tuple(2**k for k in range(1, size.bit_length())))
    table = lambda law: tabulated(law)(batch, size, size)
    hole = torch.zeros(1, 1, size, size)
    hole[..., size//4:3*size//4, size//4:3*size//4] = .5
    rows = torch.linspace(1, .3, 4).repeat_interleave(size//4).view(1, 1, size, 1).expand(batch, 1, size, size)
    fields = {'patches from 2 pixels': table(patches), 'default mixture': asyncpatch(batch, size, size), 'every pixel': asyncpatch(batch, size, size, scales=(1,)),
              'TD-Paint': table(td_paint), 'inpainting': distinct_times(hole.expand(batch, 1, size, size)), 'autoregressive, 4 rows': distinct_times(rows)}
    return table(synchronous).values.view(-1, 1, 1, 1), fields


def main(repeats=9, *names):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = HERE/'many_clocks.json'
    result = json.loads(path.read_text()) if path.exists() else {}
    for name in names or NETWORKS:
        config, batch, size = NETWORKS[name]
        net = awake(UNet(**config))
        plain = naive(net)
        z, label = torch.randn(batch, config['channels'], size, size), torch.randint(0, config['classes'], (batch,))
        one, fields = times(batch, size)
        calls = {'one time': (net, one)}
        for title, t in fields.items():
            field = t if torch.is_tensor(t) else t.field()
            if title in ('default mixture', 'inpainting'): calls[f'{title}, naive'] = (plain, field)
            if title in ('patches from 2 pixels', 'default mixture', 'every pixel', 'inpainting'): calls[f'{title}, field'] = (net, field)
            if not torch.is_tensor(t): calls[f'{title}, table'] = (net, t)
        works = dict(training={k: v for k, v in calls.items() if not k.startswith(('inpainting', 'autoregressive'))},
                     evaluation={k: v for k, v in calls.items() if not k.startswith(('patches', 'TD-Paint'))})
        entry = dict(machine(), repeats=repeats, batch=batch, size=size)
        networks = {k: v for k, v in built(SHAPES['digits, 8x8'])[0].items() if not k.startswith('ours')} if name == 'digits' else {}
        entry['agree'] = max(float((net(z, f, label) - plain(z, f if torch.is_tensor(f) else f.field(), label)).detach().abs().max()) for f in fields.values())
        net.train(), plain.train()
        for work, cases in works.items():
            do = {k: partial(train, n, lambda z, t, n=n: n(z, t, label), z, t) if work == 'training' else partial(evaluate, lambda z, t, n=n: n(z, t, label), z, t) for k, (n, t) in cases.items()}
            do |= {f'{k} (one time)': partial(train, n, c, z, one.view(-1)) if work == 'training' else partial(evaluate, c, z, one.view(-1)) for k, (n, c) in networks.items()}
            entry[work] = ratios(interleaved(do, repeats), 'one time')
            print(f'\n{name}, {work}: time relative to one time per image, {repeats} repeats: median (lowest to highest)')
            for title, v in entry[work].items(): print(f"{title:34}{v['ratio']:6.3f} ({v['lowest']:.3f} to {v['highest']:.3f}) {v['milliseconds']:9.1f} ms")
        result[name] = entry
        path.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__': main(int(sys.argv[1]) if len(sys.argv) > 1 else 9, *sys.argv[2:])
