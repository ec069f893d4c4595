"What a training law costs: each law's draw at batch 512, 64x64, against uniform noise of the same size, in one run."
import argparse, json, platform, statistics, time

import torch

from asyncpatch.timesteps import LAWS

def seconds(draw, device):
    "Wall time of one call, the device's queue included."
    start = time.perf_counter()
    draw()
    if device.type != 'cpu': torch.accelerator.synchronize()
    return time.perf_counter() - start

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, default=512)
    parser.add_argument('--size', type=int, default=64)
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--json', help='write the record here')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    generator = torch.Generator(device).manual_seed(0)
    shape = (args.images, args.size, args.size)
    draws = {'uniform noise': lambda: torch.rand(shape, generator=generator, device=device)}
    for name, law in LAWS.items(): draws[name] = lambda law=law: law(*shape, generator=generator, device=device)
    times = {name: [] for name in draws}
    for draw in draws.values(): seconds(draw, device)
    for _ in range(args.repeats): # interleaved, so that a busy moment of the machine meets all of them
        for name, draw in draws.items(): times[name].append(seconds(draw, device))
    rows = {}
    for name, values in times.items():
        ratios = sorted(value/noise for value, noise in zip(values, times['uniform noise']))
        rows[name] = dict(milliseconds=1e3*statistics.median(values), ratio=statistics.median(ratios), ratio_low=ratios[0], ratio_high=ratios[-1])
    record = dict(vars(args), torch=torch.__version__, machine=platform.processor() or platform.machine(), rows=rows)
    print(f'{args.images} images of {args.size}x{args.size} on {args.device}, {args.threads} thread(s), median of {args.repeats} (range of the ratio)')
    for name, row in rows.items():
        print(f"{name:20} {row['milliseconds']:8.1f} ms   x{row['ratio']:6.2f}  ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})")
    if args.json:
        with open(args.json, 'w') as file: json.dump(record, file, indent=1)

if __name__ == '__main__': main()
