"CIFAR-10: tiny files of the true format in both versions, and every file that is not one."

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

import asyncpatch
from asyncpatch import benchmark, cifar, fid_tables, published, reproduction, zoo
from asyncpatch.cards import card
from asyncpatch.cifar import CIFAR10_CLASSES, CIFAR10_CREDIT, CIFAR10_DIGESTS, cifar10, find_cifar10
from asyncpatch.cli import main
from asyncpatch.distances import frechet_distance
from asyncpatch.recipes import RECIPES, SIDES
from asyncpatch.results import stored_images
from asyncpatch.unet import UNet, count_parameters
from asyncpatch.usage import UsageError
from asyncpatch.weights import load, save, save_tensors

BINARY = list(CIFAR10_DIGESTS)
PICKLES = [name.removesuffix('.bin') for name in BINARY]
EACH = 20  # records of a tiny file


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def contents(seed=0):
    "Pixels and classes of the six files; each file has all classes, the first image is red."
    rng = np.random.RandomState(seed)
    for name in PICKLES:
        pixels = rng.randint(0, 256, (EACH, 3, 32, 32)).astype(np.uint8)
        pixels[0] = 0
        pixels[0, 0] = 255
        yield name, pixels, rng.permutation(np.arange(EACH) % 10).astype(np.uint8)


def write_binary(folder, seed=0):
    folder.mkdir(parents=True)
    for name, pixels, label in contents(seed):
        both = np.concatenate([label[:, None], pixels.reshape(EACH, -1)], 1)
        (folder / f'{name}.bin').write_bytes(both.tobytes())
    return folder


def write_pickles(folder, seed=0):
    folder.mkdir(parents=True)
    for name, pixels, label in contents(seed):
        batch = dict(data=pixels.reshape(EACH, -1), labels=label.tolist())
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = dict(label_names=list(CIFAR10_CLASSES))
    (folder / 'batches.meta').write_bytes(pickle.dumps(meta))
    return folder


def publish(monkeypatch, folder):
    "The files of a folder as the published ones, with torchvision as in our own list."
    if (folder / BINARY[0]).is_file():
        for name in BINARY:
            monkeypatch.setitem(cifar.CIFAR10_DIGESTS, name, md5(folder / name))
        return
    lists = [[name, md5(folder / name)] for name in PICKLES]
    monkeypatch.setattr(CIFAR10, 'train_list', lists[:5])
    monkeypatch.setattr(CIFAR10, 'test_list', lists[5:])
    monkeypatch.setattr(CIFAR10, 'meta', dict(CIFAR10.meta, md5=md5(folder / 'batches.meta')))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(cifar, 'CIFAR10_RECORDS', EACH)
    monkeypatch.delenv('ASYNCPATCH_DATA', raising=False)


@pytest.fixture
def binary(tmp_path, monkeypatch):
    folder = write_binary(tmp_path / 'data/cifar-10-batches-bin')
    publish(monkeypatch, folder)
    return folder


@pytest.fixture
def pickles(tmp_path, monkeypatch):
    folder = write_pickles(tmp_path / 'data/cifar-10-batches-py')
    publish(monkeypatch, folder)
    return folder


def refused(folder, says):
    with pytest.raises(ValueError, match=says):
        cifar10(folder)


# --- what is read


def test_both_versions_give_the_same_images_in_the_same_order(binary, tmp_path, monkeypatch):
    ours = cifar10(binary)
    folder = write_pickles(tmp_path / 'others/cifar-10-batches-py')
    publish(monkeypatch, folder)
    theirs = cifar10(folder)
    written = list(contents())
    pixels = torch.from_numpy(np.concatenate([pixels for _, pixels, _ in written]))
    label = torch.from_numpy(np.concatenate([label for *_, label in written])).long()
    for split in (ours, theirs):
        train, test = split.train.source, split.held_out
        assert torch.equal(torch.cat([train.pixels, test.pixels]), pixels)
        assert torch.equal(torch.cat([train.label, test.label]), label)
    assert ours.train[torch.tensor([0])].x[0].mean((1, 2)).tolist() == [1, -1, -1], 'red first'


