"Fashion-MNIST: true files, damaged files, swapped files, and the stock that ships."

import gzip
import os
import struct

import numpy as np
import pytest
import torch

from asyncpatch.data import batches
from asyncpatch.fashion import (
    FASHION_CLASSES,
    STOCK,
    fashion,
    fashion_stock,
    find_fashion,
    read_idx,
    stock_indices,
)

needs_data = pytest.mark.skipif(find_fashion() is None, reason='no Fashion-MNIST on this machine')
NAMES = [
    f'{part}-{what}-ubyte' for part in ('train', 't10k') for what in ('images-idx3', 'labels-idx1')
]


def idx(values):
    return (
        struct.pack(f'>{values.ndim + 1}I', 0x800 + values.ndim, *values.shape) + values.tobytes()
    )


def test_the_stock_ships_with_licence_and_source():
    stock = fashion_stock()
    assert len(stock) == 400 and stock.label.tolist() == [i % 10 for i in range(400)]
    assert stock[:].x.shape == (400, 1, 28, 28) and 'MIT' in stock.credit
    assert stock.classes == FASHION_CLASSES and len(set(FASHION_CLASSES)) == 10
    assert (STOCK / 'fashion.png').stat().st_size < 400_000
    card = (STOCK / 'README.md').read_text()
    assert 'MIT' in card and 'zalandoresearch' in card


@needs_data
def test_the_stock_is_what_it_says():
    held_out = fashion().held_out
    taken = held_out[stock_indices(held_out.label)]
    assert torch.equal(taken.x, fashion_stock()[:].x)
    assert torch.equal(taken.label, fashion_stock().label)


@needs_data
def test_flips_follow_the_images():
    "The order of torch.cat([x, x.flip(-1)]), on which networks have been trained."
    plain, train = fashion(mirror=False).train, fashion().train
    some = torch.tensor([0, 59_999, 123])
    both = train[torch.cat([some, some + 60_000])]
    x = plain[some].x
    assert torch.equal(both.x, torch.cat([x, x.flip(-1)]))
    assert torch.equal(both.label, plain[some].label.repeat(2))
    assert plain.pixels.dtype == torch.uint8 and (train.name, len(train)) == ('fashion', 120_000)
    assert next(batches(train, 4, 0))[0].shape == (4, 1, 28, 28)


@needs_data
@pytest.mark.parametrize('compressed', [False, True])
def test_both_layouts(tmp_path, compressed):
    folder = tmp_path / 'FashionMNIST/raw'
    folder.mkdir(parents=True)
    for name in NAMES:
        true = find_fashion() / f'{name}.gz'
        if compressed:
            (folder / f'{name}.gz').symlink_to(true)
        else:
            (folder / name).write_bytes(gzip.decompress(true.read_bytes()))
    for root in (tmp_path, folder, tmp_path / 'FashionMNIST'):
        assert torch.equal(fashion(root).held_out.pixels, fashion().held_out.pixels)


@needs_data
@pytest.mark.parametrize(
    'swap, says',
    [
        ({NAMES[0]: NAMES[1]}, 'images-idx3.*2049, a file of labels'),
        ({NAMES[1]: NAMES[0]}, 'labels-idx1.*2051, a file of images'),
        ({NAMES[0]: NAMES[2]}, 'train-images.*hold 60000 x 28 x 28 values, got 10000'),
        ({NAMES[3]: NAMES[1]}, 't10k-labels.*hold 10000 values, got 60000'),
    ],
)
def test_swapped_files(tmp_path, swap, says):
    for name in NAMES:
        (tmp_path / f'{name}.gz').symlink_to(find_fashion() / f'{swap.get(name, name)}.gz')
    with pytest.raises(ValueError, match=says):
        fashion(tmp_path)


@needs_data
def test_files_of_another_set_are_no_fashion(tmp_path):
    "The same shape and classes, other pixels; labels in another order."
    for name in NAMES:
        (tmp_path / f'{name}.gz').symlink_to(find_fashion() / f'{name}.gz')
    path = tmp_path / f'{NAMES[2]}.gz'
    path.unlink()
    path.with_suffix('').write_bytes(idx(np.zeros((10_000, 28, 28), np.uint8)))
    with pytest.raises(ValueError, match="t10k-images.*Fashion-MNIST's values"):
        fashion(tmp_path)
    path.with_suffix('').unlink()
    path.symlink_to(find_fashion() / f'{NAMES[2]}.gz')
    (tmp_path / f'{NAMES[3]}.gz').unlink()
    (tmp_path / NAMES[3]).write_bytes(idx((np.arange(10_000) % 10).astype(np.uint8)))
    with pytest.raises(ValueError, match="t10k-labels.*Fashion-MNIST's values"):
        fashion(tmp_path)


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match='apt-get install dataset-fashion-mnist'):
        fashion(tmp_path)
    (tmp_path / f'{NAMES[0]}.gz').write_bytes(b'')
    with pytest.raises(FileNotFoundError, match='train-labels-idx1-ubyte.gz, got neither'):
        fashion(tmp_path)


@pytest.mark.parametrize('compressed', [False, True])
def test_damaged_idx_files_are_refused(tmp_path, compressed):
    "300 mutations each: the true values, or a ValueError that begins with the file's name."
    true = idx(np.arange(60).reshape(3, 4, 5).astype(np.uint8))
    true = gzip.compress(true) if compressed else true
    path, refused = tmp_path / 'file', 0
    for seed in range(300):
        rng = np.random.RandomState(seed)
        content = bytearray(true[: rng.randint(0, len(true) + 1)])
        for place in rng.randint(0, max(len(content), 1), rng.randint(0, 3)):
            content[place : place + 1] = bytes([rng.randint(256)])
        path.write_bytes(content)
        try:
            assert read_idx(path, 3).shape == (3, 4, 5)
        except ValueError as error:
            assert str(error).startswith(str(path))
            refused += 1
    assert refused > 200


@pytest.mark.parametrize('shape', [(2**32 - 1,) * 3, (60_000, 28_000, 28_000), (2**28, 1, 2)])
def test_a_header_that_claims_terabytes_allocates_nothing(tmp_path, shape):
    path = tmp_path / 'file'
    path.write_bytes(struct.pack('>4I', 0x803, *shape))
    with pytest.raises(ValueError, match='claim at most'):
        read_idx(path, 3)


def test_a_compressed_file_that_explodes_is_read_no_further_than_claimed(tmp_path):
    "200 megabytes of zeros behind a header of 60 values: one value too many is enough."
    path = tmp_path / 'file.gz'
    with gzip.open(path, 'wb', compresslevel=1) as file:
        file.write(struct.pack('>4I', 0x803, 3, 4, 5))
        for _ in range(20):
            file.write(bytes(10_000_000))
    assert os.path.getsize(path) < 2_000_000
    with pytest.raises(ValueError, match='got 61 or more'):
        read_idx(path, 3)
