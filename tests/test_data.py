"Sources that others depend on: streams and draws that never change, workers, bytes."

import hashlib
from itertools import islice

import numpy as np
import pytest
import torch

from asyncpatch.data import Images, batch_indices, batches, digits, grid, to_uint8
from asyncpatch.leaves import leaves
from asyncpatch.photographs import photo_crops
from asyncpatch.sources import ByteImages, Mirrored, TakingTurns, stored, uniform_of


def digest(parts):
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.numpy().tobytes())
    return whole.hexdigest()[:16]


def equal(stream, other):
    for (x, label), (x_other, label_other) in zip(stream, other, strict=True):
        if not (torch.equal(x, x_other) and torch.equal(label, label_other)):
            return False
    return True


def test_the_stream_of_the_digits_never_changes():
    "Shipped records were trained on it: the digest is older than sources and workers."
    stream = islice(batches(digits().train, 64, seed=5, start=17), 60)
    assert digest([part for batch in stream for part in batch]) == '889eaabb2bee47c4'


@pytest.mark.parametrize('count, size', [(7, 3), (1437, 64), (5, 12)])
def test_batches_against_the_definition(count, size):
    "Position p is entry p mod N of the permutation of (seed, floor(p/N)), in any order of asking."

    def position(p):
        return np.random.RandomState([9, p // count]).permutation(count)[p % count]

    for step in (40, 0, 3, 41):
        assert batch_indices(step, count, size, 9).tolist() == [
            position(p) for p in range(step * size, (step + 1) * size)
        ]


def test_the_leaves_never_change():
    "Draws to the last bit, pixels to rounding; one image alone is the image in a batch."
    draws = (uniform_of(torch.arange(50), 3, torch.arange(40)) * 2**24).long()
    assert digest([draws]) == '6f2d8acb2f2c4157'
    source = leaves(16)
    together = source[torch.arange(200)].x
    assert (
        together[::20].mean((1, 2, 3))
        - torch.tensor(
            [0.0074, 0.2112, 0.0344, 0.0370, -0.0876, 0.1823, 0.0656, 0.3048, 0.2888, 0.1267]
        )
    ).abs().max() < 1e-3
    alone = torch.cat([source[torch.tensor([i])].x for i in range(0, 200, 20)])
    assert ((alone - together[::20]).abs() < 1e-4).float().mean() > 0.999


def test_leaves_and_crops_stay_on_the_gpu(monkeypatch):
    "With pretended tensors, every operation finds its operands on one device."
    fake, real = pytest.importorskip('torch._subclasses.fake_tensor'), torch.ones(1)
    with fake.FakeTensorMode(allow_non_fake_inputs=True):
        try:
            real.to('cuda')
        except RuntimeError:
            pytest.skip('this torch asks for a GPU where it should pretend one')
    from asyncpatch import leaves as module
    from asyncpatch.photographs import photos

    photos()
    monkeypatch.setattr(
        torch.Tensor, 'nonzero', lambda x: torch.arange(len(x), device=x.device)[:, None]
    )  # a pretended tensor has no values
    for name in ('leaves', 'photographs'):
        monkeypatch.setattr(f'asyncpatch.{name}.chosen', lambda index, count: index)
    caches = module.kind_table, module.radius_quantiles
    for cached in caches:
        cached.cache_clear()
    try:
        with fake.FakeTensorMode(allow_non_fake_inputs=True):
            for source in (leaves(32, device='cuda'), photo_crops(32, device='cuda')):
                assert source[torch.arange(8)].x.device.type == 'cuda'
            with pytest.raises(Exception, match='device'):
                leaves(32, device='cuda')[torch.arange(8)].x + torch.ones(3, 32, 32)
    finally:
        for cached in caches:
            cached.cache_clear()


@pytest.mark.parametrize('start', [0, 5])
def test_workers_give_the_same_stream(start):
    for source in (
        digits().held_out,
        Mirrored(leaves(8, 'held_out', count=33)),
        photo_crops(16, count=50),
    ):
        assert equal(
            list(islice(batches(source, 10, 2, start), 5)),
            list(islice(batches(source, 10, 2, start, workers=2), 5)),
        )
    assert not equal(
        list(islice(batches(source, 10, 2, start), 5)),
        list(islice(batches(source, 10, 3, start, workers=2), 5)),
    )


def test_photographs_held_out_are_other_photographs():
    "The crops held out find no equal among 2,000 train crops."
    train, held_out = (
        photo_crops(16)[:2000].x.flatten(1),
        photo_crops(16, 'held_out')[:200].x.flatten(1),
    )
    textured = held_out[held_out.std(1) > 0.1]
    assert len(textured) > 50 and torch.cdist(textured, train).min() > 1


@pytest.mark.parametrize('ranks', [2, 3, 6])
def test_the_shares_of_processes_make_up_the_batch(ranks):
    source = digits().held_out
    whole = list(islice(batches(source, 12, seed=4, start=3), 4))
    parts = [islice(batches(source, 12, 4, 3, rank=r, ranks=ranks), 4) for r in range(ranks)]
    for (x, label), *shares in zip(whole, *parts):
        assert torch.equal(torch.cat([share[0] for share in shares]), x)
        assert torch.equal(torch.cat([share[1] for share in shares]), label)
    with pytest.raises(ValueError, match='got 12, 5 and 0'):
        next(batches(source, 12, 4, ranks=5))


def test_the_stream_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    for workers in (0, 1):
        next(batches(digits().held_out, 4, 0, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_sources_say_what_they_are_whatever_wraps_them():
    "A name and a credit come from the source alone, through every wrapper; others have none."
    train = digits().train
    for source in (train, train[3:9], Mirrored(train), stored(train[:20]), train.to('cpu')):
        assert (source.name, source.credit, len(source.classes)) == ('digits', train.credit, 10)
        assert source[torch.tensor([1])].name == 'digits'
    nameless = Images(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64))
    assert nameless.name is None and Mirrored(nameless).credit is None
    assert TakingTurns((train, nameless)).name == 'digits and unnamed'
    assert TakingTurns((train, nameless)).credit == train.credit


def test_bytes_become_floats_rightly_or_are_refused():
    "Every byte is there and back the same; a byte is never taken for a value in [-1, 1]."
    every = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    label = torch.zeros(4, dtype=torch.int64)
    floats = ByteImages(every, label)[:].x
    assert floats.min() == -1 and floats.max() == 1
    for dtype in (torch.float64, torch.float32):
        assert torch.equal(to_uint8(floats.to(dtype)), every)
    assert torch.equal(to_uint8(every), every) and torch.equal(grid(every), grid(floats))
    with pytest.raises(TypeError, match=r'x.float\(\) / 127.5 - 1'):
        Images(every, label)
    with pytest.raises(TypeError, match='pixels must be a tensor of uint8'):
        ByteImages(floats, label)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.bool):
        with pytest.raises(TypeError, match='floating-point numbers'):
            to_uint8(torch.ones(2, 1, 4, 4).to(dtype))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-1, 1, 1001).to(dtype)
    assert torch.equal(to_uint8(x), to_uint8(x.double()))
