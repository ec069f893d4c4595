"""Fail when the modules are not what the notebooks export, a module is an orphan, a notebook is not clean,
a cell mixes imports with other code (the docs build would run it), or README.md is not what the index makes."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import build_readme
from execnb.nbio import read_nb
from nbdev.clean import nbdev_clean
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
    "Imports stand alone, and the notebook that says `default_exp` names one module. Returns that name."
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


with tempfile.TemporaryDirectory() as folder:
    copy_of_checkout(Path(folder))
    check_copy(Path(folder))
modules = {check_cells(p.resolve()) for p in nbglob(as_path=True)}
for path in sorted(config.lib_path.rglob('*.py')):
    if path.name in ('__init__.py', '_modidx.py'):
        continue
    if (
        path.relative_to(config.lib_path).with_suffix('').as_posix().replace('/', '.')
        not in modules
    ):
        problems.append(f'{path.relative_to(root)}: an orphan, no notebook exports it')
if wrong := build_readme.problem(root):
    problems.append(wrong)
print('\n'.join(problems) or 'Exported, clean, no orphans, README up to date.')
sys.exit(bool(problems))
