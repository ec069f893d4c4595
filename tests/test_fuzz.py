"""Whatever file it is given, the package answers rightly or says clearly what is wrong.

True files of every kind that is read are damaged at random: bits turned, ends cut off, blocks
copied, numbers made huge, another kind's bytes put in. Every input is read in a process whose
memory and time are limited and in which unpickling is a fault. `make test` tries some of each kind;
`ASYNCPATCH_FUZZ=5000` tries that many in all (`make torture`)."""

import faulthandler
import gzip
import json
import math
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import traceback
import warnings
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from asyncpatch.configurations import read_configuration
from asyncpatch.data import digits
from asyncpatch.distances import read_statistics
from asyncpatch.fashion import read_idx
from asyncpatch.folders import image_folder, lsun
from asyncpatch.imagenet import imagenet64
from asyncpatch.laws import asyncpatch
from asyncpatch.pictures import read_mask, read_picture
from asyncpatch.playground import as_text, question
from asyncpatch.records import Record, config_hash, load_record, pack
from asyncpatch.run_folders import read_checkpoint, read_log
from asyncpatch.training import train
from asyncpatch.unet import UNet
from asyncpatch.weights import load, load_tensors, save, save_tensors

FUZZ = int(os.environ.get('ASYNCPATCH_FUZZ') or 0)
SECONDS, GIBIBYTES = 20, 3
FORK = multiprocessing.get_context('fork')
# what a reader may raise; its message must name the file
CLEAN = (ValueError, TypeError, OSError)


def a_picture(kind, mode='RGB'):
    "A function that writes a true picture of a kind."

    def make(folder):
        values = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)
        path = folder / f'picture.{kind}'
        Image.fromarray(values, 'RGBA').convert(mode).save(path)
        return path

    return make


def a_deep_picture(folder):
    values = np.random.default_rng(0).integers(0, 2**16, (24, 20), dtype=np.uint16)
    Image.fromarray(values).save(folder / 'deep.png')
    return folder / 'deep.png'


def some_weights(folder):
    return save(folder / 'net.safetensors', UNet(base=4, classes=3))


def some_tensors(folder):
    tensors = dict(a=torch.randn(3, 4), b=torch.arange(5), c=torch.ones(2, dtype=torch.bfloat16))
    return save_tensors(folder / 'some.safetensors', tensors, dict(kind='none', step=3))


def foreign_tensors(folder):
    save_file(dict(weight=torch.randn(3, 4)), folder / 'foreign.safetensors')
    return folder / 'foreign.safetensors'


def an_idx(compress):
    def make(folder):
        content = struct.pack('>IIII', 0x803, 5, 7, 7) + bytes(range(245))
        path = folder / ('images-idx3-ubyte' + ('.gz' if compress else ''))
        path.write_bytes(gzip.compress(content) if compress else content)
        return path

    return make


def an_npz(folder):
    values = np.random.default_rng(0).integers(0, 256, (6, 3 * 64 * 64), dtype=np.uint8)
    path = folder / 'train_data_batch_1.npz'
    np.savez(path, data=values, labels=np.arange(1, 7))
    return path


def an_lmdb(folder):
    picture = a_picture('png')(folder).read_bytes()
    base = folder / 'bedroom_train_lmdb'
    with lmdb.open(str(base), map_size=2**20) as store, store.begin(write=True) as transaction:
        for i in range(5):
            transaction.put(f'{i}'.encode(), picture)
    return base / 'data.mdb'


def some_statistics(folder):
    np.savez(folder / 'statistics.npz', mu=np.zeros(4), sigma=np.eye(4))
    return folder / 'statistics.npz'


def a_record(folder):
    config = dict(n=3, law='asyncpatch')
    fields = {f: None for f in Record.__dataclass_fields__}
    fields |= dict(name='tab', config=config, config_hash=config_hash(config))
    fields |= dict(values=dict(x=np.arange(6.0).reshape(2, 3)))
    known = {k: v for k, v in fields.items() if k in Record.__dataclass_fields__}
    path = folder / 'tab.json'
    path.write_text(json.dumps(pack(known)))
    return path


def a_configuration(folder):
    found = next(Path(read_configuration.__globals__['CONFIGURATIONS']).glob('imagenet64-60m.json'))
    return Path(shutil.copy(found, folder / 'imagenet64-60m.json'))


