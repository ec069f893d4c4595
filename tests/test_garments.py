"""The shipped worlds of garments: what the file says, exactly, everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import asyncpatch
from asyncpatch.conventions import generators
from asyncpatch.garments import (
    build,
    fit_classes,
    fit_lowrank,
    garments,
    pack_mixture,
    soft_texture,
)
from asyncpatch.schedules import cosine, rectified_flow
from asyncpatch.weights import save

WEIGHTS = Path(asyncpatch.__file__).parent / 'weights'
WORLDS = {'garments': (28, 28), 'garments14': (14, 14)}


def from_file(name):
    "Weights, means, labels and covariances of the file, by numpy, in double precision."
    with safe_open(WEIGHTS / f'{name}.safetensors', framework='np') as f:
        about = json.loads(f.metadata()['asyncpatch'])
        part = {k: f.get_tensor(k) for k in f.keys()}
    exact = {k: v.astype(float) for k, v in part.items() if v.dtype == np.float16}
    weights = np.exp(exact['log_weights'] - logsumexp(exact['log_weights']))
    d, G = exact['deviation'] ** 2, exact['bumps']
    smooth = np.sqrt(d)[:, :, None] * G

    def covariance(k, pixels):
        A, B = exact['factors'][k][pixels], smooth[k][pixels]
        own = about['kept'] * d[k][pixels] + about['least']
        return A @ A.T + about['texture'] * B @ B.T + np.diag(own)

    return weights, exact['means'], part['labels'], covariance


@pytest.mark.parametrize('name', WORLDS)
def test_the_world_is_what_its_file_says(name):
    "Log-density of a few pixels against scipy, by class and without; a wrong class differs."
    weights, means, labels, covariance = from_file(name)
    law, side = garments(name, torch.float64), WORLDS[name][0]
    keep = torch.zeros(1, side, side, dtype=torch.bool)
    keep[:, ::5, ::5] = True
    pixels = keep.flatten().numpy()
    part, label = law.marginal(keep), 6
    x = law.sample(4, torch.Generator().manual_seed(0), label=label)[:, keep]
    each = np.stack(
        [
            multivariate_normal(means[k][pixels], covariance(k, pixels)).logpdf(x.numpy())
            for k in range(len(weights))
        ],
        1,
    )
    mine = labels == label
    by_class = logsumexp(each[:, mine] + np.log(weights[mine] / weights[mine].sum()), axis=1)
    np.testing.assert_allclose(part.log_prob(x, label=label), by_class, rtol=1e-9)
    everything = logsumexp(each + np.log(weights), axis=1)
    np.testing.assert_allclose(part.log_prob(x), everything, rtol=1e-9)
    assert abs(part.log_prob(x, label=7).numpy() - by_class).max() > 1


@pytest.mark.parametrize('name', WORLDS)
def test_a_model_like_others(name):
    "What a denoiser knows, seeds and classes; the files keep to their budget and have cards."
    law = garments(name)
    assert law.size == WORLDS[name] and (law.channels, law.classes) == (1, 10)
    assert law.data == 'garments' and law.prediction == 'x0' and law.value_range == (-1, 1)
    assert law.about['kind'] == 'oracle' and law.dtype == torch.float32
    together = law.sample(4, generators(range(4)), label=torch.tensor([0, 3, 3, 9]))
    assert torch.equal(together[2:3], law.sample(1, generators([2]), label=3))
    assert together.abs().max() < 3 and together.isfinite().all()
    files = [WEIGHTS / f'{name}.{suffix}' for suffix in ('safetensors', 'md')]
    assert files[0].stat().st_size < 5 * 2**20 and 'Fashion-MNIST' in files[1].read_text()


def test_the_class_can_be_read_off_a_draw():
    "Bayes' rule finds the class that was asked for nearly always; the shirt is the hard one."
    law = garments('garments14')
    label = torch.arange(10).repeat(12)
    x = law.sample(120, torch.Generator().manual_seed(0), label)
    found = torch.stack([law.log_prob(x, None, c) for c in range(10)], 1).argmax(1)
    assert (found == label).double().mean() > 0.85


def test_float32_agrees_with_float64_at_hard_fields():
    single, exact = garments('garments14'), garments('garments14', torch.float64)
    generator = torch.Generator().manual_seed(1)
    kind, t = torch.rand(2, 30, 1, 14, 14, generator=generator)
    t = t.where(kind > 0.4, 0.0).where(kind > 0.2, 1.0).where(kind > 0.1, 1e-6)
    label = torch.arange(30) % 10
    x = exact.sample(30, generator, label)
    z = ((1 - t) * x + t * torch.randn(x.shape, generator=generator)).float()
    apart = single(z, t, label) - exact(z.double(), t.double(), label)
    assert apart.abs().max() < 5e-3
    assert torch.equal(single(z, t, label)[t == 0], z[t == 0])


def test_fit_and_file_on_other_images():
    "EM on pictures of one's own, in colour, through a file and back."
    generator = torch.Generator().manual_seed(2)
    label = torch.arange(240) % 2
    base = torch.where(label.view(-1, 1, 1, 1) > 0, 0.5, -0.5)
    x = base + 0.3 * torch.randn(240, 3, 4, 4, generator=generator)
    law = fit_classes(x, label, components=2, rank=2, rounds=3)
    assert law.classes == 2 and law.channels == 3
    assert law.log_prob(x, None, label).mean() > law.log_prob(x, None, 1 - label).mean() + 10
    bumps = soft_texture(4, 4).repeat(3, 1)
    about = dict(shape=[3, 4, 4], texture=0.3, kept=0.03, least=2e-4, data='mine')
    again = build(pack_mixture(law, bumps), about)
    assert (again.mean - law.mean).abs().max() < 2e-3 and again.data == 'mine'


@pytest.mark.parametrize('wrong', [dict(rank=48), dict(components=0), dict(floor=-1.0)])
def test_settings_that_do_not_fit(wrong):
    x = torch.randn(60, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    with pytest.raises(ValueError, match=next(iter(wrong))):
        fit_lowrank(x, **{'components': 2, 'rank': 2} | wrong)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_law_that_is_saved_comes_back_to_the_last_bit(tmp_path, dtype):
    "A shipped world saved again, and one's own; saved once more it is the same file."
    world = garments('garments14', dtype)
    again = asyncpatch.load(save(tmp_path / 'world.safetensors', world))
    z = world.sample(3, torch.Generator().manual_seed(0), torch.tensor([1, 5, 9]))
    t = torch.rand(3, 1, 14, 14, generator=torch.Generator().manual_seed(1)).to(dtype)
    for label in (None, torch.tensor([1, 5, 9])):
        assert torch.equal(again(z, t, label), world(z, t, label))
    assert again.data == world.data and again.about['class_names'] == world.about['class_names']
    first = (tmp_path / 'world.safetensors').read_bytes()
    assert save(tmp_path / 'again.safetensors', again).read_bytes() == first


def test_a_law_of_ones_own_is_saved_with_its_schedule(tmp_path):
    draw = torch.Generator().manual_seed(2)
    own = fit_lowrank(torch.randn(60, 1, 3, 4, generator=draw), 2, 2, rounds=2, generator=draw)
    z, t = torch.randn(2, 1, 3, 4, generator=draw), torch.full((1, 1, 1, 1), 0.4)
    for schedule in (rectified_flow, cosine):
        law = own._with(schedule=schedule)
        again = asyncpatch.load(save(tmp_path / 'own.safetensors', law))
        assert again.schedule is schedule and torch.equal(again(z, t), law(z, t))
    assert (own(z, t) - again(z, t)).abs().max() > 1e-3  # the schedule matters
    with pytest.raises(ValueError, match='schedule must be one of'):
        save(tmp_path / 'odd.safetensors', own._with(schedule=lambda t: (1 - t, t)))
