"""Copy trained models into the package, each with a card written from its header and the record of Table 1.

    python tools/ship_models.py          the digits models of seed 0, trained by `asyncpatch reproduce --full`
"""
import shutil
from pathlib import Path

import numpy as np

from asyncpatch.runs import checkout, config_hash, load_record, model, recipe, runs_folder
from asyncpatch.unet import count_parameters
from asyncpatch.weights import write_atomically

SHIPPED = {'digits-asyncpatch': ('asyncpatch', 'AsyncPatch'), 'digits-baseline': ('synchronous', 'baseline')}

CARD = """# {name}

{title}: a class-conditional diffusion model of 8 x 8 handwritten digits with {clocks}, from the independent reproduction of *AsyncPatch Diffusion* (arXiv 2606.07079).

| | |
|---|---|
| network | UNet, {parameters:,} parameters; rectified flow, velocity prediction |
| data | scikit-learn's handwritten digits, {images:,} training images (UCI ML repository, CC BY 4.0), 17 grey levels on [-1, 1] |
| law of training times | {law} |
| training | {steps:,} steps of {batch}, SiD2 weight with bias {bias:g}, EMA {ema:g}, seed {seed} |
| generation FD (features: digits classifier), 360 samples | {fd:.2f} for this seed; real digits {floor:.2f} |
| class obeyed | {obeyed:.1%} |

**Use**: `asyncpatch.load("{name}")`. **Limits**: it knows {images:,} drawings by 13 hands and nothing else; it is there to show that the code is right, to be taken apart, and to be sampled on any machine.
"""


def ship(name, law, title):
    "One model of seed 0 and its card."
    denoiser, record = model('digits', law, 0), load_record(checkout()/'figures/digits/tab01.json')
    source = runs_folder('digits')/'models'/f'{law}-0-{config_hash(recipe("digits"))}'/'weights.safetensors'
    folder = checkout()/'asyncpatch/weights'
    shutil.copyfile(source, folder/f'{name}.safetensors')
    scores = record.data['generation'][law][record.config['seeds'].index(0)]
    card = CARD.format(name=name, title=title, clocks='one clock' if law == 'synchronous' else 'a clock for every pixel', parameters=count_parameters(denoiser.net.requires_grad_()), fd=scores['FD'],
                       obeyed=scores['obeyed'], floor=np.mean(record.data['floor']['FD']), **{k: denoiser.about[k] for k in ('images', 'law', 'steps', 'batch', 'bias', 'ema', 'seed')})
    write_atomically(folder/f'{name}.md', card)
    print(folder/f'{name}.safetensors', Path(folder/f'{name}.safetensors').stat().st_size)


if __name__ == '__main__':
    for name, (law, title) in SHIPPED.items(): ship(name, law, title)