def a_run(folder):
    run = folder / 'run'
    small = dict(base=4, classes=10)
    options = dict(net=small, images=digits().train, law=asyncpatch, steps=4, batch=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        train(run, **options, checkpoint_every=2, log_every=1, progress=False)
    return run


def a_log(folder):
    return a_run(folder) / 'metrics.jsonl'


def a_checkpoint(folder):
    path = a_run(folder) / 'checkpoint.safetensors'
    path.with_name('checkpoint-before.safetensors').unlink(missing_ok=True)
    return path


def a_request(folder):
    "What the page of the playground sends."
    law, draw = (
        load('garments14'),
        torch.rand(3, 14, 14, generator=torch.Generator().manual_seed(0)),
    )
    picture, start, turn = (as_text(part) for part in draw)
    asked = dict(model='garments14', x=picture, start=start, turn=turn, calls=4, draws=1, label=3)
    question(asked, law)
    (folder / 'request.json').write_text(json.dumps(asked))
    return folder / 'request.json'


def read_request(path):
    "As the server does, which answers what these errors say."
    try:
        asked = json.loads(path.read_bytes())
        if not isinstance(asked, dict):
            raise ValueError('no object')
        return question(asked, load('garments14'))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f'{path.name}: {error}') from error


def read_set(source):
    "Every picture of a source."
    return source[torch.arange(len(source))]


# kind of file -> what writes a true one, what reads it
KINDS = dict(
    png=(a_picture('png', 'RGBA'), read_picture),
    jpeg=(a_picture('jpg'), read_picture),
    gif=(a_picture('gif', 'P'), read_picture),
    tiff=(a_picture('tif', 'LA'), read_picture),
    webp=(a_picture('webp'), read_picture),
    bmp=(a_picture('bmp'), read_picture),
    deep=(a_deep_picture, read_picture),
    mask=(a_picture('png', '1'), lambda path: read_mask(path, (24, 20))),
    deep_mask=(a_deep_picture, lambda path: read_mask(path, (24, 20))),
    weights=(some_weights, load),
    tensors=(some_tensors, load_tensors),
    foreign=(foreign_tensors, load),
    idx=(an_idx(False), lambda path: read_idx(path, 3)),
    gzip=(an_idx(True), lambda path: read_idx(path, 3)),
    npz=(an_npz, lambda path: read_set(imagenet64(path.parent))),
    lmdb=(an_lmdb, lambda path: read_set(lsun(path.parent.parent, 16))),
    folder=(a_picture('png'), lambda path: read_set(image_folder(path.parent, 16))),
    statistics=(some_statistics, read_statistics),
    record=(a_record, load_record),
    configuration=(a_configuration, read_configuration),
    log=(a_log, lambda path: read_log(path.parent)),
    checkpoint=(a_checkpoint, lambda path: read_checkpoint(path.parent, put_aside=False)),
    request=(a_request, read_request),
)


def damaged(content, draw, others):
    "A true file's bytes, damaged in one to three ways."
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        size = max(1, len(content))
        # half of the damage falls on the head, where the sizes stand
        place = draw.randrange(min(size, 200)) if draw.random() < 0.5 else draw.randrange(size)
        length = min(draw.choice((1, 2, 4, 8, 64, 1000)), size)
        match draw.randrange(9):
            case 0 if content:
                content[place] ^= 1 << draw.randrange(8)
            case 1:
                content[place : place + length] = draw.randbytes(length)
            case 2:
                content[place : place + length] = b'\xff' * length
            case 3:
                content[place : place + length] = b'\0' * length
            case 4:
                del content[place:]
            case 5:
                del content[place : place + length]
            case 6:
                content[place:place] = content[:length]
            case 7:
                content[place:place] = draw.choice(
                    (b'9' * 30, b'1e999', b'-1', b'NaN', b'[' * 9999)
                )
            case _:
                other = draw.choice(others)
                content[place : place + length] = other[:length]
    return bytes(content)


def no_unpickling(*arguments, **options):
    raise AssertionError('something was unpickled')


