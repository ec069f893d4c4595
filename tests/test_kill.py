"""Killed at any instant, a run goes on to the same numbers and leaves nothing half-written behind.

`make test` takes a few instants; `ASYNCPATCH_TORTURE=50` takes fifty of each kind, and kills two
processes that train together as well."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from killing import kills_between_writes

from asyncpatch.data import digits
from asyncpatch.laws import asyncpatch
from asyncpatch.run_folders import LOCK, FolderLock, read_log
from asyncpatch.training import train
from asyncpatch.weights import fingerprint, load, load_tensors

TORTURE = int(os.environ.get('ASYNCPATCH_TORTURE') or 0)
INSTANTS = TORTURE or 3
SETTINGS = dict(
    net=dict(base=4, classes=10, dropout=0.1),
    images=digits().train,
    law=asyncpatch,
    steps=40,
    batch=8,
    warmup=5,
    checkpoint_every=4,
    log_every=3,
    pictures=1,
    validate_every=20,
    held_out=digits().held_out[torch.arange(8)],
    progress=False,
)
FORK = multiprocessing.get_context('fork')


def run(folder, ready=None):
    os.environ['OMP_NUM_THREADS'] = '1'
    sys.stderr = open(os.devnull, 'w')
    torch.set_num_threads(1)
    if ready is not None:
        ready.set()
    train(folder, **SETTINGS)


def start(folder):
    "A run in a process of its own, once it is under way."
    ready = FORK.Event()
    process = FORK.Process(target=run, args=(folder, ready))
    process.start()
    assert ready.wait(60)
    return process


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The fingerprint of the run that nobody kills."
    folder = tmp_path_factory.mktemp('whole') / 'run'
    process = start(folder)
    process.join()
    assert process.exitcode == 0
    return fingerprint(load(folder).net)


def wait_for_step(process, folder, step):
    "Until the log has come so far, or the process has ended."
    while process.is_alive() and max((line['step'] for line in read_log(folder)), default=0) < step:
        time.sleep(0.002)


def check_whole(folder):
    "What lies in a folder after a kill: whole files, an ordered log, and no lock."
    for path in folder.glob('*.safetensors'):
        load_tensors(path)
    steps = [line['step'] for line in read_log(folder)]
    assert steps == sorted(set(steps)), 'the log repeats itself'
    if folder.exists():
        FolderLock(folder).acquire().release()


def check_clean(folder):
    "What lies in a folder at the end: what a run leaves, and nothing else."
    names = {path.name for path in folder.iterdir()}
    wanted = {f'{name}.safetensors' for name in ('checkpoint', 'checkpoint-before', 'weights')}
    wanted |= {'config.json', 'environment.json', 'metrics.jsonl', 'README.md', 'samples'}
    assert names == wanted
    assert not list(folder.rglob('.*'))


@pytest.mark.parametrize('kind', ['SIGKILL', 'SIGINT'])
def test_killed_at_random_instants(tmp_path, undisturbed, kind, record_property):
    chance, folder, hits = random.Random(kind), tmp_path / 'run', 0
    for _ in range(INSTANTS):
        process = start(folder)
        wait_for_step(process, folder, chance.randrange(SETTINGS['steps'] - 6))
        time.sleep(chance.random() / 20)
        if process.is_alive():
            hits += 1
            with suppress(ProcessLookupError):
                os.kill(process.pid, getattr(signal, kind))
        process.join(60)
        check_whole(folder)
        if (folder / 'weights.safetensors').is_file():  # done before it could be killed: again
            assert fingerprint(load(folder).net) == undisturbed
            folder = tmp_path / f'run-{hits}-{time.monotonic_ns()}'
    record_property('kills', hits)
    assert hits, 'no run could be killed'
    process = start(folder)
    process.join()
    assert process.exitcode == 0 and fingerprint(load(folder).net) == undisturbed
    assert read_log(folder)[-1]['step'] == SETTINGS['steps']
    check_clean(folder)


def test_killed_between_any_two_writes(tmp_path, monkeypatch, record_property):
    "A kill can fall between two system calls; here each replacement in turn is the last."
    folder, kills = tmp_path / 'run', []
    short = {**SETTINGS, 'steps': 8, 'pictures': 0, 'held_out': None}
    for writes in kills_between_writes(lambda: train(folder, **short), monkeypatch):
        check_whole(folder)
        kills.append(writes)
    record_property('kills', len(kills))
    assert len(kills) > 3
    whole = train(tmp_path / 'whole', **short)
    assert fingerprint(load(folder).net) == fingerprint(whole.net)


def test_the_lock_goes_with_its_process(tmp_path):
    "Held by a process that is killed, it is free at once; a child of the holder has no share."

    def hold(held):
        FolderLock(tmp_path).acquire()
        held.set()
        time.sleep(600)

    held = FORK.Event()
    process = FORK.Process(target=hold, args=(held,))
    process.start()
    assert held.wait(60)
    with pytest.raises(BlockingIOError, match=f'in use by process {process.pid} on'):
        FolderLock(tmp_path).acquire()
    process.kill()
    process.join()
    lock = FolderLock(tmp_path).acquire()
    child = FORK.Process(target=lock.release)
    child.start()
    child.join()
    assert (tmp_path / LOCK).exists(), 'a child gave back what was not its own'
    lock.release()
    assert not (tmp_path / LOCK).exists()


def test_a_second_process_is_refused_and_the_first_is_not_disturbed(tmp_path, undisturbed):
    process = start(tmp_path / 'run')
    while process.is_alive() and not (tmp_path / 'run' / LOCK).exists():
        time.sleep(0.01)
    if process.is_alive():
        try:
            train(tmp_path / 'run', **SETTINGS)
            assert not process.is_alive(), 'two were at work in one folder'
        except BlockingIOError as e:
            assert f'in use by process {process.pid}' in str(e)
    process.join()
    assert process.exitcode == 0 and fingerprint(load(tmp_path / 'run').net) == undisturbed


TOGETHER = """
import sys
import torch
torch.set_num_threads(1)
from asyncpatch.data import digits
from asyncpatch.laws import asyncpatch
from asyncpatch.training import train
train(sys.argv[1], dict(base=4, classes=10), digits().train, asyncpatch, steps=40, batch=8,
      warmup=5, checkpoint_every=4, log_every=4, progress=False)
