"""The paper's 60M network in training at 64 x 64: images per second, and the share of this machine's matrix product.

    python tools/gpu_bench.py                   on a GPU, some three minutes; writes figures/leaves/utilisation.json
    python tools/gpu_bench.py --tiny --out DIR  tiny settings, for a CPU and the tests

Four questions: compiled or not; one time per image or many clocks; what bf16 does to the loss of the same batches; what the machine's
matrix product reaches. The record is what `asyncpatch.runs.utilisation` reads: shares of the peak that the maker gives.
"""
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
import argparse
import gc
import json
import os
import statistics
import sys
import time

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT/'tools')]

import torch

from asyncpatch.runs import CHIPS, Record, config_hash, configured, network_operations, save_record
from asyncpatch.timesteps import asyncpatch, synchronous, tabulated
from asyncpatch.training import Velocity, environment
from asyncpatch.unet import UNet
from leaves_series import clock, matmul_peak


def prepared(net, batch, size, law, compiled, device, precision):
    "One training step of a fresh network on fixed random images, as a function that returns the loss."
    torch.manual_seed(0)
    unet = UNet(**net).to(device, memory_format=torch.channels_last)
    with torch.no_grad():
        for p in unet.parameters(): p.add_(.01*torch.randn_like(p))           # the last layer starts at zero, and would hide rounding
    adam, objective = torch.optim.Adam(unet.parameters(), 1e-4, fused=True), Velocity(law)
    fast = torch.compile(unet) if compiled else unet
    x, label = torch.rand(batch, unet.channels, size, size, device=device)*2 - 1, torch.arange(batch, device=device) % unet.classes
    def step(k):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == 'bf16'): loss, _ = objective(fast, x, label, torch.Generator(device).manual_seed(k))
        loss.backward()
        adam.step()
        adam.zero_grad()
        return loss.detach()
    return step


def timed(step, warm, steps, device):
    "Seconds of a step: the median of five groups, after a warm-up."
    for k in range(warm): step(k)
    groups = []
    for group in range(5):
        began = clock(device)
        for k in range(steps): step(warm + group*steps + k)
        groups.append((clock(device) - began)/steps)
    return statistics.median(groups)


def compute(config, device):
    "All that is measured; a network of another law or precision has the same weights and images."
    net, batch, size = config['net'], config['batch'], config['size']
    work, peak = network_operations(net, size, training=True), matmul_peak(device, config['matmul'])
    maker = next((chip.peak for name, chip in CHIPS.items() if device.type == 'cuda' and name in torch.cuda.get_device_name()), None)
    cases, laws = {}, {'many clocks': asyncpatch, 'one clock': synchronous, 'patches from 2 pixels': partial(asyncpatch, scales=tuple(2**k for k in range(1, size.bit_length())))}
    for law, compiled, precision in [('many clocks', False, 'bf16'), ('many clocks', True, 'bf16'), ('one clock', True, 'bf16'), ('patches from 2 pixels', True, 'bf16'), ('many clocks', True, 'no')]:
        if compiled and not config['compiled']: continue
        seconds = timed(prepared(net, batch, size, laws[law], compiled, device, precision), config['warm'], config['steps'], device)
        name = f"{law}, {'compiled' if compiled else 'not compiled'}, {'bf16' if precision == 'bf16' else 'single precision'}"
        cases[name] = dict(images_per_second=batch/seconds, of_matrix_product=batch*work/seconds/peak, of_makers_peak=batch*work/seconds/maker if maker else None, table=tabulated(laws[law]) is not None)
        print(f"{name:60}{batch/seconds:10.1f} images/s {batch*work/seconds/1e12:9.3f} Top/s {cases[name]['of_matrix_product']:7.1%} of the matrix product", flush=True)
        gc.collect()
        if device.type == 'cuda': torch.cuda.empty_cache()
    losses = {}
    for precision in ('no', 'bf16'):
        step = prepared(net, config['loss_batch'], size, asyncpatch, False, device, precision)
        losses[precision] = [step(k).item() for k in range(config['loss_steps'])]
    difference = [abs(a - b)/b for a, b in zip(losses['bf16'], losses['no'])]
    print(f'loss in bf16 against single precision: {max(difference):.2e} at most over {len(difference)} steps of the same batches', flush=True)
    shares = {name: case['of_makers_peak'] for name, case in cases.items() if maker and 'bf16' in name}
    return dict(utilisation=shares, matmul=peak, makers_peak=maker, operations_per_image=work, cases=cases, losses=losses, loss_difference=max(difference))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path(os.environ.get('OUT') or ROOT/'figures/leaves'), help='$OUT, else figures/leaves')
    parser.add_argument('--batch', type=int, default=256)
    parser.add_argument('--tiny', action='store_true')
    args, began = parser.parse_args(argv), time.monotonic()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    config = dict(net=configured('imagenet64-60m').settings['net'], batch=args.batch, size=64, matmul=8192, warm=5, steps=6, compiled=True, loss_batch=64, loss_steps=20)
    if args.tiny: config.update(net=dict(base=8, classes=10), batch=8, size=8, matmul=64, warm=1, steps=1, compiled=False, loss_batch=8, loss_steps=3)
    elif device.type == 'cpu': raise SystemExit('this is work for a GPU; --tiny tries it out on a CPU')
    data = compute(config, device)
    config = json.loads(json.dumps(config))
    record = Record('utilisation', 'The share of its peak that an accelerator reaches in training the 60M network of Table 6.', None, 'leaves', 'full', config, config_hash(config), data,
                    seconds=round(time.monotonic() - began, 1), made=datetime.now(timezone.utc).isoformat(timespec='seconds'), **environment())
    print(save_record(record, args.out))


if __name__ == '__main__': main()