def within_limits(read, path, contents, out):
    "Read one damaged file after the other; send what ended otherwise than cleanly."
    own = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + GIBIBYTES * 2**30,) * 2)
    pickle.load = pickle.loads = pickle.Unpickler = torch.load = no_unpickling
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    for number, content in enumerate(contents):
        path.write_bytes(content)
        signal.alarm(SECONDS)
        try:
            read(path)
            end = None
        except CLEAN as error:
            named = path.name in str(error) or path.parent.name in str(error)
            end = None if named else f'does not name the file: {type(error).__name__}: {error}'
        except BaseException:
            end = traceback.format_exc(limit=-4)
        signal.alarm(0)
        out.send((number, end))
    out.close()


def judge(kind, folder, count, seed):
    "What went wrong among so many damaged files of a kind."
    make, read = KINDS[kind]
    path = make(folder)
    if kind != 'foreign':
        read(path)
    content, draw = path.read_bytes(), random.Random(f'{kind} {seed}')
    others = [
        b'PK\x03\x04',
        b'\x89PNG\r\n\x1a\n',
        b'GIF89a',
        struct.pack('<Q', 2**40),
        b'\x80\x04.',
    ]
    contents = [damaged(content, draw, others) for _ in range(count)]
    faults, done = [], 0
    while done < count:
        receive, send = FORK.Pipe(duplex=False)
        rest = (read, path, contents[done:], send)
        process = FORK.Process(target=within_limits, args=rest)
        process.start()
        send.close()
        try:
            while True:
                _, end = receive.recv()
                done += 1
                if end is not None:
                    faults.append(f'{kind}, input {done - 1}: {end}')
        except EOFError:
            process.join()
        if done < count:
            faults.append(f'{kind}, input {done}: the process ended with {process.exitcode}')
            done += 1
    return faults


@pytest.mark.parametrize('kind', KINDS)
def test_a_damaged_file_gives_a_clear_error_or_a_right_answer(kind, tmp_path, record_property):
    count = math.ceil(FUZZ / len(KINDS)) if FUZZ else 12
    faults = judge(kind, tmp_path, count, seed=FUZZ)
    record_property('inputs', count)
    assert not faults, f'{len(faults)} of {count}\n' + '\n'.join(faults[:5])


def test_the_fuzz_would_notice(tmp_path):
    "Negative control: readers that unpickle, crash, are vague, or ask for too much memory."
    path = tmp_path / 'given.bin'

    def ends(read):
        receive, send = FORK.Pipe(duplex=False)
        process = FORK.Process(target=within_limits, args=(read, path, [b'x'], send))
        process.start()
        send.close()
        try:
            return receive.recv()[1]
        except EOFError:
            return 'died'

    assert 'unpickled' in ends(lambda path: pickle.loads(b''))
    assert 'died' == ends(lambda path: (faulthandler.disable(), os.abort()))  # without its report
    assert 'name the file' in ends(lambda path: int('x'))
    assert 'Memory' in ends(lambda path: bytearray(2**40))
    assert ends(lambda path: path.read_bytes()) is None


# JSON as a record may hold it, with keys and numbers that mean something to the reader
KEYS = st.sampled_from(['dtype', 'shape', 'zlib', 'name', 'config', 'values', 'x'])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)
MANY = settings(
    max_examples=max(25, FUZZ // 20),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@MANY
@given(value=VALUES)
def test_any_value_of_a_record_is_read_or_refused(value, tmp_path):
    path = tmp_path / 'made.json'
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match='made.json'):
        load_record(path)


SIZES = st.lists(st.integers(-2, 2**62), max_size=3)
ENTRIES = st.fixed_dictionaries(
    dict(
        dtype=st.sampled_from(['F32', 'BF16', 'U8', 'F99', 3]),
        shape=SIZES,
        data_offsets=st.tuples(st.integers(-2, 2**62), st.integers(-2, 2**62)),
    )
)


@MANY
@given(
    entries=st.dictionaries(st.text(max_size=5), ENTRIES, max_size=3), tail=st.binary(max_size=40)
)
def test_a_header_that_claims_anything_is_refused(entries, tail, tmp_path):
    "Terabytes, negative sizes, offsets that overlap: a clear error before memory is asked for."
    header = json.dumps(entries | {'__metadata__': {'asyncpatch': '{}'}}).encode()
    path = tmp_path / 'claims.safetensors'
    path.write_bytes(struct.pack('<Q', len(header)) + header + tail)
    try:
        tensors, _ = load_tensors(path)
    except ValueError as error:
        assert 'claims.safetensors' in str(error)
    else:
        assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(tail)
