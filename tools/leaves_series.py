"""The colour models, each a run of its own: weights in half precision, a record and a sheet.

    python tools/leaves_series.py --dry                 what would be trained, in which order, and what it costs
    python tools/leaves_series.py --smoke               the whole series in a minute of one core, with tiny settings
    python tools/leaves_series.py --stage 1             one stage (1 to 5); all of them without it
    python tools/leaves_series.py --only leaves-head-0  one run
    python tools/leaves_series.py --ship                what is finished and meant to ship, into the package

Stages: 1 AsyncPatch and baseline; 2 autoencoder with two latent models, head, supervised; 3 seeds 1 and 2; 4 the other laws; 5 64 x 64,
and leaves with photographs. A run that is finished (in --out or --have) is skipped; one that was interrupted goes on. Nothing is replaced
by what has seen fewer images: that is put beside it as NAME-lesser, unless --force is said. `tools/train_leaves.sh` calls this on one GPU or several.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from asyncpatch import runs
from asyncpatch.conventions import generators
from asyncpatch.data import Images, TakingTurns, grid, to_uint8
from asyncpatch.denoisers import Denoiser
from asyncpatch.elbo import dequantise, path_bound
from asyncpatch.inpainting import METHODS
from asyncpatch.joint import corrupt
from asyncpatch.laws import LAWS
from asyncpatch.leaves import leaves
from asyncpatch.masks import MASKS
from asyncpatch.metrics import (
    embed,
    leaves_features,
    mean_and_error,
    mean_error,
    psnr,
    set_distances,
)
from asyncpatch.photographs import photo_crops
from asyncpatch.run_folders import read_log
from asyncpatch.runs import AUTOENCODERS, CHIPS, RECIPES, _counted, _model_folder, parsed, price
from asyncpatch.samplers import sample
from asyncpatch.spatial import synchronous as together
from asyncpatch.unet import count_parameters
from asyncpatch.weights import SHIPPED, card, load, save, write_atomically

STAGES = {
    1: ['leaves-asyncpatch-0', 'leaves-synchronous-0'],
    2: [
        'leaves64-autoencoder-0',
        'leaves64-latent-asyncpatch-0',
        'leaves64-latent-synchronous-0',
        'leaves-head-0',
        'leaves-supervised-0',
    ],
    3: [f'leaves-{law}-{seed}' for seed in (1, 2) for law in ('asyncpatch', 'synchronous')],
    4: [f'leaves-{law}-0' for law in ('independent', 'perlin', 'patchwise', 'ltg', 'mean_beta')],
    5: ['leaves64-asyncpatch-0', 'leaves64-synchronous-0', 'photos-asyncpatch-0'],
}
SHIPS = [*STAGES[1], *STAGES[2][:3]]
BUDGET = (
    24 * 2**20
)  # bytes of the leaves weights of 32 and 64 pixels that ship, together; leaves16 is in design.md's reserve
HELD_OUT = {
    'leaves': lambda device: leaves(32, 'held_out', device=device),
    'leaves64': lambda device: leaves(64, 'held_out', device=device),
    'leaves and photos': lambda device: TakingTurns(
        (
            leaves(32, 'held_out', device=device),
            photo_crops(32, 'held_out', label=10, device=device),
        )
    ),
}
FULL = dict(
    n=10_000,
    watched=1_000,
    points=51,
    levels=50,
    inpaint=256,
    bound=256,
    checkpoints=10,
    matmul=8192,
)
TINY = dict(n=240, watched=16, points=3, levels=4, inpaint=8, bound=4, checkpoints=2, matmul=64)
OVERHEAD = 1.5  # minutes beside training: compiling, stock, evaluation


def split(name):
    "Scale, model and seed of a run."
    scale, rest = name.split('-', 1)
    return scale, *rest.rsplit('-', 1)[:1], int(rest.rsplit('-', 1)[1])


def make_tiny():
    "The same series with settings that a core finishes in a minute."
    for scale in ('leaves', 'leaves64', 'photos'):
        RECIPES[scale].update(
            net=dict(
                channels=3,
                base=8,
                multipliers=[1, 2],
                blocks=[1, 1],
                classes=RECIPES[scale]['net']['classes'],
            ),
            steps=4,
            batch=8,
            warmup=2,
            precision='no',
        )
        RECIPES[scale].pop('minutes', None)
    AUTOENCODERS['leaves64'].update(
        net=dict(channels=3, base=8, multipliers=[1, 2, 4], blocks=1, codes=16),
        steps=4,
        batch=4,
        warmup=2,
    )
    AUTOENCODERS['leaves64'].pop('minutes', None)


def network(name):
    "Kind, configuration and side of what a run trains; nothing is trained to know it."
    scale, model, _ = split(name)
    kind, net, channels = parsed(model)[0], dict(RECIPES[scale]['net']), 3
    side = runs.images_of(RECIPES[scale]['data'])[torch.arange(1)].x.shape[-1]
    if kind == 'autoencoder':
        return 'autoencoder', dict(AUTOENCODERS[scale]['net']), side
    if kind == 'latent':
        return (
            'unet',
            dict(net, multipliers=[1, 2], blocks=[1, 1]),
            side // 2 ** (len(AUTOENCODERS[scale]['net']['multipliers']) - 1),
        )
    return (
        'unet',
        net,
        side,
    )  # condition and outputs of head and supervised model are a thousandth of the work


def costs(name):
    "Parameters, and operations of an image through the network and in training."
    kind, net, side = network(name)
    parameters, forward, training, encode = _counted(kind, json.dumps(net), side)
    if kind == 'autoencoder':
        training *= 2
    scale, model, _ = split(name)
    if parsed(model)[0] == 'head':
        training += forward
    if parsed(model)[0] == 'latent':
        training += _counted('autoencoder', json.dumps(AUTOENCODERS[scale]['net']), 4 * side)[3]
    return parameters, forward, training


def settings_of(name):
    scale, model, _ = split(name)
    return runs._own_recipe(scale, model)


def matmul_peak(device, side, repeats=5):
    "Operations per second of the largest matrix product, on random numbers: bf16 on an accelerator, single precision on a CPU."
    dtype = torch.bfloat16 if device.type == 'cuda' else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def once():
        began = clock(device)
        for _ in range(3):
            a @ b
        return 3 * 2 * side**3 / (clock(device) - began)

    once()
    return statistics.median(once() for _ in range(repeats))


def clock(device):
    if device.type != 'cpu':
        torch.accelerator.synchronize()
    return time.perf_counter()


def fast(device):
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda')


def expected_steps(name, peak):
    "Steps of a run, as its recipe says or as many as its minutes hold at 30 % of the measured peak."
    settings = settings_of(name)
    return settings['steps'] or max(
        1,
        round(0.3 * peak * 60 * settings['minutes'] * 0.85 / (costs(name)[2] * settings['batch'])),
    )


# --- what is measured


@cache
def judge_of(scale, size, device):
    return Judge(scale, dict(size), device)


class Judge:
    "Distances to held-out images, on features that come with the package, and inpainting errors."

    def __init__(self, scale, size, device):
        self.size, self.device = size, device
        self.features = leaves_features().to(device)
        source = HELD_OUT[RECIPES[scale]['data']](device)
        held = source[torch.arange(size['n'] + size['inpaint'])]
        self.examples, self.others = (
            held[: size['inpaint']].to(device),
            held[size['inpaint'] :].to('cpu'),
        )
        self.target = self.embed(self.others.x)

    def embed(self, x):
        return torch.cat(
            [embed(self.features, part.to(self.device)) for part in x.split(2000)]
        ).cpu()

    def distances(self, x, n=None):
        return (
            set_distances(self.embed(x), self.target[:n], 'leaves network')
            if len(x) >= 5 * 48
            else {}
        )  # what 48 features need

    def draw(self, net, count, points, decode=None, first=0, side=32):
        "Samples, the classes in turn; the noise of image i depends on i alone."
        drawn = []
        for k in range(first, first + count, 500):
            which = torch.arange(k, min(k + 500, first + count))
            with torch.no_grad(), fast(self.device):
                z = sample(
                    Denoiser(net),
                    together(points).to(self.device),
                    (len(which), net.channels, side, side),
                    label=(which % net.classes).to(self.device) if net.classes else None,
                    generator=generators(which.tolist(), self.device),
                )
                drawn.append((decode(z) if decode else z).float().clamp(-1, 1).cpu())
        return torch.cat(drawn)

    def inpaint(self, method, denoiser, **parameters):
        "Squared error in the hole, and its peak signal-to-noise ratio, for four families of masks."
        x, label, report, pictures = self.examples.x, self.examples.label, {}, {}
        for family, mask in MASKS.items():
            known = mask(len(x), *x.shape[-2:], torch.Generator().manual_seed(0)).to(self.device)
            with torch.no_grad(), fast(self.device):
                filled = (
                    METHODS[method](
                        denoiser,
                        x,
                        known,
                        label,
                        torch.Generator(self.device).manual_seed(1),
                        **parameters,
                    )
                    .float()
                    .clamp(-1, 1)
                )
            error, error_of_mean = mean_and_error(mean_error(filled, x, ~known))
            report[family] = dict(
                squared=error,
                error=error_of_mean,
                psnr=psnr(filled, x, ~known).mean().item(),
                **self.distances(filled.cpu(), len(x)),
            )
            pictures[family] = torch.where(known, x, 0.0).cpu(), filled.cpu()
        return report, pictures


def sheet(samples, pictures, path):
    "64 samples, the classes in turn, above inpaintings: eight masked images and, beside them, their completions."
    rows = [samples] + [torch.cat([masked[:8], filled[:8]]) for masked, filled in pictures.values()]
    page = Image.fromarray(grid(torch.cat(rows), 16).numpy())
    times = max(1, 64 // samples.shape[-1])
    page.resize((page.width * times, page.height * times), Image.Resampling.NEAREST).save(
        path, format='PNG'
    )


class Watch:
    "Called by `fit` as it goes: keeps distances of a thousand samples beside the step and the seconds, and gives pictures."

    def __init__(self, judge, folder, decode, side):
        self.judge, self.folder, self.decode, self.side = judge, folder, decode, side

    def __call__(self, net):
        x = self.judge.draw(
            net,
            self.judge.size['watched'],
            min(26, self.judge.size['points']),
            self.decode,
            side=self.side,
        )
        line = {
            k: read_log(self.folder)[-1][k] for k in ('step', 'seconds')
        } | self.judge.distances(x, len(x))
        with open(self.folder / 'curve.jsonl', 'a') as f:
            f.write(json.dumps(line) + '\n')
        return x[:20]


def measure(name, found, judge):
    "Numbers of a finished model, and what to show."
    scale, model, seed = split(name)
    kind, size, device = parsed(model)[0], judge.size, judge.device
    x = judge.examples.x
    if kind == 'autoencoder':
        with torch.no_grad():
            again = torch.cat(
                [
                    found.decode(found.encode(part.to(device)).latents).clamp(-1, 1).cpu()
                    for part in judge.others.x.split(250)
                ]
            )
        n = len(again)
        return (
            dict(
                reconstruction=dict(
                    psnr=psnr(again, judge.others.x).mean().item(), **judge.distances(again)
                )
            ),
            again[:64],
            {'whole': (judge.others.x[:8], again[:8])},
        )
    if kind == 'head':
        frozen = load(_model_folder(scale, 'asyncpatch', seed)[0], device)
        t = LAWS['asyncpatch'](
            len(x), *x.shape[-2:], generator=torch.Generator().manual_seed(0)
        ).to(device)
        z, noise = corrupt(x, t, torch.Generator(device).manual_seed(0))
        with torch.no_grad():
            guess = frozen.net(z, t, judge.examples.label)
            said, squared = (
                found(z, t, judge.examples.label, condition=guess),
                ((guess - (noise - x)) ** 2).mean(1, keepdim=True),
            )
        return (
            dict(
                head=dict(
                    correlation_of_logarithms=torch.corrcoef(
                        torch.stack([said.flatten(), squared.flatten().clamp(min=1e-8).log()])
                    )[0, 1].item(),
                    mean_said=said.exp().mean().item(),
                    mean_squared=squared.mean().item(),
                )
            ),
            x[:64].cpu(),
            {},
        )
    if kind == 'supervised':
        report, pictures = judge.inpaint('supervised', found, points=size['points'])
        return dict(inpainting=dict(supervised=report)), pictures['square'][1][:64], pictures
    decode, side = (
        (None, x.shape[-1])
        if kind != 'latent'
        else (
            lambda z, a=load(_model_folder(scale, 'autoencoder', seed)[0], device): a.decode(z),
            x.shape[-1] // 4,
        )
    )
    samples = judge.draw(found.net, size['n'], size['points'], decode, side=side)
    numbers = dict(generation=judge.distances(samples), n=len(samples))
    if kind == 'latent':
        return numbers, samples[:64], {}
    native, pictures = judge.inpaint('native', found, points=size['points'])
    repaint, _ = judge.inpaint(
        'repaint',
        found,
        levels=size['levels'],
        jump=max(1, size['levels'] // 10),
        resamples=5 if size['levels'] > 9 else 1,
    )
    y = judge.examples.x[: size['bound']]
    spacing = 2 / 255
    y = dequantise(
        to_uint8(y).float() * spacing - 1, spacing, torch.Generator(device).manual_seed(0)
    )
    nats = torch.cat(
        [
            path_bound(
                found,
                part,
                together(size['points']).to(device),
                label,
                generator=torch.Generator(device).manual_seed(0),
            ).nats
            for part, label in zip(y.split(128), judge.examples.label[: size['bound']].split(128))
        ]
    )
    bits, error = mean_and_error(nats / (y[0].numel() * math.log(2)) - math.log2(spacing))
    return (
        dict(
            numbers,
            inpainting=dict(native=native, repaint=repaint),
            bits=dict(path_of_one_clock=bits, error=error, steps=size['points'] - 1),
        ),
        samples[:64],
        pictures,
    )


# --- a run


def speed(log, batch, fallback):
    "Images per second between lines of the log in which nothing else was done; the median."
    pairs = [
        (b['step'] - a['step']) * batch / (b['seconds'] - a['seconds'])
        for a, b in zip(log, log[1:])
        if 'validation' not in a and 'validation' not in b and b['seconds'] > a['seconds']
    ]
    return statistics.median(pairs) if pairs else fallback


def train_and_measure(name, args, size, device, peak):
    "Train a model, or go on with it, then measure it and write its three files."
    from accelerate import PartialState

    scale, model, seed = split(name)
    began, folder, settings = (
        time.monotonic(),
        _model_folder(scale, model, seed)[0],
        settings_of(name),
    )
    for below in foundations(name):
        put_in_place(below, args, device)
    kind, judge, validate_every = (
        parsed(model)[0],
        judge_of(scale, tuple(size.items()), device),
        max(1, expected_steps(name, peak) // size['checkpoints']),
    )
    decode = None
    if kind == 'latent':
        autoencoder = load(_model_folder(scale, 'autoencoder', seed)[0], device)
        decode = autoencoder.decode
    pixels = judge.examples.x.shape[-1]
    watch = (
        Watch(judge, folder, decode, pixels // 4 if kind == 'latent' else pixels)
        if kind in ('law', 'latent')
        else None
    )
    options = dict(
        held_out=Images(judge.others.x[:512], judge.others.label[:512]),
        validate_every=validate_every,
        log_every=max(1, validate_every // 10),
        checkpoint_every=10 * validate_every if device.type == 'cuda' else validate_every,
        progress=args.smoke is False,
    )
    for attempt in range(3):
        try:
            found = runs.model(scale, model, seed, samples=watch, **options)
            break
        except TimeoutError as e:
            print(f'{name}: {e}', flush=True)
    else:
        raise TimeoutError(f'{name} did not end in three boxes of time')
    if not PartialState().is_main_process:
        return PartialState().wait_for_everyone()
    numbers, samples, pictures = measure(name, found, judge)
    parameters, forward, training = costs(name)
    about, log = dict(found.about), read_log(folder)
    rate = speed(log, about['batch'], about['steps'] * about['batch'] / about['seconds'])
    curve = (
        {
            line['step']: line
            for line in map(json.loads, (folder / 'curve.jsonl').read_text().splitlines())
        }
        if (folder / 'curve.jsonl').is_file()
        else {}
    )
    devices = PartialState().num_processes
    maker = next((chip.peak for chip in CHIPS.values() if chip.name in about['device']), None)
    net = getattr(found, 'net', found)
    record = dict(
        name=name,
        scale=scale,
        seed=seed,
        labelled=f"{'smoke settings, numbers mean nothing; ' if args.smoke else ''}trained on {devices} x {about['device']}",
        **{
            k: about[k]
            for k in (
                'data',
                'kind',
                'objective',
                'steps',
                'batch',
                'lr',
                'precision',
                'seconds',
                'device',
                'versions',
            )
        },
        commit=args.commit or about['commit'],
        law=about.get('law'),
        net=net.config,
        parameters=count_parameters(net.requires_grad_()),
        processes=devices,
        images_seen=about['steps'] * about['batch'],
        images_per_second=rate,
        operations_per_image=training,
        matmul_peak=peak,
        utilisation=rate * training / peak / devices,
        share_of_makers_peak=rate * training / maker / devices if maker else None,
        loss=[
            {
                k: v
                for k, v in line.items()
                if k in ('step', 'seconds', 'loss', 'norm', 'validation')
            }
            for line in log[:: max(1, len(log) // 200)]
        ],
        checkpoints=[curve[k] for k in sorted(curve)],
        **numbers,
        features='leaves network',
        wall=round(time.monotonic() - began, 1),
        made=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        not_yet=[
            other
            for other in sum(STAGES.values(), [])
            if other != name and not finished(other, args)
        ],
    )
    net.requires_grad_(False)
    write_product(name, record, net, about, samples, pictures, args)
    PartialState().wait_for_everyone()


def write_product(name, record, net, about, samples, pictures, args):
    "Weights in half precision, record and sheet; beside a better one if there is one."
    before = finished(name, args)
    lesser = (
        before is not None
        and json.loads(before.read_text())['images_seen'] > record['images_seen']
        and not args.force
    )
    stem = f'{name}-lesser' if lesser else name
    args.out.mkdir(parents=True, exist_ok=True)
    sheet(samples, pictures, args.out / f'{stem}.png')
    save(
        args.out / f'{stem}.safetensors',
        net,
        torch.float16,
        **{k: v for k, v in about.items() if k != 'net'},
    )
    write_atomically(args.out / f'{stem}.json', json.dumps(record, indent=1))
    if lesser:
        print(
            f'{name}: the one in {before.parent} has seen more images and is kept; this one is {stem}',
            flush=True,
        )


def finished(name, args):
    "The record of a finished run, or None."
    return next(
        (
            folder / f'{name}.json'
            for folder in (args.out, *args.have)
            if all(
                (folder / f'{name}{suffix}').is_file()
                for suffix in ('.json', '.safetensors', '.png')
            )
        ),
        None,
    )


def foundations(name):
    scale, model, seed = split(name)
    below = runs._foundation(model)
    return [f'{scale}-{below}-{seed}'] if below else []


def put_in_place(name, args, device):
    "What another run builds on, as it was written: the same numbers whether it was trained now or came from an earlier call."
    record = finished(name, args)
    if record is None:
        raise FileNotFoundError(f'{name} must be finished first: train it, or say --have FOLDER')
    scale, model, seed = split(name)
    found = load(record.with_suffix('.safetensors'))
    save(
        _model_folder(scale, model, seed)[0] / 'weights.safetensors',
        getattr(found, 'net', found),
        torch.float16,
        **{k: v for k, v in found.about.items() if k != 'net'},
    )


# --- the series


def plan(names, args, peak):
    "What is to be done, and what it will take."
    print(
        f"{'run':32}{'parameters':>11}{'half, MiB':>10}{'Gop/image':>10}{'minutes':>8}{'steps':>9}{'images':>8}  state"
    )
    total = minutes = shipping = 0
    for name in names:
        (parameters, _, training), settings = costs(name), settings_of(name)
        steps = expected_steps(name, peak)
        done, half = finished(name, args), 2 * parameters / 2**20
        lasts = settings.get('minutes') or steps * settings['batch'] * training / (0.3 * peak) / 60
        if not done:
            total, minutes = (
                total + steps * settings['batch'] * training,
                minutes + lasts + OVERHEAD * (args.smoke is False),
            )
        shipping += half * (name in SHIPS)
        print(
            f"{name:32}{parameters / 1e6:10.2f}M{half:10.2f}{training / 1e9:10.2f}{lasts:8.2f}{steps:9,}{steps * settings['batch'] / 1e6:7.2f}M  {'finished' if done else 'to do'}{', ships' if name in SHIPS else ''}"
        )
    print(
        f"to do: {price(total)}; about {minutes:.0f} minutes with {OVERHEAD} beside each training, if 30 % of a matrix product's {peak / 1e12:,.3g} Top/s is reached\nships: {shipping:.1f} MiB of {BUDGET / 2**20:.0f}, with what is in the package of other leaves {others(SHIPPED, SHIPS) / 2**20:.1f} MiB"
    )


def others(package, but):
    "Bytes of the leaves weights in a package that count towards the budget."
    return sum(
        path.stat().st_size
        for path in package.glob('leaves*.safetensors')
        if path.stem not in but and not path.stem.startswith('leaves16-')
    )


def ship(args):
    "Copy what is finished into the package, each with a card; nothing better is replaced, and not more than the budget."
    chosen = {name: record for name in SHIPS if (record := finished(name, args)) is not None}
    total = sum(
        record.with_suffix('.safetensors').stat().st_size for record in chosen.values()
    ) + others(args.package, chosen)
    if total > BUDGET:
        raise SystemExit(
            f'{total / 2**20:.1f} MiB of weights are more than {BUDGET / 2**20:.0f}: take others out first'
        )
    for name, path in chosen.items():
        record, target = json.loads(path.read_text()), args.package / f'{name}.safetensors'
        if target.is_file() and not args.force:
            there = load(target).about
            if there['steps'] * there['batch'] >= record['images_seen']:
                print(
                    f'{name}: the one that ships has seen {there["steps"] * there["batch"]:,} images, this one {record["images_seen"]:,}; kept'
                )
                continue
        about = load(path.with_suffix('.safetensors')).about
        numbers = {
            'parameters': f"{record['parameters']:,}",
            'stored as': 'float16',
            'images seen': f"{record['images_seen']:,}",
            **{f'generation, {k}': f'{v:.4g}' for k, v in record.get('generation', {}).items()},
        }
        write_atomically(target, path.with_suffix('.safetensors').read_bytes())
        write_atomically(target.with_suffix('.md'), card(about, name, numbers))
        print(target)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--stage', type=int, nargs='+', choices=list(STAGES))
    add('--only', nargs='+', choices=sum(STAGES.values(), []), metavar='RUN')
    add(
        '--out',
        type=Path,
        default=Path(os.environ.get('OUT') or ROOT / 'runs/series'),
        help='where weights, records and sheets go; $OUT, else runs/series',
    )
    add(
        '--have',
        type=Path,
        nargs='*',
        default=[ROOT / 'runs/series'],
        help='where finished runs of earlier calls lie',
    )
    add('--work', type=Path, default=ROOT / 'runs', help='where runs in progress lie')
    add('--minutes', type=float, help='of each training, in place of the recipe\'s')
    add(
        '--within',
        type=float,
        help='start no run that would not end within so many minutes from now',
    )
    add('--dry', action='store_true')
    add('--smoke', action='store_true')
    add('--ship', action='store_true')
    add('--again', action='store_true', help='also runs that are finished')
    add('--force', action='store_true', help='replace also what has seen more images')
    add('--commit', help='of the code, where git cannot say')
    add('--package', type=Path, default=SHIPPED, help=argparse.SUPPRESS)
    args, began = parser.parse_args(argv), time.monotonic()
    if args.ship:
        return ship(args)
    if args.smoke:
        make_tiny()
    for settings in (
        *(RECIPES[s] for s in ('leaves', 'leaves64', 'photos')),
        AUTOENCODERS['leaves64'],
    ):
        if args.minutes:
            settings.update(minutes=args.minutes, steps=None)
    if args.again:
        args.work = args.work / f'again-{int(time.time())}'
    os.environ.update(ASYNCPATCH_RUNS=str(args.work.resolve()), ASYNCPATCH_FROM_SCRATCH='1')
    names = args.only or [name for stage in args.stage or STAGES for name in STAGES[stage]]
    if args.dry:
        return plan(names, args, 0.8 * CHIPS['H200'].peak)
    from accelerate import PartialState

    device, size = PartialState().device, TINY if args.smoke else FULL
    torch.set_float32_matmul_precision('high')  # of the autoencoder, on a GPU
    peak = matmul_peak(
        device, size['matmul'] if device.type == 'cuda' else min(1024, size['matmul'])
    )
    if PartialState().is_main_process:
        plan(names, args, peak)
    for name in names:
        if finished(name, args) and not args.again:
            print(f'{name}: finished, kept', flush=True)
            continue
        lasts = settings_of(name).get('minutes', 0) + OVERHEAD * (not args.smoke)
        if args.within and (time.monotonic() - began) / 60 + lasts > args.within:
            print(
                f'{name}: would not end within {args.within:g} minutes; the same command goes on with it',
                flush=True,
            )
            break
        train_and_measure(name, args, size, device, peak)
        print(
            f'{name}: done, {(time.monotonic() - began) / 60:.1f} minutes since the start',
            flush=True,
        )


if __name__ == '__main__':
    main()
