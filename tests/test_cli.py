"The command line as a user meets it: another process, exit status, one line for a mistake."

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMAND = [
    sys.executable,
    '-W',
    'ignore',
    '-c',
    'import sys; from asyncpatch.cli import main; sys.exit(main())',
]


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
        (('sample', '--order', 'raster', '--points', '9'), 'at least 16'),
        (('sample', '--out', '/proc/nowhere/a.png'), 'cannot write to'),
        (('reproduce', '--out', '/proc/nowhere'), 'cannot write to'),
        (('train', '--law', 'asynchronous'), '--law must be a law of times'),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path):
    result = asyncpatch(*arguments)
    assert result.returncode == 2 and said in result.stderr and 'Traceback' not in result.stderr
    assert result.stdout == ''


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
    result = asyncpatch('sample', '--points', '3', '--out', tmp_path / 'a.png')
    assert (
        result.returncode == 2
        and 'exists already' in result.stderr
        and (tmp_path / 'a.png').read_text() == 'precious'
    )


def test_sample_and_inpaint_write_a_picture(tmp_path):
    for command in (
        ('sample', '--points', '5', '--count', '3'),
        ('sample', '--points', '32', '--order', 'spiral', '--count', '2'),
        ('inpaint', '--digit', '17', '--mask', 'thin', '--method', 'biharmonic', '--count', '1'),
    ):
        out = tmp_path / f'{len(list(tmp_path.iterdir()))}.png'
        result = asyncpatch(*command, '--out', out)
        assert (
            result.returncode == 0
            and result.stdout.strip() == str(out)
            and out.read_bytes()[:4] == b'\x89PNG'
        ), result.stderr


def test_reproduce_needs_a_checkout(tmp_path):
    result = asyncpatch('reproduce', cwd=tmp_path)
    assert result.returncode == 2 and 'clone the repository' in result.stderr


def test_interrupted_training_leaves_a_run_that_continues(tmp_path):
    listening = COMMAND[-1].replace(
        'import sys', 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)'
    )  # a background shell has it ignored
    command = [
        *COMMAND[:-1],
        listening,
        'train',
        '--scale',
        'smoke',
        '--steps',
        '4000',
        '--out',
        str(tmp_path / 'run'),
    ]
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

    from asyncpatch.cli import _execute

    cell = nbformat.v4.new_code_cell("import sys\nprint('half way', file=sys.stderr)\n6*7")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / 'a.ipynb')
    _execute(tmp_path / 'a.ipynb', tmp_path / 'out/a.ipynb')
    outputs = nbformat.read(tmp_path / 'out/a.ipynb', 4).cells[0].outputs
    assert [o.data['text/plain'] for o in outputs] == [
        '42'
    ] and capsys.readouterr().err == 'half way\n'
