"""Every product that ships has a readable record, and every record a product and a notebook that
makes it."""

import json
import re
from pathlib import Path

import pytest

from asyncpatch.records import SCALES, load_record
from asyncpatch.reproduction import MADE_AT

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / 'figures'
RECORDS = sorted(p for p in FIGURES.rglob('*.json') if 'quick' not in p.parts)
PRODUCTS = sorted(
    p
    for p in FIGURES.rglob('*')
    if p.suffix in {'.png', '.md', '.csv', '.gif', '.svg'} and 'quick' not in p.parts
)


def products(notebook):
    """Products that a notebook declares, and (scale, name) of those that it makes without an
    accelerator: at digits, unless it says at which scales."""
    cells = [
        ''.join(cell['source'])
        for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']
        if cell['cell_type'] == 'code'
    ]
    every = {
        variable: name
        for cell in cells
        for variable, name in re.findall(r"^(\w+) = Product\(\s*'([\w-]+)'", cell, re.M)
    }
    gpu = {
        every[variable]
        for cell in cells
        if re.match(r'#\| gpu$', cell, re.M)
        for variable in re.findall(r'(\w+)\.make\(', cell)
    }
    said = {
        (scale, every[variable])
        for cell in cells
        for variable, arguments in re.findall(r'(\w+)\.make\((.*)', cell)
        if variable in every
        for scale in re.findall(r"'(\w+)'", arguments)
        if scale in SCALES
    }
    silent = set(every.values()) - gpu - {name for _, name in said}
    return set(every.values()), {(scale, name) for scale, name in said if name not in gpu} | {
        ('digits', name) for name in silent
    }


DECLARED, MADE = (
    set().union(*sets) for sets in zip(*map(products, (ROOT / 'nbs/results').glob('*.ipynb')))
)


@pytest.mark.parametrize('path', PRODUCTS, ids=lambda p: p.relative_to(FIGURES).as_posix())
def test_product_has_a_record(path):
    assert path.with_suffix('.json').is_file()


@pytest.mark.parametrize('path', RECORDS, ids=lambda p: p.relative_to(FIGURES).as_posix())
def test_record_is_readable_and_complete(path):
    record = load_record(path)
    assert record.name == path.stem and record.name in DECLARED, 'no result notebook makes it'
    assert record.scale == path.parent.name and record.scale in SCALES and record.scale != 'smoke'
    assert record.part == 'full', 'a quick part stands in the place of the full record'
    assert (
        record.claim
        and record.config
        and record.data
        and record.made
        and record.commit
        and record.device
    )
    assert {'python', 'torch', 'asyncpatch'} <= record.versions.keys()
    assert record.seconds >= 0 and not record.commit.endswith('+'), (
        'made from a working tree with uncommitted changes'
    )


def test_every_product_ships_at_the_scales_where_a_cpu_makes_it():
    there = {(p.parent.name, p.stem) for p in RECORDS}
    scales = MADE_AT['digits']
    assert {m for m in MADE if m[0] in scales} == {r for r in there if r[0] in scales}
