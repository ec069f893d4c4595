"A transformer with token times keeps the contracts of the UNet: files, tables, price, loop, shell."

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from asyncpatch import spatial
from asyncpatch.compute import operations
from asyncpatch.data import digits
from asyncpatch.denoisers import Denoiser
from asyncpatch.inpainting import native
from asyncpatch.laws import asyncpatch as asyncpatch_law
from asyncpatch.objectives import Uncertainty, shared_error_variance
from asyncpatch.recipes import NETWORK_FOR, RECIPES, SIDES, TOKENS, recipe_of
from asyncpatch.samplers import sample
from asyncpatch.tables import ask_by_table, plan_tables
from asyncpatch.training import fit
from asyncpatch.transformer import TRANSFORMERS, Transformer
from asyncpatch.unet import UNet, count_parameters
from asyncpatch.weights import architecture_of, load, save
from asyncpatch.zoo import train_model


def opened(seed=0, **settings):
    "A small network with random weights everywhere."
    torch.manual_seed(seed)
    net = Transformer(**{**dict(width=24, depth=2, heads=3, classes=4), **settings}).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3 / p.shape[-1] ** 0.5 if p.ndim > 1 else 0.3)
    return net.requires_grad_(False)


def question(n=3, side=8, channels=1, seed=1):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, channels, side, side, generator=draw)
    return z, asyncpatch_law(n, side, side, generator=draw), torch.arange(n) % 4 - 1


def test_against_a_plain_implementation_in_its_own_words():
    "One block, written as sums over tokens, without a table, in double precision."
    net = opened(width=8, depth=1, heads=2, rope=False, patch=1).double()
    z, t, label = question(n=1, side=2)
    z, t = z.double(), t.double()
    found = net(z, t, label)
    pixels, times = z.flatten(), t.flatten()
    half = net.embed.frequencies // 2
    rate = torch.exp(-math.log(1e4) * torch.arange(half, dtype=torch.float64) / half) * 1000
    waves = torch.cat([torch.cos(times[:, None] * rate), torch.sin(times[:, None] * rate)], 1)
    e = F.silu(net.embed.mlp(waves) + net.embed.label.weight[label[0]] * (label[0] >= 0))
    kernel = net.first.weight[:, 0, 0, 0]  # of the pixel; its deviation from its own time is 0
    x = pixels[:, None] * kernel + net.first.bias
    block = net.blocks[0]
    a1, b1, g1, a2, b2, g2 = block.modulate(e).chunk(6, 1)

    def standard(x):
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()

    qkv = block.attention.qkv(standard(x) * (1 + b1) + a1).view(4, 3, 2, 4)
    mixed = torch.zeros(4, 2, 4, dtype=torch.float64)
    for head in range(2):
        q, k, v = (qkv[:, i, head] for i in range(3))
        q, k = (
            u / (u.square().mean(1, keepdim=True) + 1e-5).sqrt() * gain
            for u, gain in zip((q, k), block.attention.gains)
        )
        weights = (q @ k.T / 2).exp()
        mixed[:, head] = weights / weights.sum(1, keepdim=True) @ v
    x = x + g1 * block.attention.out(mixed.flatten(1))
    x = x + g2 * block.mlp(standard(x) * (1 + b2) + a2)
    shift, scale = net.modulate(e).chunk(2, 1)
    wanted = net.last(standard(x) * (1 + scale) + shift)[:, 0]
    assert (found.flatten() - wanted).abs().max() < 1e-10


@pytest.mark.parametrize('patch', [1, 2, 4])
def test_every_way_of_giving_one_time(patch):
    net = opened(patch=patch)
    z, _, label = question()
    wanted = net(z, torch.full((3, 1, 1, 1), 0.4), label)
    for t in (torch.full((3, 1, 8, 8), 0.4), torch.full((1, 1, 8, 8), 0.4)):
        assert (net(z, t, label) - wanted).abs().max() < 1e-5 * wanted.abs().max().clamp(min=1)
    far = net(z, torch.full((3, 1, 1, 1), 0.9), label)
    assert (far - wanted).abs().max() > 1e-3


@pytest.mark.parametrize('patch', [1, 2, 4])
def test_tables_of_a_plan_say_the_same(patch):
    net = opened(patch=patch)
    z, field, label = question()
    maps = spatial.inpainting_maps(field > 0.5, spatial.time_grid(6))
    for table, t in zip(plan_tables(maps, net.halvings, 3), maps):
        apart = ask_by_table(net, z, table, label) - net(z, t, label)
        assert apart.abs().max() < 1e-5


