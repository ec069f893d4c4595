"""The wheel and the source archive: built, installed alone, used offline.

A virtual environment sees torch and the other hard dependencies, with what these need, as links
into the environment that runs the tests, and nothing else: what an optional package would hide is
seen.
"""

import configparser
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import docstrings  # noqa: E402

OFFLINE = {'PIP_NO_INDEX': '1', 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': '', 'OMP_NUM_THREADS': '1'}


def run(*command, cwd=None, **environment):
    "A command that must succeed, offline; what it prints."
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **OFFLINE, **environment},
    )
    assert done.returncode == 0, f'{command}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}'
    return done.stdout


def copy_of_checkout(to):
    "What git tracks, or would: nothing that an earlier build left."
    listed = run('git', 'ls-files', '-co', '--exclude-standard', cwd=ROOT).splitlines()
    wanted = [name for name in listed if not name.startswith(('figures/', 'tests/', 'benchmarks/'))]
    for name in wanted:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(ROOT / name, to / name)
    return to


@pytest.fixture(scope='session')
def archives(tmp_path_factory):
    "The source archive of the checkout, and the wheel that is built from that archive."
    folder = tmp_path_factory.mktemp('wheel', numbered=True)
    (folder / 'checkout').mkdir()
    copy_of_checkout(folder / 'checkout')
    build = (
        'import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])'
    )
    run(sys.executable, '-c', build, 'build_sdist', folder, cwd=folder / 'checkout')
    (sdist,) = folder.glob('*.tar.gz')
    with tarfile.open(sdist) as tar:
        safe = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}  # Python 3.11.4
        tar.extractall(folder / 'unpacked', **safe)
    (source,) = (folder / 'unpacked').iterdir()
    run(sys.executable, '-c', build, 'build_wheel', folder, cwd=source)
    (wheel,) = folder.glob('*.whl')
    return sdist, wheel


def needed(wanted):
    "Distributions that requirements name, and those that these need in turn, extras included."
    found, seen, waiting = {}, set(), list(wanted)
    while waiting:
        requirement = waiting.pop()
        for extra in ('', *requirement.extras):
            key = requirement.name.lower().replace('_', '-'), extra
            if key in seen:
                continue
            seen.add(key)
            try:
                found[key[0]] = metadata.distribution(requirement.name)
            except metadata.PackageNotFoundError:
                continue  # for another system
            for part in map(Requirement, found[key[0]].requires or []):
                if part.marker is None or part.marker.evaluate({'extra': extra}):
                    waiting.append(part)
    return found


def hard_dependencies():
    "What installing the wheel without an extra brings along."
    ini = configparser.ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    return [Requirement(text) for text in ini['DEFAULT']['requirements'].split()]


@pytest.fixture(scope='session')
def bare(archives, tmp_path_factory):
    "Python of an environment that holds the wheel, the hard dependencies and nothing else."
    folder = tmp_path_factory.mktemp('bare')
    run(sys.executable, '-m', 'venv', '--without-pip', folder / 'venv')
    (site,) = (folder / 'venv').glob('lib/python*/site-packages')
    for distribution in needed(hard_dependencies()).values():
        for top in {file.parts[0] for file in distribution.files or []} - {'..', '__pycache__'}:
            origin = Path(distribution.locate_file(top))
            if origin.exists() and not (site / top).exists():
                (site / top).symlink_to(origin)
    python = folder / 'venv/bin/python'
    pip = (sys.executable, '-m', 'pip', '--python', python, '--disable-pip-version-check')
    run(*pip, 'install', '-q', '--no-index', archives[1])
    return python


def test_there_are_at_most_eight_hard_dependencies():
    assert len(hard_dependencies()) <= 8, hard_dependencies()


def test_archives_hold_what_they_promise(archives):
    sdist, wheel = archives
    names = zipfile.ZipFile(wheel).namelist()
    assert 'asyncpatch/py.typed' in names
    assert any(name.startswith('asyncpatch/weights/') for name in names)
    tracked = run('git', 'ls-files', 'asyncpatch', cwd=ROOT).splitlines()
    assert not [n for n in tracked if n not in names and (ROOT / n).is_file()]
    inside = [name.partition('/')[2] for name in tarfile.open(sdist).getnames()]
    assert {'setup.py', 'settings.ini', 'LICENSE', 'tools/equations.json'} <= set(inside)
    assert not [name for name in inside if name.endswith('.ipynb')]


