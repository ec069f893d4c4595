"Data that others depend on: streams and draws that never change, true formats, faults, workers."

import hashlib
import io
import sys
import warnings
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from asyncpatch.data import Mirrored, batch_indices, batches, digits, to_uint8, uniform_of
from asyncpatch.folders import Pictures, Rows, image_folder, lsun
from asyncpatch.imagenet import imagenet64
from asyncpatch.leaves import leaves
from asyncpatch.photographs import photo_crops
from asyncpatch.pictures import crop_then_area


def digest(parts):
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.numpy().tobytes())
    return whole.hexdigest()[:16]


def picture(number, size=(90, 70)):
    "Coloured noise, another one for each number."
    return Image.fromarray(
        np.random.RandomState(number).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def equal(stream, other):
    for (x, label), (x_other, label_other) in zip(stream, other, strict=True):
        if not (torch.equal(x, x_other) and torch.equal(label, label_other)):
            return False
    return True


def quietly(stream, steps):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return list(islice(stream, steps))


def test_the_stream_of_the_digits_never_changes():
    "Shipped records were trained on this stream: the digest was taken before sources and workers existed."
    stream = islice(batches(digits().train, 64, seed=5, start=17), 60)
    assert digest([part for batch in stream for part in batch]) == '889eaabb2bee47c4'


@pytest.mark.parametrize('count, size', [(7, 3), (1437, 64), (5, 12)])
def test_batches_against_the_definition(count, size):
    "Position p of the stream is entry p mod N of the permutation of (seed, floor(p/N)), whatever was asked for before."

    def position(p):
        return np.random.RandomState([9, p // count]).permutation(count)[p % count]

    for step in (40, 0, 3, 41):
        assert batch_indices(step, count, size, 9).tolist() == [
            position(p) for p in range(step * size, (step + 1) * size)
        ]


def test_the_leaves_never_change():
    "Draws to the last bit; pixels to what rounding on another machine may do; and one image alone is the image in a batch."
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
    "As far as a machine without one can tell: with pretended tensors, every operation finds its operands on one device."
    fake = pytest.importorskip('torch._subclasses.fake_tensor')
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


@pytest.fixture
def tiny_imagenet(tmp_path):
    for number, name in enumerate(
        (
            'n01440764/n01440764_18',
            'n01440764/n01440764_36',
            'n02102040/n02102040_7',
            'n02102040/n02102040_9',
            'n13133613/n13133613_1',
        )
    ):
        path = tmp_path / 'train' / f'{name}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (80 + 20 * number, 100)).save(path, quality=95)
    return tmp_path


def test_imagenet_and_a_corrupt_file(tiny_imagenet):
    whole = imagenet64(tiny_imagenet, mirror=False)[:5]
    assert whole.label.tolist() == [0, 0, 1, 1, 2]
    broken = tiny_imagenet / 'train/n02102040/n02102040_7.JPEG'
    broken.write_bytes(broken.read_bytes()[:-3000])
    with pytest.raises(ValueError, match='n02102040_7.JPEG cannot be read'):
        imagenet64(tiny_imagenet)[:10]
    alone, shared = (imagenet64(tiny_imagenet, on_error='skip') for _ in range(2))
    assert equal(quietly(batches(alone, 4, 0), 8), quietly(batches(shared, 4, 0, workers=2), 8))
    assert list(alone.unreadable) == list(shared.unreadable) == [str(broken)]
    found = alone[:5]
    assert torch.equal(found.x, whole.x[[0, 1, 3, 3, 4]]) and found.label.tolist() == [
        0,
        0,
        1,
        1,
        2,
    ]


def test_a_lost_file_is_no_corrupt_image(tiny_imagenet):
    source = imagenet64(tiny_imagenet, on_error='skip')
    (tiny_imagenet / 'train/n01440764/n01440764_18.JPEG').unlink()
    with pytest.raises(FileNotFoundError):
        source[:1]


def test_nothing_readable(tmp_path):
    for number in range(3):
        (tmp_path / f'{number}.png').write_text('no picture')
    with warnings.catch_warnings(), pytest.raises(ValueError, match='none of 3 images'):
        warnings.simplefilter('ignore')
        image_folder(tmp_path, 8, on_error='skip')[:1]


def test_imagenet_that_is_none(tmp_path, tiny_imagenet):
    picture(0).save(tmp_path / 'train/n01440764/x.JPEG')
    (tmp_path / 'val').mkdir()
    picture(0).save(tmp_path / 'val/ILSVRC2012_val_00000001.JPEG')
    with pytest.raises(ValueError, match='sorted into the folders'):
        imagenet64(tmp_path, split='val')


def test_mixed_sizes_and_modes(tmp_path):
    "One pixel, thin strips, grey, 16 bits, alpha: all come out square, and a constant stays what it was."
    constants = {
        'a.png': Image.new('RGB', (1, 1), (200, 200, 200)),
        'b.png': Image.new('L', (500, 10), 200),
        'c.png': Image.new('RGBA', (7, 300), (200, 200, 200, 255)),
        'd.png': Image.fromarray(np.full((40, 30), 200 * 257, np.uint16)),
        'e.webp': Image.new('RGB', (641, 480), (200, 200, 200)),
    }
    for name, constant in constants.items():
        constant.save(tmp_path / name, **(dict(lossless=True) if name.endswith('webp') else {}))
    assert (to_uint8(image_folder(tmp_path, 32)[:5].x) == 200).all()
    assert image_folder(tmp_path, 32, channels=1)[:5].x.shape == (5, 1, 32, 32)


def test_lsun(tmp_path, monkeypatch):
    lmdb = pytest.importorskip('lmdb')
    folder = tmp_path / 'bedroom_train_lmdb'
    folder.mkdir()
    with lmdb.open(str(folder), map_size=2**24) as base, base.begin(write=True) as transaction:
        for number in range(4):
            file = io.BytesIO()
            picture(number).save(file, 'webp', lossless=True)
            transaction.put(b'key%d' % number, file.getvalue()[: None if number != 2 else 200])
    with pytest.raises(ValueError, match=r'lmdb\[key2\] cannot be read'):
        lsun(tmp_path, 32)[:4]
    alone, shared = (lsun(tmp_path, 32, on_error='skip', mirror=True) for _ in range(2))
    assert equal(quietly(batches(alone, 3, 0), 6), quietly(batches(shared, 3, 0, workers=2), 6))
    assert (
        to_uint8(alone[:1].x)[0].movedim(0, -1).numpy()
        == np.asarray(crop_then_area(picture(0), 32))
    ).all()
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(ImportError, match='pip install lmdb'):
        lsun(tmp_path, 32)


def test_a_dataset_of_hugging_face(tmp_path):
    "Needs the optional `datasets`: a folder of images becomes a data set, is stored as parquet and read as rows."
    datasets = pytest.importorskip('datasets')
    for name in ('cat/0.png', 'cat/1.png', 'dog/0.png'):
        (tmp_path / 'raw' / name).parent.mkdir(parents=True, exist_ok=True)
        picture(int(name[4])).save(tmp_path / 'raw' / name)
    datasets.load_dataset(
        'imagefolder',
        data_dir=str(tmp_path / 'raw'),
        split='train',
        cache_dir=str(tmp_path / 'cache'),
    ).to_parquet(str(tmp_path / 'rows.parquet'))
    rows = datasets.load_dataset(
        'parquet',
        data_files=str(tmp_path / 'rows.parquet'),
        split='train',
        cache_dir=str(tmp_path / 'cache'),
    )
    assert torch.equal(Pictures(Rows(rows), 32)[:3].x, image_folder(tmp_path / 'raw', 32)[:3].x)
    assert Pictures(Rows(rows), 32)[:3].label.tolist() == [0, 0, 1]


def test_photographs_held_out_are_other_photographs():
    "No bright colour in a train crop of 16 by chance: the coffee's crops find no equal among 2,000 train crops."
    train, held_out = (
        photo_crops(16)[:2000].x.flatten(1),
        photo_crops(16, 'held_out')[:200].x.flatten(1),
    )
    textured = held_out[held_out.std(1) > 0.1]
    assert len(textured) > 50 and torch.cdist(textured, train).min() > 1
