"""What draws, fills, judges and trains on the CPU does so wherever the model's tensors are.

There is no GPU where these tests run, so one is pretended (`pretended.py`): it computes on the CPU,
and refuses what a GPU refuses. The same seeds must give the same numbers as on the CPU, up to
rounding in double precision. Run as a script, in a process of its own, since torch
can be told of one such device only, once."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils import backend_registration

import asyncpatch
from asyncpatch.adaptive import Accelerated, DualLoop, look_ahead_step, posterior_variance
from asyncpatch.data import digits
from asyncpatch.elbo_estimator import nll_bound
from asyncpatch.guidance import ClassGuidance, InputGuidance
from asyncpatch.laws import asyncpatch as asyncpatch_law
from asyncpatch.methods import METHODS
from asyncpatch.objectives import Velocity
from asyncpatch.proper_scores import energy_score
from asyncpatch.regret import answers, draw_exam, draw_led_exam, hurried, standard_uses
from asyncpatch.rival_laws import LAWS
from asyncpatch.samplers import euler_step, heun_step
from asyncpatch.spatial import synchronous_maps
from asyncpatch.stationary import StationaryGaussian
from asyncpatch.transformer import Transformer
from asyncpatch.unet import UNet
from asyncpatch.windows import Windowed

ROOT = Path(__file__).resolve().parent.parent
POSSIBLE = hasattr(backend_registration, '_setup_privateuseone_for_python_backend')
DIGITS, LATENT, COLOUR = (
    'digits-asyncpatch',
    'fashion-latent-asyncpatch',
    'textures-colour-asyncpatch',
)
MODELS = (DIGITS, 'garments', LATENT, COLOUR)


def double(name, device):
    "A model there, computing in double precision."
    return asyncpatch.load(name).to(device).to(torch.float64)


def hole(size, channels=1):
    "A ramp of greys with a square that is not known."
    known = torch.ones(1, 1, size, size, dtype=torch.bool)
    known[..., size // 4 : size // 2, size // 4 : size // 2] = False
    ramp = torch.linspace(-0.8, 0.8, size).expand(1, channels, size, size)
    return ramp.clone(), known


def five_lines(name, device):
    "Draw, by seed and by class where there are classes."
    model = double(name, device)
    label = [3, 5] if model.classes else None
    return asyncpatch.sample(model, n=2, label=label, seed=[7, 1], calls=4)


def in_order(order, device):
    return asyncpatch.sample(double(DIGITS, device), n=2, seed=0, calls=32, order=order)


def by_step(step, device):
    return asyncpatch.sample(double(DIGITS, device), n=2, label=3, seed=0, calls=8, step=step)


def without_a_seed(device):
    "At random, from the generator of the process, which has one stream on the CPU."
    torch.manual_seed(3)
    return asyncpatch.sample(double(DIGITS, device), n=2, seed=None, calls=3).isfinite()


def fill(method, name, device):
    "One method of inpainting, where the picture lies on the CPU."
    image, known = hole(28 if name == 'garments' else 8)
    budget = {} if method == 'biharmonic' else dict(calls=60)
    model = double(name, device)
    return asyncpatch.inpaint(model, image, known, method=method, label=3, seed=1, **budget)


def by_a_stream_of_the_cpu(device):
    "A generator of the CPU gives the same picture everywhere."
    model = double(DIGITS, device)
    return asyncpatch.sample(model, n=2, label=3, generator=torch.Generator('cpu'), calls=4)


def fill_there(device):
    "The picture lies where the model does."
    image, known = (v.to(device) for v in hole(8))
    return asyncpatch.inpaint(double(DIGITS, device), image, known, label=3, seed=1, calls=9)


def fill_picture(device):
    "A photograph larger than the network, in colour, as PIL has it."
    image, known = hole(24, channels=3)
    bytes_of = (127.5 * (image[0].movedim(0, -1) + 1)).round().to(torch.uint8).numpy()
    mask = Image.fromarray((255 * ~known[0, 0].numpy()).astype(np.uint8))
    filled = asyncpatch.inpaint(
        double(COLOUR, device), Image.fromarray(bytes_of), mask, seed=1, calls=3
    )
    return torch.from_numpy(np.asarray(filled).astype(float))


def fill_latent(device):
    image, known = hole(28)
    return asyncpatch.inpaint(double(LATENT, device), image, known, label=3, seed=1, calls=5)


def guided(device):
    "By class and by input, together."
    region = hole(8)[1].to(device)
    by_class = ClassGuidance(double(DIGITS, device), 1.5)
    model = InputGuidance(by_class, 2.0, region, generator=stream(device))
    return asyncpatch.sample(model, n=2, shape=(2, 1, 8, 8), label=3, seed=0, calls=5)


def in_windows(device):
    model = Windowed(double(DIGITS, device), 8, 4)
    return asyncpatch.sample(model, shape=(1, 1, 12, 12), seed=0, calls=5)


def led(plan, device):
    "By the uncertainty of the model itself."
    model = double(DIGITS, device)

    def uncertainty(z, t, label=None):
        return posterior_variance(model, z, t.clamp(max=0.99), label)

    maps, step = synchronous_maps(5).to(device), euler_step
    if plan == 'dual loop':
        maps = DualLoop(uncertainty, 8, 8, 3, 2, patch=2, device=device)
    if plan == 'accelerated':
        maps = Accelerated(uncertainty, 8, 8, 4, device=device)
    if plan == 'look-ahead':
        step = partial(look_ahead_step, uncertainty=uncertainty)
    return asyncpatch.sample(model, maps, shape=(2, 1, 8, 8), seed=0, step=step)


def bound(device):
    "Nats of two digits; random numbers come from the CPU, as everywhere in estimates."
    x = digits().held_out[torch.arange(2)].x.to(device)
    made = nll_bound(double(DIGITS, device), x, passes=2, generator=stream(device))
    return torch.stack([v for v in made if isinstance(v, torch.Tensor)][:1]).flatten()


def stream(device):
    return torch.Generator(device).manual_seed(5)


def times(law, device):
    return LAWS[law](4, 8, 8, stream(device), device=device)


def one_step(device):
    "Loss and gradient of a training step."
    torch.manual_seed(0)
    net = UNet(base=4, classes=10).double().to(device)
    x, label = digits().train[torch.arange(4)].x.double(), torch.arange(4)
    loss, _ = Velocity(asyncpatch_law)(net, x.to(device), label.to(device), stream(device))
    loss.backward()
    return torch.stack([p.grad.square().sum() for p in net.parameters() if p.grad is not None])


def transformer(device):
    torch.manual_seed(0)
    net = Transformer(size=8, patch=2, channels=1, classes=10, width=32, depth=2, heads=2).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model = asyncpatch.denoisers.Denoiser(net.to(device))
    return asyncpatch.sample(model, shape=(2, 1, 8, 8), label=3, seed=0, calls=3)


def texture(device):
    "The exact denoiser of a stationary texture, between known pixels."
    waves = torch.fft.fftfreq(16)
    spectrum = torch.exp(-50 * (waves[:, None] ** 2 + waves**2)).double()
    model = StationaryGaussian(spectrum, (16, 16)).to(device)
    return asyncpatch.sample(model, shape=(1, 1, 16, 16), seed=0, calls=3)


def regret(device):
    "Answers along exams, as the regret asks for, with random numbers of either device."
    oracle, use = double('garments', device), standard_uses(28, 28, 4)['raster']
    x = torch.zeros(2, 1, 28, 28, dtype=torch.float64, device=device)
    label = torch.tensor([1, 2], device=device)
    exams = [draw_exam(oracle, use, x, label, stream(place)) for place in (device, 'cpu')]
    rule = hurried(lambda z, t, label: z.square().mean(1, keepdim=True), 3)
    exams += [draw_led_exam(oracle, rule, 3, x, label, stream(device))]
    return torch.cat([answers(oracle, exam) for exam in exams])


def scored(device):
    draws = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return energy_score(draws.to(device), draws[0].to(device))


METHODS_OF_MODELS = [
    *((method, 'garments') for method in METHODS if method != 'supervised'),
    *((method, DIGITS) for method in ('native', 'repaint', 'dps')),
    ('supervised', 'digits-supervised'),
]
CASES = {
    **{f'five lines, {name}': partial(five_lines, name) for name in MODELS},
    **{f'{order} order': partial(in_order, order) for order in ('raster', 'spiral')},
    'Heun': partial(by_step, heun_step),
    'Euler': partial(by_step, euler_step),
    'without a seed': without_a_seed,
    'a generator of the CPU': by_a_stream_of_the_cpu,
    **{f'{how} of {name}': partial(fill, how, name) for how, name in METHODS_OF_MODELS},
    'a picture that is there': fill_there,
    'a large picture': fill_picture,
    'a hole through latents': fill_latent,
    'guided': guided,
    'in windows': in_windows,
    **{plan: partial(led, plan) for plan in ('dual loop', 'accelerated', 'look-ahead')},
    **{f'times of {law}': partial(times, law) for law in LAWS},
    'a bound': bound,
    'a training step': one_step,
    'a transformer': transformer,
    'a texture': texture,
    'regret': regret,
    'energy score': scored,
}


def compare(names):
    "Each case on the CPU and on the pretended device."
    from pretended import DEVICE, pretended

    for name in names:
        print('begins', name, flush=True)
        here = CASES[name]('cpu')
        with pretended():
            there = CASES[name](DEVICE)
            there = there.cpu()
        torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9)


class Forgetful:
    "A denoiser that makes a tensor where nobody asked for it."

    def __init__(self, model, spoil):
        self.model, self.spoil, self.device = model, spoil, model.device

    def __call__(self, z, t, label=None):
        return self.spoil(self.model(z, t, label))


SPOILED = {
    'a tensor of the CPU': (lambda x: x + torch.zeros(8), RuntimeError),
    'random numbers of the CPU': (
        lambda x: x + torch.randn(8, generator=torch.Generator(), device=x.device),
        RuntimeError,
    ),
    'numpy': (lambda x: x + torch.from_numpy(x.numpy()), TypeError),
}


def refuse():
    "Negative control: what a GPU refuses is refused here, and the sound one is not."
    from pretended import DEVICE, pretended

    with pretended():
        model = double(DIGITS, DEVICE)
        how = dict(shape=(2, 1, 8, 8), seed=0, calls=3)
        asyncpatch.sample(Forgetful(model, lambda x: x + x.new_zeros(8) + 0.0), **how)
        for what, (spoil, error) in SPOILED.items():
            with pytest.raises(error, match=DEVICE.type):
                asyncpatch.sample(Forgetful(model, spoil), **how)
            print(what)


def of_a_process(*words):
    "This file as a script."
    if not POSSIBLE:
        pytest.skip('this torch cannot pretend a device')
    call = [sys.executable, '-W', 'ignore', __file__, *words]
    return subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=900)


def test_what_works_on_the_cpu_works_on_a_device():
    ended = of_a_process('compare')
    assert ended.returncode == 0, ended.stdout[-200:] + ended.stderr[-2000:]
    assert ended.stdout.count('begins') == len(CASES)


def test_the_pretended_device_refuses_what_a_device_refuses():
    ended = of_a_process('refuse')
    assert ended.returncode == 0, ended.stdout[-200:] + ended.stderr[-2000:]
    assert ended.stdout.splitlines() == list(SPOILED)


if __name__ == '__main__':
    torch.set_num_threads(1)
    refuse() if sys.argv[1:] == ['refuse'] else compare(sys.argv[2:] or CASES)
