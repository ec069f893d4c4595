"""Our UNet beside its peers' at equal channels: images per second in training and in evaluation, as ratios in one run.

    python benchmarks/throughput.py [REPEATS]

On one core, in turn, in this process; processor time, so that neighbours on the machine disturb little. Where a peer is
not installed the script makes an environment of its own beside the repository (.venv-peers: the packages of
requirements-peers.txt without their dependencies, and this environment's own) and starts itself there; what does not
import is reported with its error. The result is stored beside this file.
"""
from pathlib import Path
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import time

import torch

from asyncpatch.unet import UNet, count_parameters

HERE = Path(__file__).parent
SHAPES = {                                   # images, batch, features of each level, residual blocks of each level
    'digits, 8x8': dict(channels=1, size=8, batch=64, widths=(16, 32), blocks=1),
    'small, 32x32': dict(channels=3, size=32, batch=8, widths=(64, 128, 192), blocks=1),
}


def ours(channels, size, widths, blocks, **_):
    net = UNet(channels, widths[0], [w//widths[0] for w in widths], [blocks]*len(widths), middle=1)
    return net, lambda z, t: net(z, t.view(-1, 1, 1, 1))


def ours_per_pixel(channels, size, widths, blocks, **_):
    net, _ = ours(channels, size, widths, blocks)
    return net, lambda z, t: net(z, torch.rand(len(z), 1, *z.shape[-2:]))


def diffusers(channels, size, widths, blocks, **_):
    from diffusers import UNet2DModel
    down, up = ['DownBlock2D']*len(widths), ['UpBlock2D']*len(widths)
    net = UNet2DModel(sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=blocks, block_out_channels=widths,
                      norm_num_groups=8, attention_head_dim=32, down_block_types=down, up_block_types=up)
    return net, lambda z, t: net(z, 1000*t).sample


def lucidrains(channels, size, widths, blocks, **_):
    from denoising_diffusion_pytorch import Unet
    net = Unet(dim=widths[0], dim_mults=[w//widths[0] for w in widths], channels=channels, full_attn=(False,)*(len(widths) - 1) + (True,))
    return net, lambda z, t: net(z, 1000*t)


def azula(channels, size, widths, blocks, **_):
    from azula.nn.unet import UNet as Peer
    net = Peer(in_channels=channels, out_channels=channels, mod_features=widths[0], hid_channels=widths, hid_blocks=[blocks]*len(widths))
    return net, lambda z, t: net(z, t[:, None].expand(-1, widths[0]))


def spatialreasoners(channels, size, widths, blocks, **_):
    import torchvision.io
    if not hasattr(torchvision.io, 'write_video'): torchvision.io.write_video = None      # asked for at import, and gone from torchvision
    from spatialreasoners.denoising_model.denoiser.unet.model import UNet as Peer
    raise NotImplementedError(f'{Peer} needs its own configuration objects')


NETWORKS = dict(ours=ours, ours_per_pixel=ours_per_pixel, diffusers=diffusers, lucidrains=lucidrains, azula=azula, spatialreasoners=spatialreasoners)


def built(shape):
    "Every network that can be made and called, and the errors of the others."
    networks, errors = {}, {}
    z, t = torch.randn(2, shape['channels'], shape['size'], shape['size']), torch.rand(2)
    for name, make in NETWORKS.items():
        try:
            networks[name] = make(**shape)
            networks[name][1](z, t)
        except Exception as error:
            networks.pop(name, None)
            errors[name] = f'{type(error).__name__}: {error}'[:200]
    return networks, errors


def evaluate(call, z, t):
    with torch.no_grad(): call(z, t)


def train(net, call, z, t):
    (call(z, t)**2).mean().backward()
    net.zero_grad()


def processor_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(works, repeats):
    "Seconds of each work, in turn, `repeats` times after one that is not counted."
    for work in works.values(): work()
    return [{name: processor_seconds(work) for name, work in works.items()} for _ in range(repeats)]


def ratios(rounds, yardstick):
    "Median, lowest and highest ratio to the yardstick of the same round, and median milliseconds."
    table = {}
    for name in rounds[0]:
        all_ratios = [r[name]/r[yardstick] for r in rounds]
        table[name] = dict(ratio=statistics.median(all_ratios), lowest=min(all_ratios), highest=max(all_ratios), milliseconds=1e3*statistics.median(r[name] for r in rounds))
    return table


def machine():
    "Where and when."
    cpu = next((line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name')), platform.processor())
    return dict(machine=cpu, threads=torch.get_num_threads(), torch=torch.__version__, date=datetime.date.today().isoformat())


def in_peers_environment():
    "Start this script again where the peers are, having made that place if need be."
    place = HERE.parent/'.venv-peers'
    if not (place/'.ready').exists():
        subprocess.run([sys.executable, '-m', 'venv', place], check=True)
        site = next((place/'lib').glob('python*'))/'site-packages'
        (site/'ours.pth').write_text(sysconfig.get_paths()['purelib'] + '\n' + str(HERE.parent) + '\n')
        subprocess.run([place/'bin/python', '-m', 'pip', 'install', '-q', '--no-deps', '-r', HERE/'requirements-peers.txt'], check=True)
        (place/'.ready').touch()
    os.execve(place/'bin/python', ['python', *sys.argv], {**os.environ, 'ASYNCPATCH_PEERS': '1'})


def main(repeats=9):
    if 'ASYNCPATCH_PEERS' not in os.environ: in_peers_environment()
    torch.set_num_threads(1)
    result = dict(machine(), repeats=repeats, shapes={})
    for title, shape in SHAPES.items():
        networks, errors = built(shape)
        z, t = torch.randn(shape['batch'], shape['channels'], shape['size'], shape['size']), torch.rand(shape['batch'])
        rounds = {'evaluation': interleaved({k: lambda c=call: evaluate(c, z, t) for k, (_, call) in networks.items()}, repeats),
                  'training': interleaved({k: lambda n=net, c=call: train(n, c, z, t) for k, (net, call) in networks.items()}, repeats)}
        result['shapes'][title] = dict(shape, errors=errors, parameters={k: count_parameters(net) for k, (net, _) in networks.items()},
                                       **{work: ratios(r, 'ours') for work, r in rounds.items()})
        print(f"\n{title}, batch {shape['batch']}: time relative to ours with one time per image (median, lowest to highest), images per second")
        for name in networks:
            cells = [f"{work} {v['ratio']:.2f} ({v['lowest']:.2f} to {v['highest']:.2f}) {1e3*shape['batch']/v['milliseconds']:7.0f}/s" for work, v in ((w, result['shapes'][title][w][name]) for w in rounds)]
            print(f"{name:18}{result['shapes'][title]['parameters'][name]/1e6:7.2f}M  {'   '.join(cells)}")
        for name, error in errors.items(): print(f'{name:18} not measured: {error}')
    (HERE/'throughput.json').write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