def test_what_the_source_says_of_itself(binary):
    split = cifar10(binary)
    assert (len(split.train), len(split.held_out)) == (10 * EACH, EACH)
    assert split.train.name == 'cifar10' and split.train.classes == CIFAR10_CLASSES
    assert 'A. Krizhevsky 2009' in split.train.credit and 'no licence' in split.train.credit
    assert len(set(CIFAR10_CLASSES)) == 10 and CIFAR10_CLASSES == tuple(sorted(CIFAR10_CLASSES))
    assert split.held_out.pixels.dtype == torch.uint8


def test_flips_follow_the_images(binary):
    plain, train = cifar10(binary, mirror=False).train, cifar10(binary).train
    some = torch.tensor([0, 5 * EACH - 1, 7])
    both, x = train[torch.cat([some, some + 5 * EACH])], plain[some].x
    assert torch.equal(both.x, torch.cat([x, x.flip(-1)]))
    assert torch.equal(both.label, plain[some].label.repeat(2))


def test_the_classes_are_torchvisions(pickles):
    assert tuple(CIFAR10(pickles.parent).classes) == CIFAR10_CLASSES


@pytest.mark.parametrize('version', ['binary', 'pickles'])
def test_where_it_is_found(version, request, monkeypatch, tmp_path):
    folder = request.getfixturevalue(version)
    assert find_cifar10(folder) == find_cifar10(folder.parent) == folder
    assert find_cifar10(tmp_path) is None
    monkeypatch.chdir(tmp_path)
    assert find_cifar10().resolve() == folder and len(cifar10().held_out) == EACH
    monkeypatch.chdir('/')
    assert find_cifar10() is None
    monkeypatch.setenv('ASYNCPATCH_DATA', str(folder.parent))
    assert find_cifar10() == folder and len(cifar10().held_out) == EACH


def test_a_folder_of_pickles_may_have_any_name(pickles, tmp_path):
    folder = pickles.rename(tmp_path / 'mine')
    assert len(cifar10(folder).held_out) == EACH


# --- what is not there


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="CIFAR10\\('data', download=True\\)"):
        cifar10(tmp_path)


@pytest.mark.parametrize('name', BINARY)
def test_a_missing_binary_file_is_named(binary, name):
    (binary / name).unlink()
    with pytest.raises(FileNotFoundError, match=f'root must hold {name}, got none'):
        cifar10(binary)


@pytest.mark.parametrize('name', [*PICKLES, 'batches.meta'])
def test_a_missing_pickle_is_named(pickles, name):
    (pickles / name).unlink()
    with pytest.raises(FileNotFoundError, match=f'root must hold {name}, got none'):
        cifar10(pickles)


# --- what is not CIFAR-10


@pytest.mark.parametrize('cut', [1, 3073, EACH * 3073])
def test_a_truncated_binary_file(binary, cut):
    path = binary / BINARY[2]
    path.write_bytes(path.read_bytes()[:-cut])
    refused(binary, f'data_batch_3.bin must hold {EACH} records of 3073 bytes.*got')


def test_a_surplus_in_a_binary_file(binary):
    path = binary / BINARY[5]
    path.write_bytes(path.read_bytes() + b'?')
    refused(binary, f'test_batch.bin must hold.*got {EACH * 3073 + 1}')


def test_a_class_that_is_none(binary):
    path = binary / BINARY[0]
    path.write_bytes(b'\x0a' + path.read_bytes()[1:])
    refused(binary, 'data_batch_1.bin must have classes from 0 to 9, got 10')


@pytest.mark.parametrize('a, b', [(0, 1), (4, 5)])
def test_exchanged_binary_files(binary, a, b):
    one, other = (binary / BINARY[k] for k in (a, b))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    refused(binary, f"{BINARY[a]} must hold CIFAR-10's bytes.*got those of {BINARY[b]}")


