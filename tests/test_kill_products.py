"""Killed at any instant, shipping, reproduction and making a product go on to the same bytes.

`make test` takes a few instants, `ASYNCPATCH_TORTURE=50` (`make torture`) fifty of each kind."""

import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
import torch
from killing import kills_between_writes

from asyncpatch.data import digits
from asyncpatch.laws import asyncpatch
from asyncpatch.products import Product
from asyncpatch.records import Table, load_record
from asyncpatch.reproduction import reproduce
from asyncpatch.training import train
from asyncpatch.weights import load_tensors

ROOT = Path(__file__).resolve().parent.parent
TORTURE = int(os.environ.get('ASYNCPATCH_TORTURE') or 0)
FORK = multiprocessing.get_context('fork')
KINDS = ('SIGKILL', 'SIGINT')


def quietly(work, ready):
    "A piece of work in a process of its own."
    os.environ['OMP_NUM_THREADS'] = '1'
    sys.stdout = sys.stderr = open(os.devnull, 'w')
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    ready.set()
    work()


def start(work):
    ready = FORK.Event()
    process = FORK.Process(target=quietly, args=(work, ready))
    process.start()
    assert ready.wait(60)
    return process


def finish(work):
    "Run it to its end; seconds since it was ready."
    process = start(work)
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def kill_at_random(work, check, seconds, kind, instants):
    """Start and kill it until it was hit so often, looking at what lies there each time.

    Those that end before their instant do not count; there are at most ten tries for each."""
    chance, hits = random.Random(kind), 0
    for _ in range(10 * instants):
        if hits == instants:
            break
        process = start(work)
        time.sleep(chance.random() * seconds)
        if process.is_alive():
            hits += 1
            with suppress(ProcessLookupError):
                os.kill(process.pid, getattr(signal, kind))
        process.join(60)
        check()
    return hits