"""


def start_two(folder):
    port = str(random.SystemRandom().randrange(20_000, 60_000))
    shared = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE='2', LOCAL_WORLD_SIZE='2')
    shared |= dict(ACCELERATE_USE_CPU='1', OMP_NUM_THREADS='1')
    command = [sys.executable, '-W', 'ignore', '-c', TOGETHER, str(folder)]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, 'RANK': rank, 'LOCAL_RANK': rank},
            stderr=subprocess.DEVNULL,
        )
        for rank in '01'
    ]


@pytest.mark.skipif(not TORTURE, reason='part of make torture: set ASYNCPATCH_TORTURE')
@pytest.mark.parametrize('kind', ['SIGKILL', 'SIGINT'])
def test_two_processes_killed_at_random_instants(tmp_path, kind, record_property):
    began = time.monotonic()
    assert [process.wait() for process in start_two(tmp_path / 'whole')] == [0, 0]
    seconds = time.monotonic() - began
    chance, folder, kills = random.Random(kind), tmp_path / 'run', 0
    whole = fingerprint(load(tmp_path / 'whole').net)
    while kills < TORTURE:
        processes = start_two(folder)
        time.sleep(chance.random() * seconds)
        kills += any(process.poll() is None for process in processes)
        for process in processes:
            process.send_signal(getattr(signal, kind))
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        check_whole(folder)
        if (folder / 'weights.safetensors').is_file():  # done before it could be killed: again
            assert fingerprint(load(folder).net) == whole
            folder = tmp_path / f'run-{kills}-{time.monotonic_ns()}'
    record_property('kills', kills)
    assert [process.wait() for process in start_two(folder)] == [0, 0]
    assert fingerprint(load(folder).net) == whole
