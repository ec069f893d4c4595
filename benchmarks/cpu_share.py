"""What share of this machine's rate each network reaches in training on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/cpu_share.py [REPEATS]

The machine's rate is measured in the same run: the best that a matrix product and a 3 x 3
convolution reach over a few sizes, forward and backward. From the operations of a training step,
counted by PyTorch, follows the time that it would take at those rates; over the time that it does
take, that is the share. The profile of a step then says which operations besides products and
convolutions take most. With a C++ compiler on the path our networks are measured compiled as well
(torch.compile), else not. The peers are those of throughput.py, at the same shapes and in its
environment; the result is stored beside this file. On a machine where something else is at work
it says nothing.
"""

import json
import shutil
import sys
from collections import Counter
from functools import partial

import throughput
import torch
from throughput import HERE, SHAPES, built, machine, paired, processor_seconds, train
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from asyncpatch.tables import keep_freed_memory
from asyncpatch.transformer import Transformer

CONVOLUTIONS = [(64, 16, 32), (64, 64, 16), (128, 32, 8), (8, 128, 32)]  # images, channels, side
PRODUCTS = [256, 512, 1024]


def transformer(channels, size, widths, **_):
    "Ours, with token times, of about as many operations for a field as the UNet at digits."
    width = 3 * widths[0]
    net = Transformer(channels, width=width, depth=4, heads=max(1, width // 16))
    return net, lambda z, t: net(z, torch.rand(len(z), 1, *z.shape[-2:]))


def convolution(images, channels, side):
    "A convolution and its gradients; and its operations."
    x = torch.randn(images, channels, side, side, requires_grad=True)
    weight = torch.randn(channels, channels, 3, 3, requires_grad=True)
    work = lambda: F.conv2d(x, weight, padding=1).sum().backward()
    return work, operations_of(work)


def product(side):
    "A product of matrices and its gradients; and its operations."
    a, b = (torch.randn(side, side, requires_grad=True) for _ in range(2))
    work = lambda: (a @ b).sum().backward()
    return work, operations_of(work)


def operations_of(work):
    "Operations of convolutions and of products in what `work` computes."
    with FlopCounterMode(display=False) as counter:
        work()
    counted = Counter()
    for name, count in counter.get_flop_counts()['Global'].items():
        counted['convolution' if 'conv' in str(name) else 'product'] += count
    return counted


def rates(repeats):
    "The best operations per second of each kind, and the size at which it was reached."
    makers = dict(
        convolution=[(size, convolution(*size)) for size in CONVOLUTIONS],
        product=[(size, product(size)) for size in PRODUCTS],
    )
    best = {}
    for kind, works in makers.items():
        reached = []
        for size, (work, counted) in works:
            work()
            seconds = min(processor_seconds(work) for _ in range(repeats))
            reached.append((counted.total() / seconds, size))
        best[kind] = max(reached, key=lambda pair: pair[0])
    return best


def largest_losses(work, count=3):
    "Operations that are neither products nor convolutions, by their share of a step."
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    spent = Counter()
    for event in seen.key_averages():
        product = any(word in event.key.lower() for word in ('conv', 'mm', 'linear', 'attention'))
        spent['products' if product else event.key] += event.self_cpu_time_total
    whole = sum(spent.values())
    del spent['products']
    return {name: round(time / whole, 3) for name, time in spent.most_common(count)}


def networks_of(shape):
    "Peers and ours; ours compiled too where that is possible. And what could not be made."
    made, errors = built(shape)
    if shutil.which('g++') or shutil.which('clang++'):
        for name in ('ours_per_pixel', 'transformer'):
            if name in made:
                net, call = made[name]
                made[f'{name}, compiled'] = net, torch.compile(call)
    return made, errors


def measured(shape, best, repeats):
    "Every network at one shape: milliseconds, share of the machine's rate, and its losses."
    made, errors = networks_of(shape)
    z = torch.randn(shape['batch'], shape['channels'], shape['size'], shape['size'])
    t = torch.rand(shape['batch'])
    works = {name: partial(train, net, call, z, t) for name, (net, call) in made.items()}
    counted = {name: operations_of(work) for name, work in works.items() if 'compiled' not in name}
    found = paired(works, 'ours', repeats)
    for name, row in found.items():
        operations = counted[name.removesuffix(', compiled')]
        ideal = sum(count / best[kind][0] for kind, count in operations.items())
        row.update(operations=dict(operations), share=1e3 * ideal / row['milliseconds'])
        row['losses'] = {} if 'compiled' in name else largest_losses(works[name])
    return dict(networks=found, errors=errors)


def main():
    throughput.in_peers_environment()
    throughput.NETWORKS['transformer'] = transformer
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    torch.manual_seed(0)
    keep_freed_memory()
    best = rates(max(3, repeats // 3))
    result = dict(
        machine=machine(), rates={kind: dict(per_second=r, at=s) for kind, (r, s) in best.items()}
    )
    for name, shape in SHAPES.items():
        result[name] = measured(shape, best, repeats)
        print(f'{name}: share of the rate, milliseconds, the three largest losses')
        for network, row in result[name]['networks'].items():
            print(f"  {network:26s} {row['share']:.2f} {row['milliseconds']:8.1f} {row['losses']}")
        print(*result[name]['errors'].items(), sep='\n')
    (HERE / 'cpu_share.json').write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