def test_binary_files_of_another_set(binary, tmp_path):
    "The true format, sizes and classes, other pixels."
    other = write_binary(tmp_path / 'other', seed=1)
    refused(other, "data_batch_1.bin must hold CIFAR-10's bytes.*got others")


def test_one_changed_bit(binary):
    path = binary / BINARY[3]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(binary, "data_batch_4.bin must hold CIFAR-10's bytes")


def test_classes_that_are_not_equally_many(binary, monkeypatch):
    "Behind digests that would be right."
    path = binary / BINARY[5]
    content = bytearray(path.read_bytes())
    content[0] = (content[0] + 1) % 10
    path.write_bytes(content)
    publish(monkeypatch, binary)
    refused(binary, f'must hold {EACH // 10} of each class, got')


# --- pickles


class Program:
    "What a pickle can do: here it leaves a file."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, 'w'))


@pytest.fixture
def opened(monkeypatch):
    "Counts what is unpickled."
    seen, load = [], pickle.load

    def watched(file, **options):
        seen.append(file.name)
        return load(file, **options)

    monkeypatch.setattr(pickle, 'load', watched)
    return seen


@pytest.mark.parametrize('name', [*PICKLES, 'batches.meta'])
def test_a_pickle_that_is_a_program_is_never_opened(pickles, opened, tmp_path, name):
    left = tmp_path / 'executed'
    (pickles / name).write_bytes(pickle.dumps(Program(left)))
    refused(pickles, f"{name} must hold CIFAR-10's bytes.*got others")
    assert opened == [] and not left.exists()
    pickle.loads((pickles / name).read_bytes()).close()  # it is a program
    assert left.exists()


@pytest.mark.parametrize('name', PICKLES)
def test_torchvision_compares_before_it_opens(pickles, opened, tmp_path, name):
    left = tmp_path / 'executed'
    (pickles / name).write_bytes(pickle.dumps(Program(left)))
    for train in (True, False):
        with pytest.raises(RuntimeError, match='corrupted'):
            CIFAR10(pickles.parent, train)
    assert opened == [] and not left.exists()


def test_torchvision_compares_the_meta_file_too(pickles, opened, tmp_path):
    (pickles / 'batches.meta').write_bytes(pickle.dumps(Program(tmp_path / 'executed')))
    with pytest.raises(RuntimeError, match='metadata file not found or corrupted'):
        CIFAR10(pickles.parent)
    assert not (tmp_path / 'executed').exists()


def test_what_is_right_is_opened_by_torchvision_alone(pickles, opened):
    cifar10(pickles)
    assert {name.rpartition('/')[2] for name in opened} == {*PICKLES, 'batches.meta'}


def test_without_a_published_digest_nothing_is_opened(pickles, opened, monkeypatch):
    monkeypatch.setattr(CIFAR10, 'test_list', [['test_batch', None]])
    refused(pickles, 'torchvision must publish an MD5 of test_batch, got None')
    assert opened == []


@pytest.mark.parametrize('change', [lambda b: b[:-1], lambda b: b + b'?', lambda b: b''])
def test_a_damaged_pickle(pickles, opened, change):
    path = pickles / PICKLES[1]
    path.write_bytes(change(path.read_bytes()))
    refused(pickles, "data_batch_2 must hold CIFAR-10's bytes")
    assert opened == []


def test_exchanged_pickles(pickles, opened):
    first, last = pickles / PICKLES[0], pickles / PICKLES[5]
    content = first.read_bytes()
    first.write_bytes(last.read_bytes())
    last.write_bytes(content)
    refused(pickles, 'data_batch_1 must hold.*got those of test_batch')
    assert opened == []


def test_a_set_of_another_size_behind_right_digests(pickles, monkeypatch):
    monkeypatch.setattr(cifar, 'CIFAR10_RECORDS', EACH + 1)
    refused(pickles, r'data_batch_\* must be \(105, 3, 32, 32\), got \(100, 3, 32, 32\)')


