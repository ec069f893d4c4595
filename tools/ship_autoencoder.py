"""Train the small autoencoders that ship, by the recipe of `runs`, and write them into the package, each with its card.

    python tools/ship_autoencoder.py            all three, some minutes each on one core
    python tools/ship_autoencoder.py NAME …     some of them

Runs are kept under `runs_folder('leaves16')`, so that one that was stopped goes on where it was.
"""

import sys
from functools import partial

import torch

from asyncpatch.autoencoder import Autoencoder, autoencoder_loss, codebook_health
from asyncpatch.leaves import leaves
from asyncpatch.masks import MASKS, latent_known
from asyncpatch.runs import AUTOENCODERS, images_of, model, recipe, runs_folder
from asyncpatch.training import fit
from asyncpatch.unet import count_parameters
from asyncpatch.weights import SHIPPED, load, save, write_atomically

SCALE, SIZE, SEED = 'leaves16', 16, 0
MODELS = {
    'leaves16-autoencoder-0': {},
    'leaves16-autoencoder-untold': dict(conditioned=False),
    'leaves16-autoencoder-consistent': dict(consistency=0.3),
}
WORDS = {
    'leaves16-autoencoder-0': 'told what is missing, as in the paper',
    'leaves16-autoencoder-untold': 'trained on masked images without being told the mask: a control',
    'leaves16-autoencoder-consistent': 'told what is missing, and asked that known latents be those of the whole image',
}

CARD = """# {name}

A vector-quantised autoencoder of 16 x 16 colour images with latents of 3 x 4 x 4, {words}; from the independent reproduction of *AsyncPatch Diffusion* (arXiv 2606.07079, App. F).

| | |
|---|---|
| network | Autoencoder, {parameters:,} parameters, {codes:,} codes, stored in half precision |
| data | textured dead leaves, drawn by this package |
| training | {steps:,} steps of {batch}, each image masked and whole; L1 and commitment, consistency {consistency:g}; seed {seed} |
| PSNR of whole held-out images, {held_out:,} | {psnr:.2f} dB |
| codes in use, perplexity (held out) | {used:.0%}, {perplexity:.0f} |
| change of known latents by a square hole (root mean square, in standard deviations) | {leak:.3f} |

**Use**: `asyncpatch.load("{name}")`. **Limits**: it reconstructs dead leaves at this scale, blurred: 10 bits for 16 colour pixels; it is there to measure how far a hole is felt. **Licence of the weights**: apache-2.0.
"""


def learn(name):
    "The averaged network of the recipe, or of the recipe with one change."
    if not (change := MODELS[name]):
        return model(SCALE, 'autoencoder', SEED)
    own = dict(AUTOENCODERS[SCALE], data=recipe(SCALE)['data'])
    network = partial(
        Autoencoder, **{**own.pop('net'), **{k: v for k, v in change.items() if k == 'conditioned'}}
    )
    objective = (
        partial(autoencoder_loss, consistency=change['consistency'])
        if 'consistency' in change
        else autoencoder_loss
    )
    return fit(
        runs_folder(SCALE) / 'models' / name,
        network,
        images_of(own['data']),
        objective,
        seed=SEED,
        **own,
    )


@torch.no_grad()
def measure(net, count=1024):
    "On held-out images: quality, health, and how much a square hole is felt in known latents."
    x = leaves(SIZE, 'held_out')[torch.arange(count)].x
    known = MASKS['square'](count, SIZE, SIZE, torch.Generator().manual_seed(SEED))
    whole, masked = net.encode(x), net.encode(x, known)
    health = codebook_health(whole.code, len(net.codebook.code))
    error = (net.decode(whole.latents) - x).square().mean((1, 2, 3))
    change = (
        (whole.latents - masked.latents)
        .square()
        .mean(1, keepdim=True)[latent_known(known, net.factor)]
    )
    return dict(
        held_out=count,
        psnr=(10 * torch.log10(4 / error)).mean().item(),
        used=health.used.item(),
        perplexity=health.perplexity.item(),
        leak=change.mean().sqrt().item(),
    )


def ship(name):
    "One model and its card, whose numbers are measured on what was written."
    net = learn(name)
    about = {k: v for k, v in net.about.items() if k not in ('net', 'kind')}
    path = SHIPPED / f'{name}.safetensors'
    save(path, net, torch.float16, **about)
    written = load(path)
    numbers = dict(consistency=MODELS[name].get('consistency', 0.0), **measure(written))
    save(path, net, torch.float16, **{**about, **numbers})
    write_atomically(
        SHIPPED / f'{name}.md',
        CARD.format(
            name=name,
            words=WORDS[name],
            parameters=count_parameters(written.requires_grad_()),
            codes=written.config['codes'],
            **{**about, **numbers},
        ),
    )
    print(path, path.stat().st_size, numbers)


if __name__ == '__main__':
    for name in sys.argv[1:] or MODELS:
        ship(name)
