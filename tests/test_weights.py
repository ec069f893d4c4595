"""A file of weights says what its model is; whatever else it is given is refused in words."""

import json
import struct
import time

import pytest
import torch
from safetensors.torch import save as serialise
from torch import nn

import asyncpatch
from asyncpatch.autoencoder import Autoencoder
from asyncpatch.cards import card
from asyncpatch.denoisers import Denoiser
from asyncpatch.schedules import SCHEDULES
from asyncpatch.unet import UNet
from asyncpatch.weights import (
    complete_header,
    fingerprint,
    load,
    load_tensors,
    read_shapes,
    save,
    save_tensors,
    shipped,
    unwrapped,
)

CODER = dict(channels=1, base=4, multipliers=(1, 2), blocks=1, codes=8)


def small(**changes):
    torch.manual_seed(0)
    return UNet(**{**dict(base=4, classes=3), **changes})


# Wrapped networks


def in_a_group(net, tmp_path):
    where = f'file://{tmp_path}/rendezvous'
    torch.distributed.init_process_group('gloo', init_method=where, rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(net)


def test_a_wrapped_network_is_saved_as_what_it_is(tmp_path):
    net = small()
    wraps = dict(
        compiled=torch.compile(net),
        parallel=nn.DataParallel(net),
        both=torch.compile(nn.DataParallel(net)),
        averaged=torch.optim.swa_utils.AveragedModel(net),
        denoiser=Denoiser(net),
    )
    try:
        wraps['distributed'] = in_a_group(net, tmp_path)
        for name, wrapped in wraps.items():
            for kind in (None, 'denoiser'):
                found = load(save(tmp_path / f'{name}.safetensors', wrapped, kind=kind))
                assert fingerprint(found.net) == fingerprint(net) == fingerprint(wrapped), name
                assert found.about['net'] == net.config
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('kind', [None, 'denoiser', 'head', 'autoencoder'])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, kind):
    with pytest.raises(TypeError, match='net must be one of UNet, .*, got Sequential'):
        save(tmp_path / 'x.safetensors', nn.Sequential(small()), kind=kind)
    assert not list(tmp_path.iterdir())


# What a model is for


@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('prediction', ['v', 'x0', 'eps'])
def test_what_a_denoiser_knows_comes_back(tmp_path, schedule, prediction):
    known = dict(size=(12, 8), channels=1, classes=3, value_range=(-1.0, 1.0), data='mine')
    made = Denoiser(small(), SCHEDULES[schedule], prediction, **known)
    first = made.save(tmp_path / 'first.safetensors', steps=7)
    found = load(first)
    assert {name: getattr(found, name) for name in known} == known
    assert (found.schedule, found.prediction) == (SCHEDULES[schedule], prediction)
    z = torch.randn(2, 1, 12, 8)
    t = torch.full((2, 1, 1, 1), 0.4)
    assert torch.equal(found(z, t), made(z, t))
    assert found.save(tmp_path / 'again.safetensors').read_bytes() == first.read_bytes()


@pytest.mark.parametrize('dtype', [None, torch.bfloat16, torch.float16])
def test_saved_again_a_model_of_latents_is_the_same_file(tmp_path, dtype):
    coder = Autoencoder(**CODER)
    net = small(channels=coder.latent)
    facts = dict(size=[4, 4], value_range=None, data='mine', channels=3, classes=3)
    facts |= dict(schedule='rectified_flow', prediction='v')
    first = save(tmp_path / 'a.safetensors', net, dtype, autoencoder=coder, **facts)
    found = load(first)
    assert isinstance(found.autoencoder, Autoencoder) and found.value_range is None
    if dtype is None:
        assert fingerprint(found.autoencoder) == fingerprint(coder)
    assert found.save(tmp_path / 'b.safetensors').read_bytes() == first.read_bytes()


