"Feature networks where a page cannot go: killed training, files, precision, bad input."

import pytest
import torch
from torch.nn import functional as F

from asyncpatch import features, quality_features
from asyncpatch.leaves import leaves

LOADED = {
    'digits': (features.digits_features, (1, 8, 8)),
    'fashion': (quality_features.fashion_features, (1, 28, 28)),
    'leaves': (quality_features.leaves_features, (3, 16, 16)),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def images(shape, count=3, seed=0):
    return torch.rand(count, *shape, generator=seeded(seed)) * 2 - 1


@pytest.mark.parametrize('name', list(LOADED))
def test_features_have_mean_square_one_and_come_in_any_precision(name):
    load, shape = LOADED[name]
    net, x = load(), images(shape)
    found = net(x)
    torch.testing.assert_close(found.square().mean(1), torch.ones(3), rtol=1e-5, atol=1e-5)
    assert torch.equal(net(x.half()), net(x.half().float()))
    assert torch.equal(net(x.double()), found)
    assert features.embed(net, x[:0]).shape == (0, found.shape[1])
    rough = net.to(torch.bfloat16)(x)
    assert rough.dtype == torch.bfloat16 and (rough.float() - found).abs().mean() < 0.1


@pytest.mark.parametrize('name', list(LOADED))
def test_a_loaded_network_is_nobody_elses(name):
    load, shape = LOADED[name]
    before = load()(images(shape))
    load().half()
    assert torch.equal(load()(images(shape)), before)


@pytest.mark.parametrize('name', list(LOADED))
def test_what_is_no_picture_of_that_kind_is_refused(name):
    load, shape = LOADED[name]
    net, x = load(), images(shape)
    for bad, error, says in (
        (((x + 1) * 127.5).byte(), TypeError, 'floating-point'),
        ((x + 1) * 127.5, ValueError, r'\[0, 255\]'),
        (x.repeat(1, 2, 1, 1), ValueError, 'channels'),
        (x[0], ValueError, 'shape'),
    ):
        with pytest.raises(error, match=says):
            net(bad)
        with pytest.raises(error, match=says):
            net.layers(bad)


@pytest.mark.parametrize('kill_after', [0, 199, 200, 201, 399])
def test_training_that_was_killed_goes_on_to_the_same_weights(tmp_path, kill_after):
    "A small classifier of noise, stopped after any number of steps, then run again."

    def stream(fail_at=None):
        g = seeded(1)
        for step in range(10_000):
            if step == fail_at:
                raise KeyboardInterrupt
            yield torch.randn(2, 4, generator=g), torch.randint(3, (2,), generator=g)

    def loss(net, x, label):
        return F.cross_entropy(net(x), label)

    def train(*args, **options):
        kind = torch.nn.Linear
        return features.train_features(lambda: kind(4, 3), loss, *args, steps=450, **options)

    whole, checkpoint = train(stream()), tmp_path / 'features.checkpoint'
    with pytest.raises(KeyboardInterrupt):
        train(stream(kill_after), checkpoint=checkpoint)
    assert checkpoint.is_file() == (kill_after > 199)
    resumed = train(stream(), checkpoint=checkpoint)
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)
    assert [p.name for p in tmp_path.iterdir()] == ['features.checkpoint']


def test_a_file_says_what_it_holds_and_comes_back(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = features.DigitsFeatures()
    path = features.save_features(tmp_path / 'one.safetensors', net, {'seed': 3}, torch.float32)
    again = features.load_features(path, features.DigitsFeatures)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    with pytest.raises(FileNotFoundError):
        features.load_features(tmp_path / 'none.safetensors', features.DigitsFeatures)


def test_degrading_leaves_half_alone_and_does_what_it_says():
    x = leaves(16, 'held_out')[torch.arange(200)].x
    spoilt, strength = quality_features.degrade(x, seeded(4))
    clean = (strength == 0).all(1)
    assert torch.equal(spoilt[clean], x[clean]) and 20 < clean.sum() < 80
    noise_only = (strength[:, 0] == 0) & (strength[:, 1] > 0)
    sigma = (spoilt - x)[noise_only].flatten(1).std(1)
    torch.testing.assert_close(sigma, 0.3 * strength[noise_only, 1], rtol=0.15, atol=1e-3)
