"""Our UNet beside its peers' at equal channels: images per second in training and in evaluation, as
ratios in one run.

    python benchmarks/throughput.py [REPEATS]

On one core, in this process; processor time, so that neighbours on the machine disturb little, and
each measurement beside one of the yardstick, so that what they disturb is disturbed alike. The
script makes an environment of its own in the checkout (.venv-peers: the packages of
requirements-peers.txt without their dependencies, and this environment's own) and starts itself
there; what does not import is reported with its error. The result is stored beside this file."""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import time
from functools import partial
from pathlib import Path

import torch
from scipy.stats import binom

from asyncpatch.unet import UNet, count_parameters

HERE = Path(__file__).parent
SHAPES = {  # images, batch, features of each level, residual blocks of each level
    'digits, 8x8': dict(channels=1, size=8, batch=64, widths=(16, 32), blocks=1),
    'small, 32x32': dict(channels=3, size=32, batch=8, widths=(64, 128, 192), blocks=1),
}
PAPER = dict(
    channels=3, size=64, batch=1, widths=(128, 256, 384, 384), blocks=2, groups=32, attention=2
)  # the 60M shapes, for many_clocks.py


def ours(channels, size, widths, blocks, **_):
    net = UNet(
        channels, widths[0], [w // widths[0] for w in widths], [blocks] * len(widths), middle=1
    )
    return net, lambda z, t: net(z, t.view(-1, 1, 1, 1))


def ours_per_pixel(channels, size, widths, blocks, **_):
    net, _ = ours(channels, size, widths, blocks)
    return net, lambda z, t: net(z, torch.rand(len(z), 1, *z.shape[-2:]))


def attended(widths, attention):
    return [i >= len(widths) - attention for i in range(len(widths))]


def diffusers(channels, size, widths, blocks, groups=8, attention=0, **_):
    from diffusers import UNet2DModel

    down = [f"{'Attn' if a else ''}DownBlock2D" for a in attended(widths, attention)]
    net = UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=blocks,
        block_out_channels=widths,
        norm_num_groups=groups,
        attention_head_dim=32,
        down_block_types=down,
        up_block_types=[name.replace('Down', 'Up') for name in reversed(down)],
    )
    return net, lambda z, t: net(z, 1000 * t).sample