def ship_tool(shipped, run):
    "The shipping tool, with one model on its list and a folder of its own to ship to."
    spec = importlib.util.spec_from_file_location('ship', ROOT / 'tools/ship.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.SHIPPED, tool.MODELS = shipped, {'digits-tiny-0': ('digits', 'tiny', 0)}
    tool.finished_weights = lambda *name: run / 'weights.safetensors'
    return tool


def train_small(run, steps):
    small = dict(base=4, classes=10)
    train(run, small, digits().train, asyncpatch, steps, batch=4, pictures=0, progress=False)
    return run


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A run that is finished."
    return train_small(tmp_path_factory.mktemp('trained') / 'run', steps=2)


def contents(folder):
    "Every file of a folder, hidden ones too, by its name."
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('kind', KINDS)
def test_shipping_is_killed(trained, tmp_path, kind, record_property):
    whole, shipped = tmp_path / 'whole', tmp_path / 'shipped'
    seconds = finish(lambda: ship_tool(whole, trained).main([]))
    assert set(contents(whole)) == {'digits-tiny-0.safetensors', 'digits-tiny-0.md'}

    def look():
        for path in shipped.glob('*.safetensors'):
            load_tensors(path)
        for path in shipped.glob('*.md'):
            assert path.read_bytes() == (whole / path.name).read_bytes(), 'half a card'
            assert path.with_suffix('.safetensors').is_file(), 'a card of nothing'
        if shipped.is_dir() and contents(shipped) == contents(whole):  # too late: again
            shutil.rmtree(shipped)

    def work():
        ship_tool(shipped, trained).main([])

    kills = kill_at_random(work, look, seconds, kind, TORTURE or 4)
    record_property('kills', kills)
    assert kills >= (TORTURE or 1)
    finish(work)
    assert contents(shipped) == contents(whole)


def test_a_newer_model_never_ships_under_the_old_card(
    trained, tmp_path, monkeypatch, record_property
):
    whole, shipped, longer = tmp_path / 'whole', tmp_path / 'shipped', tmp_path / 'longer'
    train_small(longer, steps=3)
    ship_tool(whole, longer).main([])
    ship_tool(shipped, trained).main([])
    old, seen = contents(shipped), []
    tool = ship_tool(shipped, longer)
    for writes in kills_between_writes(lambda: tool.main(['digits-tiny-0']), monkeypatch):
        seen.append(writes)
        now = contents(shipped)
        assert now in (old, contents(whole)) or 'digits-tiny-0.md' not in now
        tool.main([])  # what is not finished is found without being named
        assert contents(shipped) == contents(whole)
        shutil.rmtree(shipped)
        ship_tool(shipped, trained).main([])
    record_property('kills', len(seen))
    assert seen == [0, 1] and contents(shipped) == contents(whole)


NOTEBOOK = """
from asyncpatch.data import digits
from asyncpatch.laws import asyncpatch
from asyncpatch.products import Product
from asyncpatch.records import Table, runs_folder
from asyncpatch.training import train


def compute(config):
    net = dict(base=4, classes=10, dropout=0.1)
    run = train(runs_folder('digits') / 'tiny', net, digits().train, asyncpatch, steps=30, batch=8,
                warmup=5, checkpoint_every=3, log_every=3, pictures=0, progress=False)
    weights = [value.double().sum().item() for value in run.net.parameters()]
    return dict(weights=weights, n=1)


def draw(record):
    return Table(['weight'], [[f'{value:.17g}'] for value in record.data['weights']])


Product('tiny', 'a claim', lambda scale, part: dict(steps=30), compute, draw).make();
"""


@pytest.fixture
def tiny_checkout(tmp_path, monkeypatch):
    "A checkout whose only notebook trains a network and makes a table of its weights."
    root = tmp_path / 'checkout'
    (root / 'nbs/results').mkdir(parents=True)
    (root / 'settings.ini').write_text('[DEFAULT]\n')
    cells = [nbformat.v4.new_code_cell(NOTEBOOK)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / 'nbs/results/30_tiny.ipynb')
    monkeypatch.chdir(root)
    for name in ('ASYNCPATCH_SCALE', 'ASYNCPATCH_PART', 'IN_TEST'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    return tmp_path


def reproduction(folder):
    "The reproduction of the checkout around, with runs and products in a folder."

    def work():
        os.environ['ASYNCPATCH_RUNS'] = str(folder / 'runs')
        reproduce('digits', out=folder / 'figures', full=True)

    return work


def numbers(folder):
    "What a record says that does not depend on when it was made."
    record = load_record(folder)
    return record.data, record.config_hash, record.n


def products(folder):
    "Drawings byte for byte, and the numbers of records."
    made = {k: v for k, v in contents(folder / 'figures').items() if not k.endswith('.json')}
    return made | {'record': numbers(folder / 'figures/digits/tiny.json')}


@pytest.mark.parametrize('kind', KINDS)
def test_reproduction_is_killed(tiny_checkout, kind, record_property):
    whole, folder = tiny_checkout / 'whole', tiny_checkout / 'killed'
    seconds = finish(reproduction(whole))

    def look():
        for path in folder.rglob('*.json'):
            if not path.name.startswith('.'):
                json.loads(path.read_text())
        for path in folder.rglob('tiny.md'):
            assert path.read_bytes() == (whole / 'figures/digits/tiny.md').read_bytes()
        if (folder / 'runs/digits/notebooks').is_dir():  # too late: again
            shutil.rmtree(folder)

    kills = kill_at_random(reproduction(folder), look, seconds, kind, TORTURE or 2)
    record_property('kills', kills)
    assert kills >= (TORTURE or 1)
    finish(reproduction(folder))
    assert products(folder) == products(whole)
    left = [name for name in contents(folder) if Path(name).name.startswith('.')]
    assert not left, left


def test_a_product_is_killed_between_any_two_writes(tmp_path, monkeypatch, record_property):
    """Record here, drawing and record there: a drawing never lies beside another record, and what
    was computed once is not computed again."""
    monkeypatch.setenv('ASYNCPATCH_RUNS', str(tmp_path / 'runs'))
    monkeypatch.setenv('ASYNCPATCH_OUT', str(tmp_path / 'figures'))
    computed = []

    def compute(config):
        computed.append(config)
        return dict(value=[1.5, 2.5])

    def draw(record):
        return Table(['value'], [[str(v)] for v in record.data['value']])

    tiny = Product('tiny', 'a claim', lambda scale, part: dict(a=1), compute, draw)

    kills = 0
    for kills, _ in enumerate(
        kills_between_writes(lambda: tiny.make('digits', 'full'), monkeypatch), 1
    ):
        for path in tmp_path.rglob('tiny.json'):
            assert load_record(path).data['value'] == [1.5, 2.5]
    record_property('kills', kills)
    assert kills == 3 and len(computed) == 2  # once more where the record itself was lost
    names = {'tiny.json', 'tiny.md', 'tiny.csv'}
    assert set(contents(tmp_path / 'figures/digits')) == names
