"Files: whole at any instant of a kill, with the umask's mode, never over what is no file."

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asyncpatch.files import check_writable, remove_leftovers, write_atomically

WRITER = '''
import sys
from asyncpatch.files import write_atomically
print('ready', flush=True)
number = 0
while True:
    number += 1
    write_atomically(sys.argv[1], bytes([65 + number % 26]) * 3_000_000)
'''


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_killed_at_random_instants(tmp_path, how):
    "One letter throughout, whenever the writer was stopped; the next write leaves one file."
    target = write_atomically(tmp_path / 'file', b'@' * 10)
    for seed in range(6):
        writer = subprocess.Popen(
            [sys.executable, '-c', WRITER, str(target)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        writer.stdout.readline()
        time.sleep(0.1 * random.Random(seed).random())
        writer.send_signal(how)
        writer.wait()
        assert len(set(target.read_bytes())) == 1
        write_atomically(target, b'@')
        assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize('umask', [0o022, 0o077, 0o002, 0o000])
def test_the_mode_is_what_the_umask_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / 'new', b'x')
        (tmp_path / 'plain').write_bytes(b'x')
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_nothing_but_files_is_replaced(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'to pipe').symlink_to('pipe')
    (tmp_path / 'to null').symlink_to('/dev/null')
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    for name in (*before, '/dev/null', '/dev/full'):
        with pytest.raises(ValueError, match='--out must be an ordinary file or a new name'):
            check_writable(tmp_path / name, '--out')
        with pytest.raises(ValueError, match='path must be an ordinary file'):
            write_atomically(tmp_path / name, b'x')
    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before


def test_links_stay_links_and_their_files_are_replaced(tmp_path):
    (tmp_path / 'link').symlink_to('sub/file')
    for content in (b'new', b'replaced'):
        write_atomically(tmp_path / 'link', content)
        assert (tmp_path / 'sub/file').read_bytes() == content
    assert (tmp_path / 'link').is_symlink()


def test_a_write_that_fails_leaves_what_was(tmp_path, monkeypatch):
    target = write_atomically(tmp_path / 'file', b'old')

    def full(handle):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        write_atomically(target, b'new')
    assert target.read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('name', ['a' * 255, 'ü' * 120, '.hidden', 'mit Leerzeichen und ß.png'])
def test_names(tmp_path, name):
    assert write_atomically(tmp_path / name, 'x').read_text() == 'x'
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_leftovers_of_others_stay(tmp_path):
    "Only files of our pattern go, and a link of that name is not followed."
    other = tmp_path / '.something.part.txt'
    other.write_text('mine')
    (tmp_path / '.x.0.part').symlink_to(other)
    (tmp_path / '.y.0.part').write_text('left over')
    assert remove_leftovers(tmp_path) == [tmp_path / '.y.0.part']
    assert other.read_text() == 'mine' and Path(tmp_path / '.x.0.part').is_symlink()
