"What the package promises about itself: it stands without its build tools and its extras."

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
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
    tools = ['nbdev', 'fastcore', 'execnb', 'IPython', 'nbclient', 'jupytext', 'azula']
    block = f'import sys; sys.modules.update(dict.fromkeys({tools}))\n'
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


# Which extra holds what is imported; distributions whose module has another name.
DISTRIBUTIONS = {
    'sklearn': 'scikit-learn',
    'skimage': 'scikit-image',
    'PIL': 'pillow',
    'torch_fidelity': 'torch-fidelity',
}


def requirements(extra=''):
    "Distributions of an extra, or the hard ones, from settings.ini."
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    words = ini['DEFAULT'][f'{extra}_requirements' if extra else 'requirements'].split()
    return {re.match(r'[\w-]+', word)[0] for word in words}


def optional_imports(node, inside=None):
    "Third-party imports below a node, each with the extra in whose `with` it stands."
    if isinstance(node, ast.With):
        call = node.items[0].context_expr
        if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'extra':
            inside = call.args[0].value
    if isinstance(node, ast.Import):
        yield from ((alias.name.split('.')[0], inside) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield node.module.split('.')[0], inside
    for child in ast.iter_child_nodes(node):
        yield from optional_imports(child, inside)


def test_optional_packages_are_imported_under_the_extra_that_holds_them():
    known, hard, wrong = set(sys.stdlib_module_names) | {'asyncpatch'}, requirements(), set()
    for module in MODULES:
        tree = ast.parse((ROOT / f'asyncpatch/{module}.py').read_text(encoding='utf-8'))
        for name, extra in optional_imports(tree):
            distribution = DISTRIBUTIONS.get(name, name)
            if name in known or distribution in hard:
                continue
            if extra is None or distribution not in requirements(extra):
                wrong.add((module, name))
    assert not wrong


def test_the_check_sees_an_import_without_its_extra():
    bad = ast.parse("def f():\n    import lpips\n    with extra('data'):\n        import scipy\n")
    assert list(optional_imports(bad)) == [('lpips', None), ('scipy', 'data')]


def test_the_weights_that_ship_stay_within_their_budgets():
    from asyncpatch.weights import SHIPPED

    def size(*patterns):
        found = [path for pattern in patterns for path in SHIPPED.glob(pattern)]
        return sum(path.stat().st_size for path in found) / 2**20

    for most, patterns in (
        (12, ['digits-*', 'leaves16-*']),
        (24, ['leaves-*', 'leaves64-*', 'photos-*']),
        (40, ['*']),
    ):
        assert size(*patterns) <= most, f'{patterns}: {size(*patterns):.1f} MiB'
