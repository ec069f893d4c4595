"Pictures in folders and data bases: what counts, true formats, faults, workers."

import io
import sys
import warnings
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from asyncpatch.data import batches, to_uint8
from asyncpatch.folders import Pictures, Rows, files_in, image_folder, lsun
from asyncpatch.imagenet import imagenet64, imagenet_npz
from asyncpatch.pictures import crop_then_area


def picture(number, size=(90, 70)):
    "Coloured noise, another one for each number."
    shape = (size[1], size[0], 3)
    return Image.fromarray(np.random.RandomState(number).randint(0, 256, shape, dtype=np.uint8))


def equal(stream, other):
    for (x, label), (x_other, label_other) in zip(stream, other, strict=True):
        if not (torch.equal(x, x_other) and torch.equal(label, label_other)):
            return False
    return True


def quietly(stream, steps):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return list(islice(stream, steps))


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
    "One pixel, strips, grey, 16 bits, alpha: all come out square, and a constant stays the same."
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
    with pytest.raises(ImportError, match='needs lmdb'):
        lsun(tmp_path, 32)


def test_a_dataset_of_hugging_face(tmp_path):
    "With the optional `datasets`: a folder becomes a data set, then parquet, then rows."
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


def touch(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in ('.png', '.jpg'):
            picture(number, (8, 8)).save(path)
        else:
            path.write_bytes(b'something else')


HIDDEN = ['.ipynb_checkpoints/a.png', '.git/b.png', '._c.png', '__MACOSX/cats/._0.png']
NESTED = ['cats/.hidden/d.png', 'cats/@eaDir/e.jpg', 'cats/deep/.x/f.png', 'dogs/._g.png']
SYSTEM = ['Thumbs.db', 'cats/Thumbs.db', 'cats/desktop.ini', 'dogs/.DS_Store', '$RECYCLE.BIN/h.png']


@pytest.mark.parametrize('extra', [HIDDEN, NESTED, SYSTEM, HIDDEN + NESTED + SYSTEM])
def test_hidden_and_system_files_never_count(tmp_path, extra):
    "Classes, labels, files and fingerprint are what they are without them, and nobody is warned."
    touch(tmp_path, 'cats/0.png', 'cats/deep/1.png', 'dogs/0.png')
    alone = files_in(tmp_path)
    touch(tmp_path, *extra)
    (tmp_path / '.empty').mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        beside = files_in(tmp_path)
    assert beside == alone and beside.fingerprint() == alone.fingerprint()
    assert (alone.classes, alone.labels) == (('cats', 'dogs'), (0, 0, 1))


def test_hidden_files_beside_plain_images(tmp_path):
    touch(tmp_path, '0.png', '1.png', '._0.png', '.git/x.png', 'Thumbs.db')
    assert files_in(tmp_path).labels == (0, 0)


def test_other_files_are_named_and_the_order_is_that_of_names(tmp_path):
    touch(tmp_path, 'b/2.png', 'b/10.png', 'a/x.png', 'a/notes.txt', 'a/x.heic')
    with pytest.warns(UserWarning, match=r'1 .txt, 1 .heic left out'):
        files = files_in(tmp_path)
    assert [path[-8:] for path in files.paths] == ['/a/x.png', 'b/10.png', '/b/2.png']


@pytest.mark.parametrize(
    'names, says',
    [
        (['train_data_batch_1.npz', 'a.npz'], '2 .npz in .*imagenet_npz'),
        (['data.mdb', 'lock.mdb'], '2 .mdb in .*lsun'),
        (['train-images-idx3-ubyte'], 'Fashion-MNIST is read by fashion'),
        (['a/readme.txt'], '1 .txt in'),
        ([], 'got none'),
        (['.hidden.png'], 'got none'),
    ],
)
def test_a_folder_of_something_else_is_told_what_it_holds(tmp_path, names, says):
    touch(tmp_path, *[name for name in names if not name.endswith('.png')])
    if any(name.endswith('.png') for name in names):
        picture(0).save(tmp_path / '.hidden.png')
    with pytest.raises(ValueError, match=says):
        files_in(tmp_path)


def test_a_class_without_an_image_is_remarked_on(tmp_path):
    "It keeps its number, so that classes mean the same in another copy; nobody is left to guess."
    touch(tmp_path, 'a/0.png', 'b/notes.txt', 'c/0.png')
    with pytest.warns(UserWarning, match='classes without an image: b'):
        files = files_in(tmp_path)
    assert (files.classes, files.labels) == (('a', 'b', 'c'), (0, 2))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        (tmp_path / 'b/notes.txt').unlink()
        touch(tmp_path, 'b/0.png')
        assert len(files_in(tmp_path)) == 3  # the control


def test_links_that_lead_back_end(tmp_path):
    touch(tmp_path, 'a/0.png')
    (tmp_path / 'a/up').symlink_to('..')
    assert len(files_in(tmp_path)) == 1


def test_a_source_says_what_it_is_and_changes_with_its_files(tmp_path):
    touch(tmp_path / 'mine', 'cats/0.png', 'dogs/0.png')
    source = image_folder(tmp_path / 'mine', 8, mirror=True)
    assert (source.name, source.credit, source.classes) == ('mine', None, ('cats', 'dogs'))
    assert image_folder(tmp_path / 'mine', 8).fingerprint() == source.fingerprint()
    assert image_folder(tmp_path / 'mine', 4).fingerprint() != source.fingerprint()
    touch(tmp_path / 'mine', 'dogs/1.png')
    assert image_folder(tmp_path / 'mine', 8).fingerprint() != source.fingerprint()


def save_batch(path, count, first, compressed=False, size=64):
    rng = np.random.RandomState(count)
    data = rng.randint(0, 256, (count, 3 * size**2), dtype=np.uint8)
    labels = rng.randint(first, first + 1000, count)
    labels[:2] = first, first + 999
    save = np.savez_compressed if compressed else np.savez
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, data=data, labels=labels.tolist(), mean=data.mean(0))
    return data, labels - first