def test_numbers_that_half_precision_cannot_hold_are_stored_in_full(tmp_path):
    "A model that was stored in half and has learnt since is not cut again without a word."
    found = load(save(tmp_path / 'a.safetensors', small(), torch.bfloat16))
    assert found.about['stored'] == 'bfloat16'
    found.net.requires_grad_(True)
    with torch.no_grad():
        next(found.net.parameters()).add_(1e-6)
    again = load(found.save(tmp_path / 'b.safetensors'))
    assert fingerprint(again.net) == fingerprint(found.net)


def test_every_model_that_ships_knows_its_size():
    for name in shipped():
        found = load(name)
        if not isinstance(found, Denoiser):
            continue
        latent = found.about.get('objective') == 'LatentVelocity'
        side = dict(digits=8, leaves16=16, fashion=28).get(found.about['data'])
        assert (found.value_range is None) == latent == (found.autoencoder is not None), name
        if side:
            factor = found.autoencoder.factor if latent else 1
            assert found.size == (side // factor, side // factor), name
        assert found.classes == found.net.classes and found.schedule is not None


def tensors_of(model):
    return model.tensors() if hasattr(model, 'tensors') else dict(unwrapped(model).state_dict())


def test_every_model_that_ships_moves_and_is_saved_again(tmp_path):
    "Networks and oracles alike."
    for name in shipped():
        found = load(name)
        if not hasattr(found, 'save'):  # a head or an autoencoder is a network itself
            assert isinstance(found, nn.Module), name
            continue
        assert found.eval() is found, name
        assert found.to(device='cpu').dtype == found.to('cpu').dtype == torch.float32, name
        again = load(found.save(tmp_path / 'again.safetensors', **found.about))
        numbers, others = tensors_of(found), tensors_of(again)
        assert type(again) is type(found) and numbers.keys() == others.keys(), name
        assert all(torch.equal(numbers[key], others[key]) for key in numbers), name
        facts = ('size', 'channels', 'classes', 'data', 'value_range', 'prediction', 'schedule')
        assert [getattr(again, fact) for fact in facts] == [getattr(found, fact) for fact in facts]


@pytest.mark.parametrize('name', ['digits-asyncpatch-0', 'garments14', 'garments'])
def test_a_model_in_half_precision_draws_and_fills(name):
    "The five lines, after `.half()`: finite images, close to those of single precision."
    exact, rough = load(name), load(name).half()
    z = torch.randn(4, exact.channels, *exact.size, generator=torch.Generator().manual_seed(0))
    t = torch.full((4, 1, 1, 1), 0.5)
    assert (exact(z, t, 3) - rough(z, t, 3)).abs().max() < 0.02
    answer = rough(z.half(), t.half(), 3)
    assert answer.dtype == torch.float16 and (exact(z, t, 3) - answer.float()).abs().max() < 0.02
    images = asyncpatch.sample(rough, n=2, label=3, seed=0, calls=4)
    assert images.isfinite().all()
    known = torch.ones(exact.size, dtype=torch.bool)
    known[2:5, 2:5] = False
    filled = asyncpatch.inpaint(rough, images[0], known, label=3, seed=0, calls=4)
    assert filled.isfinite().all() and torch.equal(filled[..., known], images[0][..., known])


def test_nothing_is_looked_up_by_the_name_of_own_data(tmp_path):
    "Own data may have any name, that of a known set too: a header that knows sizes decides."
    for name in ('digits', 'leaves16', 'fashion', 'mine'):
        path = save(tmp_path / f'{name}.safetensors', small(channels=3), data=name, size=[20, 20])
        found = load(path)
        assert found.size == (20, 20) and 'scikit-learn' not in card(found.about, name)
        old = complete_header(dict(data=name, net=dict(channels=4), kind='denoiser'))
        assert old['size'] is None and old['credit'] is None


def test_a_licence_is_stated_only_where_one_is_given():
    about = dict(data='mine', size=[8, 8], net={}, kind='denoiser')
    assert 'icen' not in card(about, 'mine')
    assert 'license: cc0-1.0' in card(about, 'mine', licence='cc0-1.0')


# Damage


def raw(header, content=b''):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + content


def claim(dtype, shape, end):
    about = json.dumps(dict(kind='denoiser', net=small().config))
    return {
        '__metadata__': {'asyncpatch': about},
        'first.weight': dict(dtype=dtype, shape=shape, data_offsets=[0, end]),
    }


LIES = {
    'empty': b'',
    'short': b'\x01\x02',
    'endless header': struct.pack('<Q', 2**62) + b'{}',
    'header of a terabyte': struct.pack('<Q', 2**40) + b'{}',
    'tensor of a terabyte': raw(claim('F32', [2**38], 2**40), b'\0' * 64),
    'overflowing shape': raw(claim('F32', [2**62, 2**62], 4), b'\0' * 4),
    'deep': raw(b'[' * 100_000),
    'deep metadata': raw({'__metadata__': {'asyncpatch': '[' * 100_000 + ']' * 100_000}}),
    'a list for a header': raw({'__metadata__': {'asyncpatch': '[1, 2]'}}),
    'pickle': b'\x80\x04\x95' + b'x' * 50,
    'text': b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n',
}


@pytest.mark.parametrize('name', LIES)
def test_a_file_that_lies_is_refused(tmp_path, name):
    (tmp_path / 'x.safetensors').write_bytes(LIES[name])
    for read in (load, load_tensors, read_shapes):
        with pytest.raises(ValueError, match='x.safetensors'):
            read(tmp_path / 'x.safetensors')


@pytest.mark.parametrize(
    'changes',
    [
        dict(base=10**7),
        dict(blocks=[10**9, 1]),
        dict(blocks=10**9),
        dict(middle=10**9),
        dict(multipliers=[1] * 10**5),
        dict(multipliers=[10**6, 10**6]),
        dict(classes=10**12),
        dict(head_width=0),
        dict(base=-4),
        dict(base='4'),
        dict(unknown=1),
    ],
)
def test_a_configuration_that_claims_terabytes_asks_for_nothing(tmp_path, changes):
    net = small()
    about = dict(kind='denoiser', net={**net.config, **changes})
    save_tensors(tmp_path / 'x.safetensors', net.state_dict(), about)
    began = time.monotonic()
    with pytest.raises(ValueError, match='does not hold a network of this version'):
        load(tmp_path / 'x.safetensors')
    assert time.monotonic() - began < 30


def test_a_file_of_a_terabyte_that_is_mostly_hole_is_not_read(tmp_path):
    path, size = tmp_path / 'x.safetensors', 2**40
    path.write_bytes(raw(claim('F32', [size // 4], size)))
    try:
        with open(path, 'r+b') as f:
            f.truncate(path.stat().st_size + size)
    except OSError:
        pytest.skip('no sparse files of that size here')
    with pytest.raises(ValueError, match='x.safetensors'):
        load(path)


def test_mutations_of_a_true_file(tmp_path):
    "Each is a clean error or an answer; none a crash."
    path, net = tmp_path / 'x.safetensors', small()
    whole = save(path, net, data='digits', size=[8, 8]).read_bytes()
    head = 8 + struct.unpack('<Q', whole[:8])[0]
    chance = torch.Generator().manual_seed(0)
    refused = 0
    for k in range(150):
        wrong = bytearray(whole)
        place = int(torch.randint(head if k % 3 else len(whole), (), generator=chance))
        wrong[place] ^= 1 << int(torch.randint(8, (), generator=chance))
        path.write_bytes(wrong[:place] if k % 5 == 0 else wrong)
        try:
            load(path)
        except ValueError as e:
            assert 'x.safetensors' in str(e)
            refused += 1
    assert refused > 75


def test_a_foreign_safetensors_file_is_said_to_be_one(tmp_path):
    (tmp_path / 'x.safetensors').write_bytes(serialise({'x': torch.zeros(1)}))
    with pytest.raises(ValueError, match='not one of asyncpatch'):
        load(tmp_path / 'x.safetensors')
