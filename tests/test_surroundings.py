"""The surroundings change nothing: no git, no home, another locale, a full disk, one core.

The whole way of a stranger (train, sample, inpaint, from the shell) in a process of its own under
each condition. Where it can work, the numbers are those of an ordinary day, bit for bit; where it
cannot, it ends with one line that names the trouble and leaves nothing half-written. `make test`
tries some of them, `ASYNCPATCH_TORTURE=50` all (`make torture`); conditions that need rights which
this user lacks are skipped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TORTURE = bool(os.environ.get('ASYNCPATCH_TORTURE'))
WORK = """
import hashlib, sys
from pathlib import Path
import torch
from asyncpatch.cli import main
from asyncpatch.weights import fingerprint, load
torch.set_num_threads(1)
images, out = map(Path, sys.argv[1:])
run = ['--images', images, '--size', 8, '--width', 4, '--batch', 2, '--steps', 3]
commands = [
    ['train', *run, '--out', out / 'run'],
    ['sample', '--model', out / 'run', '--count', 2, '--calls', 2, '--out', out / 'a.png'],
    ['inpaint', images / '0.png', '--model', out / 'run', '--calls', 2, '--mask', '3,3,9,9',
     '--out', out / 'b.png'],
]
for words in commands:
    if status := main(list(map(str, words))):
        sys.exit(status)