@pytest.mark.parametrize('first', [0, 1])
@pytest.mark.parametrize('compressed', [False, True])
def test_batches_of_imagenet_64(tmp_path, first, compressed):
    "Files in the order of their numbers; labels from 0; any index reads the bytes of its row."
    saved = [
        save_batch(tmp_path / f'train_data_batch_{number}.npz', count, first, compressed)
        for number, count in ((1, 5), (2, 3), (10, 4))
    ]
    data, labels = (np.concatenate(parts) for parts in zip(*saved))
    source = imagenet64(tmp_path, mirror=False)
    index = torch.tensor([11, 0, 4, 5, 7, 8, 5])
    assert (to_uint8(source[index].x).flatten(1).numpy() == data[index]).all()
    assert source[index].label.tolist() == labels[index].tolist()
    assert len(imagenet64(tmp_path)) == 24
    stream = list(islice(batches(source, 5, 0), 4))
    assert equal(stream, list(islice(batches(source, 5, 0, workers=2), 4)))


def test_a_batch_that_lies_is_refused_without_memory(tmp_path):
    "A header that claims more than the file holds; pickles; a file cut anywhere."
    path = tmp_path / 'val_data.npz'
    save_batch(path, 3, 1)
    true = path.read_bytes()
    claim = true.replace(b"'shape': (3, 12288)", b"'shape': (9**9, 9)", 1)
    longer = true.replace(b"(3, 12288), }", b"(9999999999,)}", 1)
    for content in (claim, longer, *(true[:n] for n in (0, 10, 100, 5000, len(true) - 30))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='val_data.npz'):
            imagenet_npz(tmp_path, split='val')[:]
    np.savez(path, data=np.array([{}, {}]), labels=[1, 2])
    with pytest.raises(ValueError, match='plain arrays'):
        imagenet_npz(tmp_path, split='val')


def test_a_data_base_that_was_cut_is_refused(tmp_path):
    "Mapped into memory, a file shorter than it says would end the process."
    lmdb = pytest.importorskip('lmdb')
    folder = tmp_path / 'bedroom_val_lmdb'
    folder.mkdir()
    with lmdb.open(str(folder), map_size=2**24) as base, base.begin(write=True) as transaction:
        for number in range(20):
            transaction.put(b'%d' % number, bytes(10_000))
    whole = (folder / 'data.mdb').read_bytes()
    for length in (0, 100, 4096, 9000, len(whole) // 2, len(whole) - 4096):
        (folder / 'data.mdb').write_bytes(whole[:length])
        with pytest.raises(ValueError, match='bedroom_val_lmdb'):
            lsun(tmp_path, 8, 'val')
