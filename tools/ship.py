"""Copy trained models into the package, each with its card, within one budget.

    python tools/ship.py                        what `tools/ships.json` lists and is finished here
    python tools/ship.py fashion-asyncpatch-0   some of them, also in place of those that ship
    python tools/ship.py --check                only the budget, and that every model is listed

A model is `<scale>-<name>-<seed>`, as the zoo names it. Weights are stored in half precision. A
card says what the header says, and what was measured: Table 1's row of a model that has one,
quality on held-out images of an autoencoder. A model that has seen more images is never replaced by
one that has seen fewer."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from asyncpatch.cards import card
from asyncpatch.codebook import codebook_health
from asyncpatch.data import digits
from asyncpatch.files import write_atomically
from asyncpatch.leaves import leaves
from asyncpatch.masks import MASKS, latent_known
from asyncpatch.recipes import SIDES, recipe
from asyncpatch.records import checkout, load_record
from asyncpatch.weights import SHIPPED, load, load_tensors, save
from asyncpatch.zoo import finished_weights

LIST = json.loads((Path(__file__).parent / 'ships.json').read_text(encoding='utf-8'))
MODELS = {'-'.join(map(str, model)): tuple(model) for model in LIST['models']}


def held_out(scale, count):
    "Images that no model of a scale was trained on."
    if scale == 'digits':
        return digits().held_out.x[:count]
    if scale == 'fashion':
        from asyncpatch.fashion import fashion

        return fashion().held_out[torch.arange(count)].x
    return leaves(SIDES[recipe(scale)['data']], 'held_out')[torch.arange(count)].x


def scores_of_table_1(scale, name, seed):
    "What Table 1 says of a model."
    path = checkout() / 'figures' / scale / 'tab01.json'
    if not path.is_file():
        return {}
    record = load_record(path)
    if name not in record.data.get('generation', {}) or seed not in record.config['seeds']:
        return {}
    scores = record.data['generation'][name][record.config['seeds'].index(seed)]
    floor = np.mean(record.data['floor']['FD'])
    key = f'generation FD (features: {record.features or "classifier"}), this seed'
    return {
        key: f"{scores['FD']:.2f}; real images {floor:.2f}",
        'class obeyed': f"{scores['obeyed']:.1%}",
    }


@torch.no_grad()
def scores_of_autoencoder(net, scale, count=1024):
    "On held-out images: quality, use of the codes, and how far a square hole is felt."
    x = held_out(scale, count)
    known = MASKS['square'](len(x), *x.shape[-2:], torch.Generator().manual_seed(0))
    whole, masked = net.encode(x), net.encode(x, known)
    health = codebook_health(whole.code, len(net.codebook.code))
    error = (net.decode(whole.latents) - x).square().mean((1, 2, 3))
    change = (whole.latents - masked.latents).square().mean(1, keepdim=True)
    leak = change[latent_known(known, net.factor)].mean().sqrt()
    return {
        f'PSNR of {len(x):,} held-out images': f'{(10 * torch.log10(4 / error)).mean():.2f} dB',
        'codes in use, perplexity': f'{health.used:.0%}, {health.perplexity:.0f}',
        'change of known latents by a square hole, sd': f'{leak:.3f}',
    }


def images_seen(about):
    "By a model in training."
    return about['steps'] * about['batch']


def has_shipped(name):
    "Whether weights and card of a model lie there; the card comes last."
    return all((SHIPPED / f'{name}{suffix}').is_file() for suffix in ('.safetensors', '.md'))


def ship(name):
    "One model and its card; whether it ships now."
    scale, model, seed = MODELS[name]
    source, target = finished_weights(scale, model, seed), SHIPPED / f'{name}.safetensors'
    if source is None:
        print(f'{name}: no finished run on this machine', file=sys.stderr)
        return False
    found = load(source)
    net, about = getattr(found, 'net', found), {k: v for k, v in found.about.items() if k != 'net'}
    if target.is_file() and images_seen(load_tensors(target)[1]) > images_seen(about):
        print(f'{name}: the one that ships has seen more images and is kept')
        return False
    if isinstance(inside := getattr(found, 'autoencoder', None), torch.nn.Module):
        about['autoencoder'] = inside  # its weights go into the file
    target.with_suffix('.md').unlink(missing_ok=True)  # without a card it has not shipped
    save(target, net, torch.float16, **about)
    parameters = sum(value.numel() for value in net.parameters())
    numbers = {'parameters': f'{parameters:,}', 'stored as': 'float16'}
    numbers |= scores_of_table_1(scale, model, seed)
    if about.get('kind') == 'autoencoder':
        numbers |= scores_of_autoencoder(load(target), scale)
    write_atomically(
        target.with_suffix('.md'), card(found.about, name, numbers, licence='apache-2.0')
    )
    print(f'{target} {target.stat().st_size / 2**20:.2f} MiB')
    return True


def over_budget():
    "Families of weights that are larger than they may be, and models that no list names."
    sizes = {path.stem: path.stat().st_size / 2**20 for path in SHIPPED.glob('*.safetensors')}
    for family, most in LIST['budgets'].items():
        own = [size for name, size in sizes.items() if family in (name.split('-')[0], 'in all')]
        print(f'{family}: {sum(own):.1f} MiB of {most}')
        if sum(own) > most:
            yield f'{family}: {sum(own):.1f} MiB are more than {most}'
    others = sizes.keys() - MODELS.keys() - set(LIST['others'])
    yield from (f'{name}: ships, and tools/ships.json does not list it' for name in sorted(others))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('models', nargs='*', metavar='MODEL', choices=[[], *MODELS])
    parser.add_argument('--check', action='store_true')
    args = parser.parse_args(argv)
    new = [name for name in MODELS if not has_shipped(name)]
    shipped = [ship(name) for name in ([] if args.check else args.models or new)]
    wrong = list(over_budget())
    print('\n'.join(wrong), file=sys.stderr)
    return int(bool(wrong) or bool(args.models) and not all(shipped))


if __name__ == '__main__':
    sys.exit(main())
