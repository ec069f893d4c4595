"The check of style counts what it says, and the modules follow the order of the book."

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
check_style = pytest.importorskip('check_style')


def test_nothing_is_over_the_list_of_exceptions():
    counts = check_style.counts_of(check_style.places())
    over, _, _ = check_style.compared(counts, check_style.admitted())
    assert not over, '\n'.join(over)


def test_the_list_only_shrinks():
    over, under, lowered = check_style.compared(
        {'a': {'long lines': 3}, 'b': {'names': 1}, 'c': {'long lines': 1}},
        {'a': {'long lines': 2}, 'b': {'names': 4}, 'gone': {'names': 1}},
    )
    assert len(over) == 2 and len(under) == 2
    assert lowered == {'a': {'long lines': 2}, 'b': {'names': 1}}


@pytest.mark.parametrize(
    'line, counted',
    [('x' * 100, 0), ('x' * 101, 1), ('https://' + 'x' * 101, 0), ('$a$ ' + 'x' * 101, 0)],
)
def test_formulas_and_addresses_may_be_long(line, counted):
    assert len(check_style.long_lines(line)) == counted


def test_a_long_signature_is_no_long_cell():
    arguments = '\n'.join(f'    argument_{i}: int,  # what it says' for i in range(40))
    short = f'def f(\n{arguments}\n):\n    "Words."\n    return 1'
    assert check_style.length_of_cell(short) == 2
    assert check_style.length_of_cell('x = 1\n' * 26) == 26


@pytest.mark.parametrize(
    'source, counted',
    [
        ('def f(g: Callable): ...', 1),
        ('def f(g: Callable | None = None): ...', 1),
        ('def f() -> dict[str, Callable]: ...', 1),
        ('class A:\n    g: Callable', 1),
        ('def f(g: Callable[[int], int]): ...', 0),
        ('def _f(g: Callable): ...', 0),
        ('def f(g: Network): ...', 0),
    ],
)
def test_a_bare_callable_is_found(source, counted):
    assert len(list(check_style.bare_callables(source))) == counted


@pytest.mark.parametrize(
    'source, counted',
    [
        ('from asyncpatch.zoo import _folder', 1),
        ('from asyncpatch import zoo\nzoo._folder()', 1),
        ('from asyncpatch.zoo import folder\nfolder._x', 0),
        ('from asyncpatch import zoo\nzoo.__name__', 0),
        ('import os\nos._exit(1)', 0),
    ],
)
def test_a_private_name_of_the_package_is_found(source, counted):
    assert len(list(check_style.private_names(source))) == counted


def test_modules_import_what_stands_before_them():
    check_exported = pytest.importorskip('check_exported')
    order = check_exported.order_of_modules()
    check_exported.check_order(order)
    assert not check_exported.problems
    check_exported.check_order(dict(reversed(order.items())))
    found, check_exported.problems[:] = list(check_exported.problems), []
    assert any('imports schedules, which the book has later' in words for words in found)


def test_a_long_cell_needs_a_reason_and_a_reason_a_long_cell(tmp_path):
    source = 'def f():\n' + '    x = 1\n' * 26
    path = tmp_path / 'page.ipynb'
    path.write_text(json.dumps({'cells': [{'cell_type': 'code', 'source': source}]}))
    kinds = lambda reasons: [kind for kind, _, _ in check_style.long_cells(path, reasons)]
    assert kinds({}) == ['long cells']
    assert kinds({'f': 'one table'}) == []
    assert kinds({'g': 'gone'}) == ['long cells', 'reasons not needed']


def test_a_missing_ruff_is_said(monkeypatch):
    monkeypatch.setattr(check_style.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit, match='ruff is not installed here: `make setup` installs it'):
        check_style.ruff('check')