def test_without_torchvision_the_binary_version_is_read(binary, pickles, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'torchvision.datasets', None)
    assert len(cifar10(binary).held_out) == EACH
    with pytest.raises(ModuleNotFoundError, match=r'asyncpatch\[data\]'):
        cifar10(pickles)


def test_the_published_digests_are_as_they_were_found():
    "A slip of the finger in one of them would refuse the true files."
    names = [f'data_batch_{k}.bin' for k in range(1, 6)] + ['test_batch.bin']
    assert list(CIFAR10_DIGESTS) == names and len(set(CIFAR10_DIGESTS.values())) == 6
    assert all(len(bytes.fromhex(value)) == 16 for value in CIFAR10_DIGESTS.values())


# --- the scale


@pytest.fixture
def scale(binary, tmp_path, monkeypatch):
    "CIFAR-10's recipe with a tiny network, on tiny files, in folders of its own."
    tiny = dict(base=8, multipliers=[1, 2], blocks=[1, 1], attention=[1], head_width=8)
    net = {**RECIPES['cifar10']['net'], **tiny}
    own = dict(RECIPES['cifar10'], net=net, steps=2, batch=4, warmup=1)
    monkeypatch.setitem(RECIPES, 'cifar10', own)
    monkeypatch.setenv('ASYNCPATCH_DATA', str(binary.parent))
    monkeypatch.setenv('ASYNCPATCH_RUNS', str(tmp_path / 'runs'))
    monkeypatch.setattr(zoo, 'SHIPPED', tmp_path / 'shipped')
    monkeypatch.setattr(zoo.os, 'sched_getaffinity', lambda process: {0})  # train in this process
    monkeypatch.delenv('ASYNCPATCH_FROM_SCRATCH', raising=False)
    return tmp_path


def test_the_network_is_of_the_size_of_ddpms():
    found = RECIPES['cifar10']
    with torch.device('meta'):
        weight = count_parameters(UNet(**found['net']))
    assert 34e6 < weight < 38e6 and SIDES[found['data']] == found['net']['size'] == 32
    images = found['steps'] * found['batch']
    assert 1000 < images / 50_000 < 1100, 'a thousand passes'


def test_a_model_is_trained_draws_and_says_whose_images_it_saw(scale):
    made = zoo.model('cifar10', 'asyncpatch', progress=False)
    assert made.about['steps'] == 2 and made.about['batch'] == 4 and made.about['ema'] == 0.9999
    assert made.about['credit'] == CIFAR10_CREDIT and made.about['data'] == 'cifar10'
    assert made.about['class_names'] == list(CIFAR10_CLASSES)
    assert made.about['images'] == 10 * EACH and made.size == (32, 32) and made.channels == 3
    assert (scale / 'runs/cifar10/models').is_dir()
    x = asyncpatch.sample(made, n=3, label=[0, 9, 5], seed=1, calls=3)
    assert x.shape == (3, 3, 32, 32) and x.isfinite().all()
    again = zoo.model('cifar10', 'asyncpatch', progress=False)
    assert torch.equal(asyncpatch.sample(again, n=3, label=[0, 9, 5], seed=1, calls=3), x)
    path = zoo.finished_weights('cifar10', 'asyncpatch')
    page = card(load(path).about, 'cifar10-asyncpatch-0')
    assert 'A. Krizhevsky 2009' in page and 'no licence stated' in page
    assert page.splitlines()[0] == '---' and 'license:' not in page, 'none is claimed'


def test_it_ships_like_any_other(scale):
    path = scale / 'shipped/cifar10-asyncpatch-0.safetensors'
    made = zoo.model('cifar10', 'asyncpatch', progress=False)
    about = {k: v for k, v in made.about.items() if k != 'net'}
    save(path, made.net, torch.float16, **about)
    for folder in (scale / 'runs/cifar10/models').iterdir():
        folder.rename(scale / folder.name)
    found = zoo.model('cifar10', 'asyncpatch', progress=False)
    assert found.about['credit'] == CIFAR10_CREDIT
    assert not list((scale / 'runs/cifar10/models').glob('*/weights.safetensors'))