def test_a_plan_costs_what_one_time_does():
    "Operations of a call at the table of an inpainting plan, over those at one time per image."
    net = Transformer(**TRANSFORMERS['DiT-S/4'], channels=4, classes=10).to('meta')
    z = torch.empty(1, 4, 32, 32, device='meta')
    label = torch.zeros(1, dtype=torch.long, device='meta')
    known = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    known[..., 4:20, 8:28] = True
    table = plan_tables(spatial.inpainting_maps(known, spatial.time_grid(3)), 2)[1]
    moved = [part.to('meta') for part in (table.values, table.index)]
    inner, flat = (tuple(x.to('meta') for x in part) for part in (table.inner, table.flat))
    table = table._replace(values=moved[0], index=moved[1], inner=inner, flat=flat)
    one = operations(lambda: net(z, torch.empty(1, 1, 1, 1, device='meta'), label))
    planned = operations(lambda: ask_by_table(net, z, table, label))
    field = operations(lambda: net(z, torch.empty(1, 1, 32, 32, device='meta'), label))
    assert one <= planned < 1.05 * one < 1.2 * one < field


def test_samplers_give_an_image_what_it_is_alone():
    denoiser = Denoiser(opened().double())
    z, field, label = question()
    known = field > 0.5
    x = z.double().clamp(-1, 1)
    together = native(denoiser, x, known, label, [1, 2, 3], points=6)
    for i in range(3):
        alone = native(
            denoiser, x[i : i + 1], known[i : i + 1], label[i : i + 1], [i + 1], points=6
        )
        assert (alone - together[i : i + 1]).abs().max() < 1e-10
    assert torch.equal(together[known], x[known])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    z, t, label = question()
    exact = Denoiser(opened())(z, t, label)
    rough = Denoiser(opened().to(dtype))(z, t, label)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.05 * exact.std()


def test_files_bring_it_back(tmp_path):
    net = opened(condition=2, outputs=2)
    path = save(tmp_path / 'net.safetensors', net, size=[8, 8])
    again = load(path)
    assert architecture_of(again.net) == 'transformer' and again.net.config == net.config
    z, t, label = question()
    condition = torch.randn(3, 2, 8, 8)
    assert torch.equal(again.net(z, t, label, condition), net(z, t, label, condition))
    assert again(z, t, label, condition=condition).shape == z.shape  # what comes after is left out
    for given in (None, condition[:, :1]):
        with pytest.raises(ValueError, match='condition must be'):
            net(z, t, label, given)


def test_what_is_refused():
    z, t, label = question()
    net = opened(classes=0)
    refused = [
        (lambda: net(z, t, label), 'without classes'),
        (lambda: net(z, t[..., :4]), 't must be'),
        (lambda: net(z[..., :7], t[..., :7]), 'sides that 2 divides'),
        (lambda: Transformer(width=30, heads=4), 'width must divide into 4 heads'),
        (lambda: Transformer(width=24, heads=4), 'that 4 divides for rotation'),
        (lambda: Transformer(depth=0), 'depth must be at least 1'),
    ]
    for ask, words in refused:
        with pytest.raises(ValueError, match=words):
            ask()


def test_the_recipes_networks_take_the_operations_of_the_unets():
    "At a field of times, forth and back: within a tenth."
    for scale in ('digits', 'garments14', 'fashion'):
        side = SIDES[RECIPES[scale]['data']]
        with torch.device('meta'):
            nets = UNet(**RECIPES[scale]['net']), Transformer(**TOKENS, classes=10)
            z, t = torch.empty(1, 1, side, side), torch.empty(1, 1, side, side)
            label = torch.zeros(1, dtype=torch.long)
        unet, tokens = (operations(lambda: net(z, t, label).sum().backward()) for net in nets)
        assert abs(tokens / unet - 1) < 0.1, (scale, tokens / unet)


@pytest.mark.parametrize('name', ['transformer-asyncpatch', 'forcing-ltg'])
def test_models_by_name(tmp_path, name):
    model = train_model(tmp_path / 'run', 'smoke', name, progress=False)
    assert architecture_of(model.net) == 'transformer'
    assert model.net.config['width'] == recipe_of('smoke', name)['net']['width']
    drawn = sample(model, spatial.synchronous_maps(4), (2, 1, 8, 8), label=1, generator=0)
    assert drawn.isfinite().all()
    if name.startswith('forcing'):
        z, t, label = question()
        variance = shared_error_variance(model)(z, t, label)
        assert variance.shape == (3, 1, 8, 8) and (variance > 0).all()


def test_a_head_of_its_own(tmp_path):
    "The other head: a transformer that is shown the guess of a frozen model, and shares nothing."
    frozen = opened(classes=10)
    head = partial(Transformer, width=8, depth=1, heads=2, classes=10, condition=1, outputs=1)
    objective = Uncertainty(frozen, asyncpatch_law)
    options = dict(steps=2, batch=8, kind='head', progress=False)
    made = fit(tmp_path / 'head', head, digits().train, objective, **options)
    z, t, label = question()
    assert made(z, t, label, condition=z).shape == (3, 1, 8, 8)


def test_networks_for_pictures():
    for size, patch in ((32, 2), (64, 4), (128, 8)):
        settings = NETWORK_FOR['transformer'](size)
        with torch.device('meta'):
            net = Transformer(**settings)
        assert settings['patch'] == patch and count_parameters(net) > 1e6
        assert (size // patch) ** 2 <= 256
