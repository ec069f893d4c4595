"""Fail when the modules are not what the notebooks export, a module is an orphan, a notebook is not
clean, a cell mixes imports with other code (the docs build would run it), a module imports one of a
later page (the order is that of `_quarto.yml`), or README.md is not what the index makes."""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import build_readme
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob

config = get_config()
root = config.config_path
problems = []


def tree(folder):
    "Every Python file below `folder` with its text."
    return {
        p.relative_to(folder): p.read_text(encoding='utf-8')
        for p in folder.rglob('*.py')
        if '__pycache__' not in p.parts
    }


def copy_of_checkout(to):
    "What export and cleaning read and write, so that a check never touches the working tree."
    for name in ('nbs', config.lib_path.name):
        shutil.copytree(root / name, to / name, symlinks=True)
    for name in ('settings.ini', 'setup.py', 'README.md', '_quarto.yml'):
        shutil.copy(root / name, to / name)


def check_copy(to):
    "Export and clean in the copy; every difference is a problem."
    subprocess.run(['nbdev_export'], cwd=to, check=True)
    before, after = tree(config.lib_path), tree(to / config.lib_path.name)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            problems.append(
                f'{config.lib_path.name}/{name}: not what the notebooks export; run `make export`'
            )
    subprocess.run(['nbdev_clean'], cwd=to, check=True)
    for nb in sorted((root / 'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in nb.parts:
            continue
        if nb.read_bytes() != (to / nb.relative_to(root)).read_bytes():
            problems.append(f'{nb.relative_to(root)}: not clean; run `make clean-notebooks`')


def check_cells(path):
    """Imports stand alone, and the notebook that says `default_exp` names one module. Returns that
    name."""
    module = None
    for cell in read_nb(path).cells:
        if cell.cell_type != 'code':
            continue
        if found := re.search(r'^#\|\s*default_exp\s+(\S+)', cell.source, re.M):
            module = found[1]
        lines = [
            l for l in cell.source.splitlines() if l.strip() and not l.lstrip().startswith('#')
        ]
        imports = [l for l in lines if re.match(r'(from \S+ import|import) |^[ )]', l)]
        if (
            any(re.match(r'(from|import) ', l) for l in lines)
            and len(imports) < len(lines)
            and 'nbdev_export' not in cell.source
        ):
            problems.append(
                f'{path.relative_to(root)}: imports mixed with other code: {lines[0][:60]}'
            )
    return module


def order_of_modules():
    "Modules in the order of the book, with the page of each."
    pages = re.findall(r'^\s*- (\S+\.ipynb)', (root / '_quarto.yml').read_text(), re.M)
    order = {}
    for page in pages:
        path = root / 'nbs' / page
        if not path.is_file():
            problems.append(f'_quarto.yml: names {page}, which is no notebook')
        elif module := check_cells(path):
            order[module] = page
    return order


def imports_of(module):
    "Modules of ours that an exported module imports anywhere, with the line."
    tree = ast.parse((config.lib_path / f'{module}.py').read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level and node.module:
            yield node.module, node.lineno
        elif node.level or node.module == 'asyncpatch':
            yield from ((name.name, node.lineno) for name in node.names)
        elif node.module.startswith('asyncpatch.'):
            yield node.module.removeprefix('asyncpatch.'), node.lineno


def check_order(order):
    "Each module imports only modules of pages before its own."
    place = {module: i for i, module in enumerate(order)}
    for module, page in order.items():
        for other, line in imports_of(module):
            if place.get(other, -1) >= place[module]:
                problems.append(
                    f'{page}: {module} (line {line}) imports {other}, which the book has later'
                )


def check_orphans(modules):
    "Each module is exported by a notebook."
    for path in sorted(config.lib_path.rglob('*.py')):
        name = path.relative_to(config.lib_path).with_suffix('').as_posix().replace('/', '.')
        if name not in {'__init__', '__main__', '_modidx', *modules}:
            problems.append(f'{path.relative_to(root)}: an orphan, no notebook exports it')


def main():
    with tempfile.TemporaryDirectory() as folder:
        copy_of_checkout(Path(folder))
        check_copy(Path(folder))
    order = order_of_modules()
    modules = {check_cells(p.resolve()) for p in nbglob(as_path=True)} - {None}
    for module in sorted(modules - order.keys()):
        problems.append(f'_quarto.yml: has no page of {module}')
    check_order(order)
    check_orphans(modules)
    if wrong := build_readme.problem(root):
        problems.append(wrong)
    print('\n'.join(dict.fromkeys(problems)) or 'Exported, clean, in order, README up to date.')
    return int(bool(problems))


if __name__ == '__main__':
    sys.exit(main())