def test_the_command_trains_it(scale, capsys):
    out = scale / 'mine'
    assert main(['train', '--scale', 'cifar10', '--law', 'synchronous', '--out', str(out)]) == 0
    assert load(out).about['credit'] == CIFAR10_CREDIT


def test_the_command_says_how_to_get_the_images(scale, monkeypatch, capsys):
    monkeypatch.setenv('ASYNCPATCH_DATA', str(scale / 'empty'))
    assert main(['train', '--scale', 'cifar10', '--out', str(scale / 'mine')]) == 2
    said = capsys.readouterr().err
    assert "torchvision.datasets.CIFAR10('data', download=True)" in said


# --- FID


class StandIn(torch.nn.Linear):
    "A few sums of pixels in place of the published network."

    def __init__(self):
        super().__init__(3 * 32 * 32, 6)

    def forward(self, x):
        return super().forward(x.flatten(1))


@pytest.fixture
def few(scale, monkeypatch):
    "The configuration of the table, with everything small."
    sizes = dict(points=3, group=4, samples=20, quick=16, real=1000, held_out=EACH, shown=2)
    return {**fid_tables.fid_config('cifar10', 'quick'), **sizes}


def test_at_this_scale_alone_the_distance_is_fid():
    names = {scale: benchmark.distance_name(scale) for scale in RECIPES}
    assert {scale for scale, name in names.items() if name == 'FID'} == {'cifar10'}
    assert 'published' in benchmark.ABOUT_FEATURES['cifar10']
    with pytest.raises(ValueError, match='`fid_tables` has FID'):
        benchmark.few_samples_judged(torch.zeros(4, 3, 32, 32), torch.zeros(4), 'cifar10')


def test_the_held_out_images_are_the_users(scale):
    images = benchmark.held_out_images('cifar10')
    assert torch.equal(images.x, cifar10().held_out[:].x)


def test_the_table_by_a_stand_in(few, monkeypatch):
    net = StandIn()
    monkeypatch.setattr(fid_tables, 'fid_network', lambda: net)
    made = fid_tables.compute_fid(few)
    assert made['features'] == benchmark.ABOUT_FEATURES['cifar10'] and made['n'] == 20
    assert list(made['generation']) == ['synchronous', 'asyncpatch'] and made['calls'] == 2 * 20 * 2
    split = cifar10(mirror=False)
    with torch.no_grad():
        real, held_out = (net(part[:].x).double() for part in (split.train, split.held_out))
    expected = frechet_distance(held_out, real, per_feature=0).item()
    assert made['held out']['FID'] == pytest.approx(expected, rel=1e-4)
    for law, scores in made['generation'].items():
        denoiser = zoo.model('cifar10', law, progress=False)
        pixels = fid_tables.fid_samples(denoiser, few, law)
        assert torch.equal(made['pictures'][law], pixels[:2])
        with torch.no_grad():
            ours = net(stored_images(pixels)).double()
        expected = frechet_distance(ours, real, per_feature=0).item()
        assert scores[0]['FID'] == pytest.approx(expected, rel=1e-4)
        halves = [fid_tables.fid(half, real) for half in (ours[:8], ours[8:16])]
        assert made['cells'][f'FID of half a quick run, {law}'] == pytest.approx(halves, rel=1e-4)


def test_samples_do_not_depend_on_their_group_and_are_taken_up(few, scale):
    denoiser = zoo.model('cifar10', 'asyncpatch', progress=False)
    x = fid_tables.fid_samples(denoiser, few, 'asyncpatch')
    assert x.dtype == torch.uint8 and x.shape == (20, 3, 32, 32)
    kept = sorted((scale / 'runs/cifar10/samples').glob('fid-*'))
    assert len(kept) == 5
    times = [path.stat().st_mtime_ns for path in kept]
    assert torch.equal(fid_tables.fid_samples(denoiser, few, 'asyncpatch'), x)
    assert [path.stat().st_mtime_ns for path in kept] == times
    apart = fid_tables.fid_samples(denoiser, dict(few, group=7), 'asyncpatch').int() - x.int()
    assert apart.abs().max() <= 1, 'rounding of sums in batches'