def lucidrains(channels, size, widths, blocks, attention=1, **_):
    from denoising_diffusion_pytorch import Unet

    net = Unet(
        dim=widths[0],
        dim_mults=[w // widths[0] for w in widths],
        channels=channels,
        full_attn=tuple(attended(widths, attention)),
    )
    return net, lambda z, t: net(z, 1000 * t)


def azula(channels, size, widths, blocks, **_):
    from azula.nn.unet import UNet as Peer

    net = Peer(
        in_channels=channels,
        out_channels=channels,
        mod_features=widths[0],
        hid_channels=widths,
        hid_blocks=[2 * blocks] * len(widths),
    )  # as many parameters as the others
    return net, lambda z, t: net(z, t[:, None].expand(-1, widths[0]))


def spatialreasoners(channels, size, widths, blocks, attention=1, **_):
    import importlib.util
    import types

    if (
        'spatialreasoners' not in sys.modules
    ):  # its own __init__ asks for wandb and a trainer; the network does not
        package = types.ModuleType('spatialreasoners')
        package.__path__ = list(
            importlib.util.find_spec('spatialreasoners').submodule_search_locations
        )
        sys.modules['spatialreasoners'] = package
    from types import SimpleNamespace

    from spatialreasoners.denoising_model.denoiser.embedding import EmbeddingSinusodialCfg
    from spatialreasoners.denoising_model.denoiser.unet.model import UNet as Peer
    from spatialreasoners.denoising_model.denoiser.unet.model import UNetCfg
    from spatialreasoners.denoising_model.denoiser.unet.type_extensions import UNetModelInputs

    config = UNetCfg(
        time_embedding=EmbeddingSinusodialCfg(d_emb=256),
        hid_dims=list(widths),
        attention=attended(widths, attention),
        num_blocks=blocks,
    )
    net = Peer(config, SimpleNamespace(in_channels=channels, out_channels=channels))

    def call(z, t):
        answer = net(
            UNetModelInputs(
                z_t=z, t=t.view(-1, 1, 1, 1).expand(-1, 1, size, size), label=None, label_mask=None
            )
        )
        return (
            answer
            if torch.is_tensor(answer)
            else next(v for v in vars(answer).values() if torch.is_tensor(v))
        )

    return net, call


NETWORKS = dict(
    ours=ours,
    ours_per_pixel=ours_per_pixel,
    diffusers=diffusers,
    lucidrains=lucidrains,
    azula=azula,
    spatialreasoners=spatialreasoners,
)


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
    with torch.no_grad():
        call(z, t)


def train(net, call, z, t):
    (call(z, t) ** 2).mean().backward()
    net.zero_grad()


def processor_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def paired(works, yardstick, repeats):
    """Each work beside the yardstick, before it and after it by turns: ratios and milliseconds,
    `repeats` of each."""
    for work in works.values():
        work()
    seconds = {name: [] for name in works}
    for k in range(repeats):
        for name, work in works.items():
            one, other = (work, works[yardstick]) if k % 2 else (works[yardstick], work)
            first, second = processor_seconds(one), processor_seconds(other)
            seconds[name].append((first, second) if k % 2 else (second, first))
    return {
        name: summary([own / theirs for own, theirs in pairs], [own for own, _ in pairs])
        for name, pairs in seconds.items()
    }


def summary(ratios, seconds):
    """Median ratio, an interval that holds the true median with 95 per cent (order statistics), and
    median milliseconds."""
    ratios, out = sorted(ratios), int(binom.ppf(0.025, len(ratios), 0.5))
    return dict(
        ratio=statistics.median(ratios),
        low=ratios[out],
        high=ratios[-1 - out],
        milliseconds=1e3 * statistics.median(seconds),
        pairs=len(ratios),
    )


def machine():
    "Where and when."
    cpu = next(
        (
            line.split(':')[1].strip()
            for line in open('/proc/cpuinfo')
            if line.startswith('model name')
        ),
        platform.processor(),
    )
    return dict(
        machine=cpu,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        date=datetime.date.today().isoformat(),
    )


def in_peers_environment():
    "Start the running script again where the peers are, having made that place if need be."
    if 'ASYNCPATCH_PEERS' in os.environ:
        return
    place = HERE.parent / '.venv-peers'
    if not (place / '.ready').exists():
        subprocess.run([sys.executable, '-m', 'venv', place], check=True)
        site = next((place / 'lib').glob('python*')) / 'site-packages'
        (site / 'ours.pth').write_text(
            sysconfig.get_paths()['purelib'] + '\n' + str(HERE.parent) + '\n'
        )
        subprocess.run(
            [
                place / 'bin/python',
                '-m',
                'pip',
                'install',
                '-q',
                '--no-deps',
                '-r',
                HERE / 'requirements-peers.txt',
            ],
            check=True,
        )
        (place / '.ready').touch()
    os.execve(
        place / 'bin/python',
        [str(place / 'bin/python'), *sys.argv],
        {**os.environ, 'ASYNCPATCH_PEERS': '1'},
    )


def main(repeats=9):
    in_peers_environment()
    torch.set_num_threads(1)
    result = dict(machine(), repeats=repeats, shapes={})
    for title, shape in SHAPES.items():
        networks, errors = built(shape)
        z, t = (
            torch.randn(shape['batch'], shape['channels'], shape['size'], shape['size']),
            torch.rand(shape['batch']),
        )
        works = {
            'evaluation': {k: partial(evaluate, call, z, t) for k, (_, call) in networks.items()},
            'training': {k: partial(train, net, call, z, t) for k, (net, call) in networks.items()},
        }
        result['shapes'][title] = entry = dict(
            shape,
            errors=errors,
            parameters={k: count_parameters(net) for k, (net, _) in networks.items()},
            **{work: paired(cases, 'ours', repeats) for work, cases in works.items()},
        )
        print(
            f"\n{title}, batch {shape['batch']}: time relative to ours with one time per image "
            f"(median of {repeats} pairs and its 95 % interval), images per second"
        )
        for name in networks:
            cells = [
                f"{work} {v['ratio']:.2f} ({v['low']:.2f} to {v['high']:.2f}) "
                f"{1e3 * shape['batch'] / v['milliseconds']:7.0f}/s"
                for work, v in ((w, entry[w][name]) for w in works)
            ]
            print(
                f"{name:18}{entry['parameters'][name] / 1e6:7.2f}M  {'   '.join(cells)}", flush=True
            )
        for name, error in errors.items():
            print(f'{name:18} not measured: {error}')
    (HERE / 'throughput.json').write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
