"What the package promises about itself: it stands without its build tools, and the book can be read in order."

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.stem
    for path in (ROOT / 'asyncpatch').glob('*.py')
    if path.stem not in ('__init__', '_modidx')
)


def imported(module):
    "Modules that an exported module imports anywhere, ours by their bare name."
    for node in ast.walk(ast.parse((ROOT / f'asyncpatch/{module}.py').read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield from ([node.module] if node.module else (alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            if node.module == 'asyncpatch':
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.removeprefix('asyncpatch.')


@pytest.mark.parametrize('module', MODULES)
def test_the_build_tools_are_not_imported(module):
    assert not {name.split('.')[0] for name in imported(module)} & {'nbdev', 'fastcore', 'execnb'}


def test_everything_imports_without_the_build_tools():
    block = "import sys; sys.modules.update(dict.fromkeys(['nbdev', 'fastcore', 'execnb', 'IPython', 'nbclient', 'jupytext', 'azula']))\n"
    code = (
        block
        + '\n'.join(f'import asyncpatch.{module}' for module in MODULES)
        + "\nimport asyncpatch; print(asyncpatch.load('digits-asyncpatch').about['law'])"
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == 'asyncpatch', done.stderr


def test_help_does_not_wait_for_torch():
    code = "import sys, asyncpatch.cli as c; c.parser(); print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
        == 'False'
    )


def test_the_weights_that_ship_stay_within_their_budgets():
    from asyncpatch.weights import SHIPPED

    size = lambda *patterns: (
        sum(path.stat().st_size for pattern in patterns for path in SHIPPED.glob(pattern)) / 2**20
    )
    for most, patterns in (
        (16, ['digits-*', 'leaves16-*']),
        (24, ['leaves-*', 'leaves64-*', 'photos-*']),
        (40, ['*']),
    ):
        assert size(*patterns) <= most, f'{patterns}: {size(*patterns):.1f} MiB'