def test_without_the_published_weights_there_is_no_fid(few, monkeypatch, tmp_path):
    monkeypatch.setenv('ASYNCPATCH_METRICS', str(tmp_path / 'none'))
    made = fid_tables.compute_fid(few)
    assert made['features'] is None and 'cells' not in made
    assert made['held out']['FID'] is None and made['pictures']['asyncpatch'].shape[0] == 2
    assert [scores[0]['FID'] for scores in made['generation'].values()] == [None, None]
    with pytest.raises(FileNotFoundError, match='asyncpatch fetch inception'):
        benchmark.features_and_embedding('cifar10')


def test_with_weights_the_network_is_inception(monkeypatch, tmp_path):
    "Random weights in the place of the published ones: the path from file to number."
    monkeypatch.setenv('ASYNCPATCH_METRICS', str(tmp_path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = published.Inception()
    path = published.published_file('inception')
    save_tensors(path, net.blocks.state_dict(), dict(name='inception'))
    found = fid_tables.fid_network()
    assert isinstance(found, published.Inception)
    pixels = torch.arange(2 * 3072).remainder(256).to(torch.uint8).view(2, 3, 32, 32)
    ours = fid_tables.fid_features(found, pixels, at_once=1)
    theirs = published.inception()(stored_images(pixels)).double()
    assert ours.shape == (2, 2048) and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert fid_tables.fid(ours, ours) == pytest.approx(0, abs=1e-6)


def test_what_it_takes_grows_with_what_is_asked():
    quick, full = (fid_tables.fid_config('cifar10', part) for part in ('quick', 'full'))
    assert fid_tables.fid_work(quick) < fid_tables.fid_work(full) / 2
    assert fid_tables.fid_work(quick) > 1e18, 'work for an accelerator'
    assert full['samples'] == 50_000 == full['real'] and full['quick'] == quick['samples']


# --- the command that makes the table


@pytest.fixture
def pages(scale, monkeypatch):
    "What would be executed, with the environment restored."
    for name in ('ASYNCPATCH_SCALE', 'ASYNCPATCH_PART', 'MPLBACKEND'):
        monkeypatch.setenv(name, os.environ.get(name, ''))
    executed = []
    monkeypatch.setattr(
        reproduction, 'execute', lambda path, to: executed.append((path.stem, to.name))
    )
    return executed


def test_reproduce_runs_the_one_page_and_tells_it_where_the_images_are(
    pages, binary, monkeypatch, capsys
):
    monkeypatch.chdir(Path(reproduction.__file__).parent.parent)
    assert reproduction.reproduce('cifar10') == 0
    assert pages == [('324_cifar', '324_cifar.ipynb')]
    assert Path(os.environ['ASYNCPATCH_DATA']) == binary
    assert (os.environ['ASYNCPATCH_SCALE'], os.environ['ASYNCPATCH_PART']) == ('cifar10', 'quick')
    assert 'hours on two CPU cores' not in capsys.readouterr().err


def test_reproduce_refuses_other_products_and_missing_images(pages, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(reproduction.__file__).parent.parent)
    with pytest.raises(UsageError, match='--only must be one of tab01-cifar10; got .tab01.'):
        reproduction.reproduce('cifar10', only=['tab01'])
    monkeypatch.setenv('ASYNCPATCH_DATA', str(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match='root must hold CIFAR-10'):
        reproduction.reproduce('cifar10')
    assert pages == []


def test_the_page_makes_what_the_scale_has():
    page = Path(reproduction.__file__).parent.parent / 'nbs/results/324_cifar.ipynb'
    assert reproduction.product_names(page) == reproduction.ALONE['cifar10']
