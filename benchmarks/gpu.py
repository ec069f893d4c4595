"""The paper's 60M network in training at 64 x 64: images per second, and the share of a matrix
product.

    python benchmarks/gpu.py                   on a GPU, some three minutes
    python benchmarks/gpu.py --tiny --out DIR  tiny settings, for a CPU and the tests

Four questions: compiled or not; one time per image or many clocks; what bf16 does to the loss of
the same batches; what the machine's matrix product reaches. Without `--out` it writes
`figures/leaves/utilisation.json`, the product `utilisation` of the hours (results/380) with more in
it: `asyncpatch.compute.utilisation` reads it, and prices use it. So the 620M network is timed too,
compiled, with many clocks."""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import torch

from asyncpatch.compute import CHIPS, network_operations
from asyncpatch.configurations import read_configuration
from asyncpatch.laws import asyncpatch, synchronous
from asyncpatch.objectives import Velocity
from asyncpatch.records import Record, Table, config_hash, save_product
from asyncpatch.run_folders import environment
from asyncpatch.tables import table_of
from asyncpatch.unet import UNet


def clock(device):
    "The time when the device has done what it was given."
    if device.type != 'cpu':
        torch.accelerator.synchronize()
    return time.perf_counter()


def matmul_peak(device, side, repeats=5):
    "Operations per second of a large product of random matrices; bf16 on a GPU."
    dtype = torch.bfloat16 if device.type == 'cuda' else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def once():
        began = clock(device)
        for _ in range(3):
            a @ b
        return 3 * 2 * side**3 / (clock(device) - began)

    once()
    return statistics.median(once() for _ in range(repeats))


def prepared(net, batch, size, law, compiled, device, precision):
    """One training step of a fresh network on fixed random images, as a function that returns the
    loss."""
    torch.manual_seed(0)
    unet = UNet(**net).to(device, memory_format=torch.channels_last)
    with torch.no_grad():
        for p in unet.parameters():
            p.add_(
                0.01 * torch.randn_like(p)
            )  # the last layer starts at zero, and would hide rounding
    adam, objective = torch.optim.Adam(unet.parameters(), 1e-4, fused=True), Velocity(law)
    fast = objective.prepare(unet)
    fast = torch.compile(fast) if compiled else fast
    x, label = (
        torch.rand(batch, unet.channels, size, size, device=device) * 2 - 1,
        torch.arange(batch, device=device) % unet.classes,
    )

    def step(k):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == 'bf16'):
            loss, _ = objective(fast, x, label, torch.Generator(device).manual_seed(k))
        loss.backward()
        adam.step()
        adam.zero_grad()
        return loss.detach()

    return step


def timed(step, warm, steps, device):
    "Seconds of a step: the median of five groups, after a warm-up."
    for k in range(warm):
        step(k)
    groups = []
    for group in range(5):
        began = clock(device)
        for k in range(steps):
            step(warm + group * steps + k)
        groups.append((clock(device) - began) / steps)
    return statistics.median(groups)


def shipping_config():
    "The configuration of the product in results/380."
    return dict(
        networks={
            name: dict(net=read_configuration(file).settings['net'], size=64, batch=batch)
            for name, file, batch in [
                ('620M', 'imagenet64-620m', 64),
                ('60M', 'imagenet64-60m', 256),
            ]
        },
        warm=5,
        steps=20,
    )


