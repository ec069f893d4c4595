"The command line as a user meets it: another process, exit status, one line for a mistake."

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, '-W', 'ignore', '-m', 'asyncpatch']


def asyncpatch(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore', **environment},
    )


def test_help_is_worth_reading():
    top = asyncpatch('--help')
    assert top.returncode == 0 and all(
        word in top.stdout for word in ('reproduce', 'train', 'sample', 'inpaint', 'examples:')
    )
    assert '--scale' in asyncpatch('reproduce', '--help').stdout


@pytest.mark.parametrize(
    'arguments, said',
    [
        (('reproduce', '--scale', 'digit'), "Did you mean 'digits'?"),
        (('reproduce', '--only', 'tab1'), "Did you mean 'tab01'?"),
        (('inpaint', '--mask', 'wyde'), "Did you mean 'wide'?"),
        (('inpaint', '--digit', '1797'), 'from 0 to 359'),
        (('inpaint', '--digit', '-1'), 'whole number'),
        (('sample', '--label', '10'), 'from 0 to 9'),
        (('sample', '--order', 'raster', '--calls', '9'), 'at least 16'),
        (('sample', '--calls', '4', '--points', '5'), '--points does not apply beside --calls'),
        (('sample', '--out', 'a.gif'), '--out must end in one of'),
        (('sample', '--device', 'gpu'), '--device must be a device of this machine'),
        (('sample', '--steps', '4'), 'unrecognized arguments: --steps'),
        (('train', '--images', 'nowhere'), '--images must be a folder of pictures'),
        (('train', '--minutes', 'nan'), 'must be a number of at least 0'),
        (('sample', '--out', '/proc/nowhere/a.png'), 'cannot write to'),
        (('reproduce', '--out', '/proc/nowhere'), 'cannot write to'),
        (('train', '--law', 'asynchronous'), '--law must be a law of times'),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path):
    result = asyncpatch(*arguments)
    assert result.returncode == 2 and said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ''


def test_version_is_said():
    import asyncpatch as package

    assert asyncpatch('--version').stdout.strip() == f'asyncpatch {package.__version__}'


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    (tmp_path / 'weights.safetensors').write_bytes(b'not weights at all')
    result = asyncpatch(
        'sample', '--model', tmp_path / 'weights.safetensors', '--out', tmp_path / 'a.png'
    )
    assert (
        result.returncode == 2 and 'damaged' in result.stderr and 'Traceback' not in result.stderr
    )
    assert (
        'Traceback'
        in asyncpatch(
            'sample',
            '--model',
            tmp_path / 'weights.safetensors',
            '--out',
            tmp_path / 'a.png',
            '--debug',
        ).stderr
    )
    assert not (tmp_path / 'a.png').exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / 'a.png').write_text('precious')
    result = asyncpatch('sample', '--calls', '3', '--out', tmp_path / 'a.png')
    assert (
        result.returncode == 2
        and 'exists already' in result.stderr
        and (tmp_path / 'a.png').read_text() == 'precious'
    )


def test_pictures_are_written_in_the_format_of_their_suffix(tmp_path):
    from PIL import Image

    for command, names in (
        (('sample', '--calls', '5', '--count', '1'), ['a.jpg']),
        (('sample', '--calls', '32', '--order', 'spiral', '--count', '2'), ['a.webp', 'a-0.webp']),
        (('inpaint', '--mask', 'thin', '--method', 'biharmonic', '--count', '1'), ['a.tif']),
    ):
        result = asyncpatch(*command, '--out', tmp_path / names[0])
        assert result.returncode == 0, result.stderr
        for name in names:
            assert str(tmp_path / name) in result.stdout.splitlines()
            kind = {'.jpg': 'JPEG', '.webp': 'WEBP', '.tif': 'TIFF'}[Path(name).suffix]
            assert Image.open(tmp_path / name).format == kind