def test_metadata_says_what_the_package_is(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        (path,) = [name for name in wheel.namelist() if name.endswith('.dist-info/METADATA')]
        text = wheel.read(path).decode()
    head = text.partition('\n\n')[0]
    for wanted in (
        'Typing :: Typed',
        'Programming Language :: Python :: 3.12',
        'Intended Audience :: Science/Research',
        'Project-URL: Documentation',
        'Project-URL: Issues',
        'Keywords: diffusion',
        'Provides-Extra: metrics',
        'Provides-Extra: all',
        'Requires-Python: >=3.11',
    ):
        assert wanted in head, wanted


IMPORTS = """
import importlib, pkgutil, sys, asyncpatch
assert 'site-packages' in asyncpatch.__file__, asyncpatch.__file__
assert 'torch' not in sys.modules
for found in pkgutil.iter_modules(asyncpatch.__path__):
    importlib.import_module('asyncpatch.' + found.name)
optional = {'scipy', 'sklearn', 'skimage', 'matplotlib', 'torchvision', 'lpips', 'fastcore'}
assert not optional & set(sys.modules), optional & set(sys.modules)
"""


def test_every_module_imports_with_the_hard_dependencies_alone(bare, tmp_path):
    run(bare, '-W', 'error::SyntaxWarning', '-c', IMPORTS, cwd=tmp_path)


FIVE_LINES = """
import asyncpatch
model = asyncpatch.load('digits-asyncpatch')
images = asyncpatch.sample(model, n=2, label=3, seed=0, calls=4)
filled = asyncpatch.inpaint(model, images, known=images > 0, calls=4)
print(tuple(images.shape), tuple(filled.shape))
"""


def test_five_lines_and_the_commands(bare, tmp_path):
    assert run(bare, '-c', FIVE_LINES, cwd=tmp_path).strip() == '(2, 1, 8, 8) (2, 1, 8, 8)'
    command = bare.parent / 'asyncpatch'
    assert run(command, '--version', cwd=tmp_path).startswith('asyncpatch 0')
    run(command, 'sample', '--count', 2, '--calls', 3, '--out', 'a.png', cwd=tmp_path)
    run(
        command,
        'inpaint',
        'a.png',
        '--mask',
        '2,2,9,9',
        '--calls',
        3,
        '--out',
        'b.png',
        cwd=tmp_path,
    )
    assert (tmp_path / 'a.png').is_file() and (tmp_path / 'b.png').is_file()


HELP = """
import asyncpatch, importlib, inspect, json, pkgutil, pydoc, sys
found = {}
for name in ('load', 'sample', 'inpaint', 'train'):
    found[name] = pydoc.render_doc(getattr(asyncpatch, name), renderer=pydoc.plaintext)
for part in pkgutil.iter_modules(asyncpatch.__path__):
    module = importlib.import_module('asyncpatch.' + part.name)
    for name in getattr(module, '__all__', []):
        value = getattr(module, name)
        if inspect.isfunction(value) and value.__module__ == module.__name__:
            if inspect.signature(value).parameters:
                found[f'{part.name}.{name}'] = pydoc.render_doc(value, renderer=pydoc.plaintext)
json.dump(found, sys.stdout)
"""


def test_help_shows_arguments_results_and_errors(bare, tmp_path):
    pages = json.loads(run(bare, '-c', HELP, cwd=tmp_path))
    assert len(pages) > 200
    without = [name for name, page in pages.items() if 'Args:' not in page]
    assert len(without) < len(pages) / 20, without  # a function without a word on its arguments
    assert not {'load', 'sample', 'inpaint', 'train', 'samplers.sample'} & set(without)
    assert not [name for name, page in pages.items() if '@eq-' in page]
    assert 'Returns:' in pages['sample'] and 'Raises:' in pages['sample']
    assert any('(eq. ' in page for page in pages.values())


def test_docstrings_change_and_nothing_else():
    "The law of the build step, over every module, with a negative control."
    numbers = docstrings.equations(ROOT)
    for path in sorted((ROOT / 'asyncpatch').glob('*.py')):
        source = path.read_text(encoding='utf-8')
        if docstrings.is_exported(source):
            assert docstrings.documented(source, numbers) != source, path
    assert docstrings._bare('def f(): return 1') != docstrings._bare('def f(): return 2')


EXAMPLE = '''
def scale(
    x: Tensor,  # images, (B, C, H, W)
    by: float
    | None = None,  # factor of @eq-step
    *rest,
    **options,  # of the run
) -> tuple[Tensor, int]:  # the scaled images, and how many
    r"""$\\alpha x$ (@eq-step).

    Raises `TypeError`, and `ValueError` for \\"by\\" below 0, e.g. -1. It is slow."""
    return x


class Field:
    "A field."

    size: int  # side in pixels

    def __call__(self, t):  # what it is at `t`
        return t
'''


def test_a_docstring_says_what_the_comments_say():
    made, numbers = {}, {'eq-step': 'eq. 13.1, Samplers'}
    source = docstrings.documented(EXAMPLE, numbers)
    exec('from __future__ import annotations\n' + source, made)
    assert made['scale'].__doc__.startswith('$\\alpha x$ (eq. 13.1, Samplers).')
    words = ' '.join(made['scale'].__doc__.split())
    assert 'It is slow. Args: x: images, (B, C, H, W) by: factor of (eq. 13.1, Samplers)' in words
    assert 'options: of the run Returns: the scaled images, and how many' in words
    assert words.endswith('Raises: TypeError ValueError: for \\"by\\" below 0, e.g. -1')
    assert 'rest' not in words
    assert ' '.join(made['Field'].__doc__.split()) == 'A field. Attributes: size: side in pixels'
    assert ' '.join(made['Field'].__call__.__doc__.split()) == 'Returns: what it is at `t`'