def compute(config, device, matmul=8192, compiled=True, loss_batch=64, loss_steps=20):
    "All that is measured; a network of another law or precision has the same weights and images."
    peak = matmul_peak(device, matmul)
    maker = next(
        (
            chip.peak
            for name, chip in CHIPS.items()
            if device.type == 'cuda' and name in torch.cuda.get_device_name()
        ),
        None,
    )
    patches = lambda size: partial(
        asyncpatch, scales=tuple(2**k for k in range(1, size.bit_length()))
    )
    cases, speeds = {}, {}
    plan = [
        ('60M', 'many clocks', asyncpatch, False, 'bf16'),
        ('60M', 'many clocks', asyncpatch, compiled, 'bf16'),
        ('60M', 'one clock', synchronous, compiled, 'bf16'),
        (
            '60M',
            'patches from 2 pixels',
            patches(config['networks']['60M']['size']),
            compiled,
            'bf16',
        ),
        ('60M', 'many clocks', asyncpatch, compiled, 'no'),
        ('620M', 'many clocks', asyncpatch, compiled, 'bf16'),
    ]
    for network, clocks, law, through, precision in plan:
        if network not in config['networks']:
            continue
        settings = config['networks'][network]
        batch, work = (
            settings['batch'],
            network_operations(settings['net'], settings['size'], training=True),
        )
        seconds = timed(
            prepared(**settings, law=law, compiled=through, device=device, precision=precision),
            config['warm'],
            max(1, config['steps'] // 5),
            device,
        )
        name = (
            f"{network}, {clocks}, {'compiled' if through else 'not compiled'}, "
            f"{'bf16' if precision == 'bf16' else 'single precision'}"
        )
        cases[name] = dict(
            images_per_second=batch / seconds,
            operations_per_image=work,
            of_matrix_product=batch * work / seconds / peak,
            of_makers_peak=batch * work / seconds / maker if maker else None,
            table=table_of(law) is not None,
        )
        if clocks == 'many clocks' and precision == 'bf16':
            speeds[network] = max(speeds.get(network, 0), batch * work / seconds)
        print(
            f"{name:58}{batch / seconds:10.1f} images/s {batch * work / seconds / 1e12:9.3f} "
            f"Top/s {cases[name]['of_matrix_product']:7.1%} of the matrix product",
            flush=True,
        )
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()
    losses = {}
    for precision in ('no', 'bf16'):
        step = prepared(
            **{**config['networks']['60M'], 'batch': loss_batch},
            law=asyncpatch,
            compiled=False,
            device=device,
            precision=precision,
        )
        losses[precision] = [step(k).item() for k in range(loss_steps)]
    difference = [abs(a - b) / b for a, b in zip(losses['bf16'], losses['no'])]
    print(
        f'loss in bf16 against single precision: {max(difference):.2e} at most over '
        f'{len(difference)} steps of the same batches',
        flush=True,
    )
    order = [name for name in config['networks'] if name in speeds]
    return dict(
        speed={name: speeds[name] for name in order},
        utilisation={name: speeds[name] / maker for name in order} if maker else {},
        matmul=peak,
        makers_peak=maker,
        cases=cases,
        losses=losses,
        loss_difference=max(difference),
    )


def table(record):
    "As results/380 draws it."
    return Table(
        ['network', 'batch', 'Top/s', 'share of peak'],
        [
            [
                name,
                str(record.config['networks'][name]['batch']),
                f'{speed / 1e12:,.4g}',
                f"{record.data['utilisation'][name]:.0%}"
                if record.data['utilisation']
                else 'unknown chip',
            ]
            for name, speed in record.data['speed'].items()
        ],
        f'Training in bf16 on {record.device}.',
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(os.environ.get('OUT') or ROOT / 'figures/leaves'),
        help='$OUT, else figures/leaves',
    )
    parser.add_argument('--tiny', action='store_true')
    parser.add_argument('--commit', help='of the code, where git cannot say')
    args, began = parser.parse_args(argv), time.monotonic()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if not args.tiny and device.type == 'cpu':
        raise SystemExit('this is work for a GPU; --tiny tries it out on a CPU')
    config = (
        dict(networks={'60M': dict(net=dict(base=8, classes=10), size=8, batch=8)}, warm=1, steps=1)
        if args.tiny
        else shipping_config()
    )
    data = compute(
        config,
        device,
        **(dict(matmul=64, compiled=False, loss_batch=8, loss_steps=3) if args.tiny else {}),
    )
    config = json.loads(json.dumps(config))
    about = dict(environment(), **({'commit': args.commit} if args.commit else {}))
    record = Record(
        'utilisation',
        'The share of its peak that an accelerator reaches in training the networks of Table 6.',
        None,
        'leaves',
        'full',
        config,
        config_hash(config),
        data,
        seconds=round(time.monotonic() - began, 1),
        made=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        **about,
    )
    print(*save_product(table(record), record, args.out), sep='\n')


if __name__ == '__main__':
    main()
