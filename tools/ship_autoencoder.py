"""Train the small autoencoders that ship and write them into the package, each with its card.

    python tools/ship_autoencoder.py            all three, some minutes each on one core
    python tools/ship_autoencoder.py NAME …     some of them
"""
import sys
import time
from functools import partial

import torch
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from asyncpatch.autoencoder import Autoencoder, autoencoder_loss, codebook_health, stocked_masks
from asyncpatch.data import batches, leaves
from asyncpatch.masks import MASKS, latent_known
from asyncpatch.unet import count_parameters
from asyncpatch.weights import SHIPPED, save_tensors, write_atomically

SIZE, STEPS, BATCH, LR, SEED, IMAGES = 16, 800, 32, 2e-3, 0, 2**15
NETWORK = dict(base=16, multipliers=(1, 2, 4), blocks=1, codes=1024)
MODELS = {'leaves16-autoencoder': dict(conditioned=True, consistency=0.), 'leaves16-autoencoder-untold': dict(conditioned=False, consistency=0.),
          'leaves16-autoencoder-consistent': dict(conditioned=True, consistency=.3)}
WORDS = {'leaves16-autoencoder': 'told what is missing, as in the paper', 'leaves16-autoencoder-untold': 'trained on masked images without being told the mask: a control',
         'leaves16-autoencoder-consistent': 'told what is missing, and asked that known latents be those of the whole image'}

CARD = """# {name}

A vector-quantised autoencoder of 16 x 16 colour images with latents of 3 x 4 x 4, {words}; from the independent reproduction of *AsyncPatch Diffusion* (arXiv 2606.07079, App. F).

| | |
|---|---|
| network | Autoencoder, {parameters:,} parameters, {codes:,} codes, stored in half precision |
| data | textured dead leaves, drawn by this package, {images:,} training images |
| training | {steps:,} steps of {batch}, each image masked and whole; L1 and commitment, consistency {consistency:g}; seed {seed} |
| PSNR of whole held-out images, {held_out:,} | {psnr:.2f} dB |
| codes in use, perplexity (held out) | {used:.0%}, {perplexity:.0f} |
| change of known latents by a square hole (root mean square, in standard deviations) | {leak:.3f} |

**Use**: `asyncpatch.load("{name}")`. **Limits**: it reconstructs dead leaves at this scale, blurred: 10 bits for 16 colour pixels; it is there to measure how far a hole is felt. **Licence of the weights**: apache-2.0.
"""


def learn(conditioned, consistency):
    "The averaged network, and how long it took."
    torch.manual_seed(SEED)
    began, net = time.monotonic(), Autoencoder(**NETWORK, conditioned=conditioned)
    law = partial(stocked_masks, count=1024)
    adam, average = torch.optim.Adam(net.parameters(), LR, betas=(.9, .99)), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(.99))
    schedule = OneCycleLR(adam, LR, total_steps=STEPS, pct_start=.05)
    for step, (x, label) in zip(range(STEPS), batches(leaves(SIZE, 'train', IMAGES), BATCH, SEED)):
        loss, parts = autoencoder_loss(net, x, label, torch.Generator().manual_seed((SEED << 40) + step), law, consistency=consistency)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.)
        adam.step()
        adam.zero_grad()
        schedule.step()
        average.update_parameters(net)
        if step%50 == 0: print(step, f'{time.monotonic() - began:.0f} s', {k: round(v.item(), 4) for k, v in parts.items()}, flush=True)
    return average.module.eval(), time.monotonic() - began


@torch.no_grad()
def measure(net, count=1024):
    "On held-out images: quality, health, and how much a square hole is felt in known latents."
    x = leaves(SIZE, 'held_out')[torch.arange(count)].x
    known = MASKS['square'](count, SIZE, SIZE, torch.Generator().manual_seed(SEED))
    whole, masked = net.encode(x), net.encode(x, known)
    health = codebook_health(whole.code, len(net.codebook.code))
    error = (net.decode(whole.latents) - x).square().mean((1, 2, 3))
    change = (whole.latents - masked.latents).square().mean(1, keepdim=True)[latent_known(known, net.factor)]
    return dict(held_out=count, psnr=(10*torch.log10(4/error)).mean().item(), used=health.used.item(), perplexity=health.perplexity.item(), leak=change.mean().sqrt().item())


def ship(name):
    "One model and its card."
    net, seconds = learn(**MODELS[name])
    buffers = {k for k, _ in net.named_buffers()}
    net.load_state_dict({k: v if k in buffers else v.half().float() for k, v in net.state_dict().items()})
    about = dict(kind='autoencoder', net=net.config, data='leaves16', objective='autoencoder_loss', consistency=MODELS[name]['consistency'], steps=STEPS, batch=BATCH, lr=LR, seed=SEED, images=IMAGES, seconds=round(seconds), **measure(net))
    path = save_tensors(SHIPPED/f'{name}.safetensors', {k: v if k in buffers else v.half() for k, v in net.state_dict().items()}, about)
    write_atomically(SHIPPED/f'{name}.md', CARD.format(name=name, words=WORDS[name], parameters=count_parameters(net), codes=net.config['codes'], **{k: v for k, v in about.items() if k != 'net'}))
    print(path, path.stat().st_size, about)


if __name__ == '__main__':
    for name in sys.argv[1:] or MODELS: ship(name)
