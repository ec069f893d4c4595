"""Copy trained models into the package, each with a card written from its header and, where it has a row there, the record of Table 1.

python tools/ship_models.py                                    the digits models of `asyncpatch reproduce --full`, seed 0
python tools/ship_models.py leaves asyncpatch synchronous      models of another scale
python tools/ship_models.py digits patchwise --seeds 0 1 2     several seeds
python tools/ship_models.py digits asyncpatch --single         as they are, not in half precision
"""

import argparse
import sys

import numpy as np
import torch

from asyncpatch.runs import SCALES, _model_folder, checkout, load_record
from asyncpatch.unet import count_parameters
from asyncpatch.weights import SHIPPED, card, load, save, write_atomically

BUDGETS = {
    16: [('digits', 'leaves16')],
    24: [('leaves', 'leaves64', 'photos')],
}  # MiB of the models of scales together; design.md, leaves16 in the reserve


def numbers(scale, name, seed):
    "What Table 1 says of a model, for its card."
    path = checkout() / 'figures' / scale / 'tab01.json'
    if not path.is_file():
        return {}
    record = load_record(path)
    if name not in record.data.get('generation', {}) or seed not in record.config['seeds']:
        return {}
    scores, floor = (
        record.data['generation'][name][record.config['seeds'].index(seed)],
        np.mean(record.data['floor']['FD']),
    )
    return {
        f'generation FD (features: {record.features or "classifier"}), this seed': f"{scores['FD']:.2f}; real images {floor:.2f}",
        'class obeyed': f"{scores['obeyed']:.1%}",
    }


def ship(scale, name, seed, dtype):
    "One model and its card; what was written, or None where the model is not trained."
    folder = _model_folder(scale, name, seed)[0]
    if not (folder / 'weights.safetensors').is_file():
        print(f'{scale} {name} {seed}: no finished run in {folder}', file=sys.stderr)
        return None
    found = load(folder)
    net, about = getattr(found, 'net', found), dict(found.about)
    known = {
        'parameters': f'{count_parameters(net.requires_grad_()):,}',
        'stored as': str(dtype or torch.float32).removeprefix('torch.'),
    }
    written = save(
        SHIPPED / f'{scale}-{name}-{seed}.safetensors',
        net,
        dtype,
        **{k: v for k, v in about.items() if k != 'net'},
    )
    write_atomically(
        written.with_suffix('.md'),
        card(about, written.stem, {**known, **numbers(scale, name, seed)}),
    )
    print(written, f'{written.stat().st_size / 2**20:.2f} MiB')
    return written


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('scale', nargs='?', default='digits', choices=SCALES)
    parser.add_argument('names', nargs='*', default=['asyncpatch', 'synchronous'])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument(
        '--single', action='store_true', help='store as they are instead of in float16'
    )
    args = parser.parse_args()
    written = [
        ship(args.scale, name, seed, None if args.single else torch.float16)
        for name in args.names
        for seed in args.seeds
    ]
    for most, scales in [
        (most, scales)
        for most, families in BUDGETS.items()
        for scales in families
        if args.scale in scales
    ]:
        total = (
            sum(
                path.stat().st_size
                for scale in scales
                for path in SHIPPED.glob(f'{scale}-*.safetensors')
            )
            / 2**20
        )
        print(f'{" and ".join(scales)}: {total:.1f} MiB of {most}')
        if total > most:
            sys.exit(1)
    sys.exit(None in written)
