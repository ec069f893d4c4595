"""What a run leaves on disk says the truth about it, whatever surrounds it."""

import errno
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch

import asyncpatch
from asyncpatch.data import Images, digits
from asyncpatch.laws import asyncpatch as law
from asyncpatch.run_folders import (
    LOCK,
    STALE_AFTER,
    FolderLock,
    check_launcher,
    describe_source,
    environment,
    explain_failure,
    find_commit,
    read_checkpoint,
    read_log,
    require_same_source,
)
from asyncpatch.training import train
from asyncpatch.weights import fingerprint, load_tensors

SHORT = dict(
    net=dict(base=4, classes=10),
    images=digits().train,
    law=law,
    steps=4,
    batch=8,
    warmup=2,
    checkpoint_every=2,
    progress=False,
)


@pytest.fixture
def commit():
    "The commit as it is found anew, before and after."
    find_commit.cache_clear()
    yield find_commit
    find_commit.cache_clear()


def git(folder, *words):
    who = ['-c', 'user.name=x', '-c', 'user.email=x@y']
    subprocess.run(['git', '-C', str(folder), *who, *words], check=True, capture_output=True)


def installed_at(folder, monkeypatch):
    (folder / 'asyncpatch').mkdir(parents=True)
    (folder / 'asyncpatch/__init__.py').write_text('')
    monkeypatch.setattr(asyncpatch, '__file__', str(folder / 'asyncpatch/__init__.py'))


def test_without_git_there_is_no_commit_and_everything_else(monkeypatch, commit):
    monkeypatch.setenv('PATH', '')
    found = environment()
    assert found['commit'] == '' and found['versions']['torch'] == torch.__version__


@pytest.mark.parametrize('place', ['venv/lib/site-packages', '.'])
def test_a_foreign_repository_around_the_package_is_not_ours(tmp_path, monkeypatch, commit, place):
    "Neither one that holds a virtual environment, nor one whose root the package lies in."
    git(tmp_path, 'init')
    (tmp_path / 'theirs.txt').write_text('x')
    git(tmp_path, 'add', 'theirs.txt')
    git(tmp_path, 'commit', '-m', 'theirs')
    installed_at(tmp_path / place, monkeypatch)
    assert commit() == ''


def test_our_own_checkout_is_found_and_changes_are_seen(tmp_path, monkeypatch, commit):
    installed_at(tmp_path, monkeypatch)
    (tmp_path / 'settings.ini').write_text('[DEFAULT]')
    git(tmp_path, 'init')
    git(tmp_path, 'add', 'settings.ini', 'asyncpatch/__init__.py')
    git(tmp_path, 'commit', '-m', 'ours')
    assert re.fullmatch('[0-9a-f]{7,}', commit())
    commit.cache_clear()
    monkeypatch.setenv('GIT_DIR', '/nowhere')  # as inside a hook of another repository
    (tmp_path / 'settings.ini').write_text('[DEFAULT]\nchanged = 1')
    assert commit().endswith('+')


# A launcher


def test_every_variable_of_the_launcher_is_recorded(monkeypatch):
    "Those that this version of accelerate reads, found in its source."
    root = Path(accelerate.__file__).parent
    source = ''.join(path.read_text(encoding='utf-8') for path in root.rglob('*.py'))
    names = {name for name in re.findall(r'"(ACCELERATE_[A-Z0-9_]*[A-Z0-9])"', source)}
    assert len(names) > 10
    for name in names:
        monkeypatch.setenv(name, 'something')
    assert names <= set(environment()['launcher'])


def test_what_a_launcher_asks_for_in_passing_changes_no_number(tmp_path, monkeypatch):
    expected = fingerprint(train(tmp_path / 'plain', **SHORT).net)
    for name, value in dict(
        ACCELERATE_GRADIENT_CLIPPING='0.001',
        ACCELERATE_DEEPSPEED_ZERO_STAGE='3',
        ACCELERATE_DYNAMO_MODE='max-autotune',
        ACCELERATE_GRADIENT_ACCUMULATION_STEPS='1',
        ACCELERATE_MIXED_PRECISION='no',
    ).items():
        monkeypatch.setenv(name, value)
    launched = train(tmp_path / 'launched', **SHORT)
    assert fingerprint(launched.net) == expected
    assert launched.about['launcher']['ACCELERATE_GRADIENT_CLIPPING'] == '0.001'


@pytest.mark.parametrize(
    'name, value',
    [
        ('ACCELERATE_GRADIENT_ACCUMULATION_STEPS', '4'),
        ('ACCELERATE_MIXED_PRECISION', 'fp16'),
        ('ACCELERATE_DYNAMO_BACKEND', 'INDUCTOR'),
        ('ACCELERATE_USE_FSDP', 'true'),
        ('ACCELERATE_USE_DEEPSPEED', 'true'),
        ('ACCELERATE_USE_MEGATRON_LM', 'true'),
        ('ACCELERATE_USE_PARALLELISM_CONFIG', 'true'),
        ('WORLD_SIZE', '2'),
        ('OMPI_COMM_WORLD_SIZE', '4'),
    ],
)
def test_what_would_change_a_run_is_refused_by_name(tmp_path, monkeypatch, name, value):
    for setting in (dict(accumulate=1, precision='no'), dict(accumulate=2, precision='bf16')):
        check_launcher(setting, 1)
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=name):
            check_launcher(setting, 1)
        monkeypatch.delenv(name)