def test_transparency_is_kept_or_said_to_be_lost(tmp_path):
    import numpy as np
    from PIL import Image

    noise = np.random.RandomState(0).randint(0, 255, (16, 16, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / 'half.png')
    asked = ('inpaint', tmp_path / 'half.png', '--mask', '2,2,6,6', '--calls', '2')
    asked = (*asked, '--model', 'textures-colour-asyncpatch')
    assert asyncpatch(*asked, '--out', tmp_path / 'a.png').returncode == 0
    after = np.asarray(Image.open(tmp_path / 'a.png'))
    known = np.ones((16, 16), bool)
    known[2:6, 2:6] = False
    assert (after[known] == noise[known]).all() and (after[~known, 3] == 255).all()
    aloud = [COMMAND[0], *COMMAND[3:], *map(str, asked), '--out', str(tmp_path / 'a.jpg')]
    lost = subprocess.run(aloud, cwd=ROOT, capture_output=True, text=True)
    assert lost.returncode == 0 and 'no transparency' in lost.stderr


def test_own_pictures_are_learned_drawn_and_filled_in(tmp_path):
    "The whole way of a stranger: train, more steps, sample, inpaint, with nothing but a folder."
    import numpy as np
    from PIL import Image

    from asyncpatch.weights import load

    (tmp_path / 'mine/cats').mkdir(parents=True)
    (tmp_path / 'mine/dogs').mkdir()
    draws = np.random.RandomState(0)
    for i in range(4):
        pixels = Image.fromarray(draws.randint(0, 255, (20, 30, 3), dtype=np.uint8))
        pixels.save(tmp_path / f'mine/{("cats", "dogs")[i % 2]}/{i}.png')
    run = ('train', '--images', 'mine', '--size', '8', '--width', '8', '--batch', '2')
    for steps in ('2', '3'):  # the second goes on beyond the end of the first
        done = asyncpatch(*run, '--steps', steps, '--out', 'run', cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    model = load(tmp_path / 'run')
    assert (model.size, model.classes, model.data) == ((8, 8), 2, 'mine')
    assert (model.about['steps'], model.about['images']) == (3, 4)
    started = asyncpatch(*run, '--steps', '1', '--init', 'run', '--out', 'second', cwd=tmp_path)
    assert started.returncode == 0, started.stderr
    sent = asyncpatch(*run, '--steps', '1', '--where', 'process', '--out', 'third', cwd=tmp_path)
    assert sent.returncode == 0 and load(tmp_path / 'third').data == 'mine', sent.stderr
    trailing = asyncpatch('sample', '--out', 'folder/', cwd=tmp_path)
    assert trailing.returncode == 2 and 'folder' in trailing.stderr
    drawn = ('sample', '--model', 'run', '--label', '1', '--count', '1', '--calls', '2')
    assert asyncpatch(*drawn, '--out', 'a.png', cwd=tmp_path).returncode == 0
    assert Image.open(tmp_path / 'a.png').size == (8, 8)
    picture = ('inpaint', 'mine/cats/0.png', '--model', 'run', '--calls', '2', '--label', '0')
    assert asyncpatch(*picture, '--mask', '3,3,9,9', '--out', 'b.png', cwd=tmp_path).returncode == 0
    assert Image.open(tmp_path / 'b.png').size == (30, 20)


def test_reproduce_needs_a_checkout(tmp_path):
    result = asyncpatch('reproduce', cwd=tmp_path)
    assert result.returncode == 2 and 'clone the repository' in result.stderr


def test_interrupted_training_leaves_a_run_that_continues(tmp_path):
    listening = (  # a background shell has it ignored
        'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); '
        'from asyncpatch.cli import main; sys.exit(main())'
    )
    asked = ('train', '--scale', 'smoke', '--steps', '4000', '--out', str(tmp_path / 'run'))
    command = [sys.executable, '-W', 'ignore', '-c', listening, *asked]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    while not (tmp_path / 'run/checkpoint.safetensors').is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (
        process.returncode == 1 and 'the same command continues' in said and 'Traceback' not in said
    )
    assert not list((tmp_path / 'run').glob('.*.part'))
    again = asyncpatch(
        'train', '--scale', 'smoke', '--steps', '4000', '--minutes', '0', '--out', tmp_path / 'run'
    )
    assert again.returncode == 1 and 'minutes are over at step' in again.stderr


def test_a_notebook_is_executed_and_its_progress_passed_on(tmp_path, capsys):
    import nbformat

    from asyncpatch.reproduction import execute

    cell = nbformat.v4.new_code_cell("import sys\nprint('half way', file=sys.stderr)\n6*7")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / 'a.ipynb')
    execute(tmp_path / 'a.ipynb', tmp_path / 'out/a.ipynb')
    outputs = nbformat.read(tmp_path / 'out/a.ipynb', 4).cells[0].outputs
    assert [o.data['text/plain'] for o in outputs] == [
        '42'
    ] and capsys.readouterr().err == 'half way\n'