made = fingerprint(load(out / 'run').net).encode()
made += b''.join(path.read_bytes() for path in sorted(out.glob('*.png')))
print('made', hashlib.sha256(made).hexdigest())
"""
# no right to write where permissions forbid it, even for root
ORDINARY = ['setpriv', '--bounding-set=-dac_override,-dac_read_search']
PLAIN = {k: v for k, v in os.environ.items() if not k.startswith(('ASYNCPATCH', 'LC_', 'LANG'))}
PLAIN |= dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')


def pictures(folder):
    "A folder with a stranger's pictures."
    folder.mkdir(parents=True)
    draws = np.random.RandomState(0)
    for i in range(4):
        values = draws.randint(0, 255, (14, 12, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f'{i}.png')
    return folder


def work(images, out, before=(), env=None, cwd=None, umask=-1):
    "The whole way; what a command before it and a changed environment make of it."
    call = [*before, sys.executable, '-c', WORK, str(images), str(out)]
    env = PLAIN | (env or {})
    env = {k: v for k, v in env.items() if v is not None}
    how = dict(capture_output=True, text=True, errors='replace', timeout=600, umask=umask)
    return subprocess.run(call, env=env, cwd=cwd or out.parent, **how)


def made_by(ended):
    "The digest of weights and pictures that the whole way ends with."
    assert ended.returncode == 0, ended.stderr
    assert 'made' in ended.stdout
    return ended.stdout.split()[-1]


@pytest.fixture(scope='module')
def ordinary_day(tmp_path_factory):
    "What comes out where nothing is unusual."
    folder = tmp_path_factory.mktemp('ordinary')
    ended = work(pictures(folder / 'pictures'), folder / 'out')
    return made_by(ended)


def environment_without(*names, **values):
    return dict.fromkeys(names) | values


# condition -> changed environment, command before, umask
HARMLESS = dict(
    no_git=(dict(PATH='/nonexistent'), (), -1),
    no_home=(environment_without('HOME', 'XDG_CACHE_HOME'), (), -1),
    home_that_is_not_there=(dict(HOME='/nonexistent/home'), (), -1),
    ascii=(
        dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONIOENCODING='ascii'),
        (),
        -1,
    ),
    turkish=(dict(LC_ALL='tr_TR.UTF-8', LANG='tr_TR.UTF-8'), (), -1),
    private_umask=({}, (), 0o077),
    open_umask=({}, (), 0o000),
    one_core=({}, ('taskset', '-c', '0'), -1),
    time_zone=(dict(TZ='Pacific/Kiritimati'), (), -1),
    narrow_terminal=(dict(COLUMNS='1', TERM='dumb'), (), -1),
    optimised=(dict(PYTHONOPTIMIZE='2'), (), -1),
    hash_seed=(dict(PYTHONHASHSEED='7'), (), -1),
    no_bytecode=(dict(PYTHONDONTWRITEBYTECODE='1', PYTHONPYCACHEPREFIX='/nonexistent'), (), -1),
)
ALWAYS = ('no_git', 'ascii')


@pytest.mark.parametrize('condition', HARMLESS if TORTURE else ALWAYS)
def test_what_is_harmless_changes_nothing(condition, ordinary_day, tmp_path):
    env, before, umask = HARMLESS[condition]
    if before and not shutil.which(before[0]):
        pytest.skip(f'no {before[0]} here')
    images = pictures(tmp_path / 'pictures')
    ended = work(images, tmp_path / 'out', before, env, umask=umask)
    assert made_by(ended) == ordinary_day


# NFC and NFD of the same letters, a space, a quote, what a shell would expand, a long name
NAMES = ['mit Leerzeichen', 'Fotos für Ömer', 'Fotos fu\u0308r', "it's $HOME; *", '写真', 'n' * 200]


@pytest.mark.parametrize('name', NAMES if TORTURE else NAMES[1:2])
def test_any_name_of_a_folder(name, tmp_path):
    images = pictures(tmp_path / name / name)
    ended = work(images, tmp_path / name / 'out')
    assert ended.returncode == 0, ended.stderr


def test_a_foreign_repository_around_it(ordinary_day, tmp_path):
    "The commit of a repository that happens to be around is nobody's version."
    if not shutil.which('git'):
        pytest.skip('no git here')
    for words in (['init', '-q'], ['commit', '-q', '--allow-empty', '-m', 'theirs']):
        who = ['-c', 'user.name=x', '-c', 'user.email=x@x']
        subprocess.run(['git', *who, *words], cwd=tmp_path, check=True)
    theirs = subprocess.check_output(['git', 'rev-parse', 'HEAD'], cwd=tmp_path, text=True).strip()
    ended = work(pictures(tmp_path / 'pictures'), tmp_path / 'out')
    assert made_by(ended) == ordinary_day
    written = b''.join(p.read_bytes() for p in (tmp_path / 'out').rglob('*') if p.is_file())
    assert theirs.encode() not in written


def one_line(ended, *words):
    "It failed with one line that says these words."
    said = [line for line in ended.stderr.splitlines() if line.startswith('asyncpatch')]
    assert ended.returncode in (1, 2), (ended.returncode, ended.stderr)
    assert len(said) == 1 and 'Traceback' not in ended.stderr, ended.stderr
    assert all(word in said[0] for word in words), said


def test_no_permission_to_write(tmp_path):
    if os.geteuid() == 0 and not shutil.which('setpriv'):
        pytest.skip('root, and no setpriv to do without its rights')
    before = ORDINARY if os.geteuid() == 0 else ()
    images = pictures(tmp_path / 'pictures')
    closed = tmp_path / 'closed'
    closed.mkdir(mode=0o555)
    one_line(work(images, closed / 'out', before), 'closed', 'ermission')
    assert not any(closed.iterdir())


def mounted(options, images, out):
    "The whole way where `out` lies on a file system of its own, mounted for this process alone."
    ready = ['unshare', '-m', 'true']
    if not shutil.which('unshare') or subprocess.run(ready, capture_output=True).returncode:
        pytest.skip('no right to mount a file system for one process')
    script = (
        f'mount -t tmpfs -o {options} none "$0" && cd / && "$@"; s=$?; find "$0" -type f; exit $s'
    )
    return work(images, out / 'out', ['unshare', '-m', 'sh', '-c', script, str(out)])


@pytest.mark.parametrize('size', [40, 100, 150] if TORTURE else [40])
def test_a_full_disk(size, tmp_path):
    "Said as what it is; no temporary file stays, and no file that ends in its middle."
    images, out = pictures(tmp_path / 'pictures'), tmp_path / 'out'
    out.mkdir()
    ended = mounted(f'size={size}k', images, out)
    one_line(ended, 'No space left')
    assert not [line for line in ended.stdout.splitlines() if '.tmp' in line or 'new' in line]


def test_a_read_only_disk(tmp_path):
    images, out = pictures(tmp_path / 'pictures'), tmp_path / 'out'
    out.mkdir()
    one_line(mounted('ro', images, out), 'ead-only')