def test_a_change_of_surroundings_is_in_the_record(tmp_path, monkeypatch):
    with pytest.raises(TimeoutError):
        train(tmp_path / 'run', minutes=0, **SHORT)
    monkeypatch.setenv('ACCELERATE_DEBUG_MODE', 'false')
    about = train(tmp_path / 'run', **SHORT).about
    steps, surroundings = zip(*about['surroundings'])
    assert steps == (0, 1)
    assert ['launcher' in one for one in surroundings] == [False, True]
    again = train(tmp_path / 'again', **SHORT).about
    assert 'surroundings' not in again


# The lock


def test_where_there_are_no_locks_the_file_is_the_sign(tmp_path, monkeypatch):
    "By process on the same machine, by age on another; what is garbled holds nothing."

    def refuse(*words):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr('fcntl.lockf', refuse)
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    here, lock = platform.node(), tmp_path / LOCK
    held = [dict(pid=os.getppid(), host=here), dict(pid=1, host='another')]
    free = [dict(pid=dead.pid, host=here), dict(host=here), [], 'x', dict(pid='1', host=here)]
    for owner in held:
        lock.write_text(json.dumps(owner))
        with pytest.raises(BlockingIOError, match='is in use by process'):
            FolderLock(tmp_path).acquire()
        old = lock.stat().st_mtime - STALE_AFTER - 1
        os.utime(lock, (old, old))
        FolderLock(tmp_path).acquire().release()
    for owner in free:
        lock.write_text(json.dumps(owner))
        FolderLock(tmp_path).acquire().release()
    with FolderLock(tmp_path) as mine:
        before = lock.stat().st_mtime_ns
        mine.renew()
        assert lock.stat().st_mtime_ns >= before


# Files


def test_files_have_the_mode_of_the_umask_and_leave_nothing_behind(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/.weights.safetensors.0.part').write_bytes(b'left by a kill')
    before = os.umask(0o027)
    try:
        train(tmp_path / 'run', **SHORT)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / 'run').glob('*.*')}
    assert set(modes.values()) == {0o640}, modes
    assert not list((tmp_path / 'run').glob('.*'))


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EFBIG])
def test_a_disk_is_called_full_only_when_it_is(code):
    with pytest.raises(OSError, match='cannot write to run at step 3') as caught:
        with explain_failure('run', 3, None):
            raise OSError(code, os.strerror(code))
    assert caught.value.errno == code
    assert ('once there is room' in str(caught.value)) == (code == errno.ENOSPC)


def test_only_writing_is_called_writing(tmp_path, monkeypatch):
    "An error of something else, such as a program that is missing, is not one of the disk."

    def missing(*a, **k):
        raise FileNotFoundError(errno.ENOENT, 'No such file or directory', 'some program')

    monkeypatch.setattr('asyncpatch.training.environment', missing)
    with pytest.raises(FileNotFoundError) as caught:
        train(tmp_path / 'run', **SHORT)
    assert 'cannot write' not in str(caught.value)


# Sources of images


def source(change=None):
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    label = torch.arange(40) % 4
    return Images(*change(x, label)) if change else Images(x, label)


@pytest.mark.parametrize(
    'change',
    [
        lambda x, label: (x[:-1], label[:-1]),
        lambda x, label: (x.flip(0), label),
        lambda x, label: (-x, label),
        lambda x, label: (x, label.flip(0)),
    ],
)
def test_other_images_are_refused(change):
    began, _ = describe_source(source())
    with pytest.raises(ValueError, match='images must be those that run began with'):
        require_same_source('run', describe_source(source(change))[0], began)


def test_the_same_images_decoded_elsewhere_pass():
    began, _ = describe_source(source())
    began = json.loads(json.dumps(began))
    require_same_source('run', describe_source(source())[0], began)
    close = describe_source(source(lambda x, label: (x + torch.randn_like(x) / 100, label)))[0]
    require_same_source('run', close, began)
    require_same_source('run', close, None)


# Damage


def test_a_garbled_log_and_checkpoint_are_read_as_far_as_they_go(tmp_path):
    chance = torch.Generator().manual_seed(0)
    train(tmp_path, **SHORT)
    log, last = tmp_path / 'metrics.jsonl', tmp_path / 'checkpoint.safetensors'
    whole_log, whole = log.read_bytes() * 50, last.read_bytes()
    for _ in range(60):
        place = int(torch.randint(len(whole_log), (), generator=chance))
        log.write_bytes(whole_log[:place] + bytes([place % 256]) * 3 + whole_log[place + 3 :])
        assert all(isinstance(line['step'], int) for line in read_log(tmp_path))
        cut = int(torch.randint(len(whole), (), generator=chance))
        last.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match='is damaged or no safetensors file'):
            load_tensors(last)
    with pytest.warns(UserWarning, match='goes on from the checkpoint before, step 2'):
        assert read_checkpoint(tmp_path)[1]['step'] == 2
