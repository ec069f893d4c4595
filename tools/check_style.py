"""Count what a reader stumbles over, file by file; fail where a file has more than is admitted.

    python tools/check_style.py            the check of `make test`
    python tools/check_style.py --lower    lower the list of exceptions to what is there now
    python tools/check_style.py --list     every place; `--list FILE` for those of one file

Counted are lines over 100 columns (formulas and addresses pass), cells over 25 lines without their
imports, docstrings and arguments, modules over 500 lines, result pages that show over 220 lines of
code (folded and hidden cells pass), pages over 60 cells, bare `Callable` in public signatures,
private names of the package used outside their module, files that `ruff format` would change, and
names that are unused, undefined or defined twice (ruff's F). `tools/style_exceptions.json` says how
many of each a file may have; it only shrinks. A long cell for which `tools/long_cells.json` has a
reason, under the name of what it defines first, is not counted; a reason that no cell needs is."""

import argparse
import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXCEPTIONS = ROOT / 'tools/style_exceptions.json'
REASONS = ROOT / 'tools/long_cells.json'
COLUMNS, CELL, MODULE = 100, 25, 500
PAGE, CELLS = 220, 60
PYTHON = ('tests', 'tools', 'benchmarks')


def is_exempt(line):
    "Formulas, addresses and captions of figures may be long."
    return '://' in line or line.count('$') > 1 or line.startswith('#| fig-')


def long_lines(source):
    "Lines over the width, as (line number, what is wrong)."
    lines = enumerate(source.splitlines(), 1)
    return [
        (i, f'{len(line)} columns')
        for i, line in lines
        if len(line) > COLUMNS and not is_exempt(line)
    ]


def parsed(source):
    "The syntax tree, None for a cell with magics."
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def length_of_cell(source):
    "Lines of a cell without blank ones, directives, docstrings, imports and arguments."
    lines = {
        i
        for i, line in enumerate(source.splitlines(), 1)
        if line.strip() and not line.startswith('#|')
    }
    for node in ast.walk(parsed(source) or ast.Module([], [])):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            lines -= set(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = node.body[0]
            lines -= set(range(node.lineno + 1, first.lineno))
            if ast.get_docstring(node):
                lines -= set(range(first.lineno, first.end_lineno + 1))
    return len(lines)


def name_of_cell(source):
    "What a cell defines first, or else its first line of code."
    for node in (parsed(source) or ast.Module([], [])).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            return node.name
    lines = (line.strip() for line in source.splitlines())
    return next(line for line in lines if line and not line.startswith('#'))


def bare_callables(source):
    "Annotations of public functions and fields that say `Callable` and no more."
    for node in ast.walk(parsed(source) or ast.Module([], [])):
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            annotations = [f.annotation for f in node.body if isinstance(f, ast.AnnAssign)]
        elif isinstance(node, ast.FunctionDef) and re.match('[a-z]|__init__', node.name):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            annotations = [a.annotation for a in arguments if a.annotation] + [node.returns]
        else:
            continue
        for annotation in filter(None, annotations):
            inside = {
                id(n.value) for n in ast.walk(annotation) if isinstance(n, ast.Subscript)
            }  # Callable[...] is not bare
            for n in ast.walk(annotation):
                if isinstance(n, ast.Name) and n.id == 'Callable' and id(n) not in inside:
                    yield n.lineno, 'bare Callable'


def private_names(source):
    "Names with an underscore that are taken from a module of the package."
    tree = parsed(source) or ast.Module([], [])
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('asyncpatch'):
            for name in node.names:
                if re.match(r'_[a-z]', name.name, re.I):
                    yield node.lineno, f'{node.module}.{name.name}'
            if node.module == 'asyncpatch':
                modules |= {name.asname or name.name for name in node.names}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for node in attributes:
        if re.match(r'_[a-z]', node.attr, re.I) and isinstance(node.value, ast.Name):
            if node.value.id in modules:
                yield node.lineno, f'{node.value.id}.{node.attr}'


def cells_of(path):
    "Sources of the code cells of a notebook."
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'code':
            yield ''.join(cell['source'])


def shown_lines(source):
    "Lines of code that a reader of the page sees: none of a folded or hidden cell."
    if re.search(r'^#\|\s*(code-fold:\s*true|hide)\b', source, re.M):
        return 0
    lines = source.splitlines()
    return sum(bool(line.strip()) and not line.startswith('#|') for line in lines)


def places_of_page(path):
    "What a page has too much of: code that is shown, and cells."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    if (extra := len(cells) - CELLS) > 0:
        yield from [('cells over 60', 'page', f'{len(cells)} cells')] * extra
    lines = sum(map(shown_lines, cells_of(path)))
    if path.parent.name == 'results' and lines > PAGE:
        yield from [('shown lines over 220', 'page', f'{lines} lines')] * (lines - PAGE)


def long_cells(path, reasons):
    "Cells over the length without a reason, and reasons without such a cell."
    unused = dict(reasons)
    for number, source in enumerate(cells_of(path), 1):
        name = ''
        if (length := length_of_cell(source)) > CELL:
            name = name_of_cell(source)
            if name not in reasons:
                yield 'long cells', f'cell {number}', f'{name}: {length} lines'
        unused.pop(name, None)
    yield from (('reasons not needed', 'page', name) for name in unused)


def places_of_notebook(path, reasons):
    "Kind, place and words of everything in a notebook."
    yield from places_of_page(path)
    yield from long_cells(path, reasons)
    for number, source in enumerate(cells_of(path), 1):
        where = f'cell {number}'
        for line, words in long_lines(source):
            yield 'long lines', f'{where}, line {line}', words
        if re.search(r'^#\|\s*exports?\b', source, re.M):
            for line, words in bare_callables(source):
                yield 'bare Callable', f'{where}, line {line}', words
        for line, words in private_names(source):
            yield 'private names', f'{where}, line {line}', words


def places_of_file(path):
    "The same of a test, tool or benchmark."
    source = path.read_text(encoding='utf-8')
    for line, words in long_lines(source):
        yield 'long lines', f'line {line}', words
    for line, words in private_names(source):
        yield 'private names', f'line {line}', words


def places():
    "Everything that is counted: {file: [(kind, place, words)]}."
    found, reasons = {}, json.loads(REASONS.read_text())
    for path in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        if not path.is_symlink() and '.ipynb_checkpoints' not in path.parts:
            page = path.relative_to(ROOT).as_posix()
            found[path] = list(places_of_notebook(path, reasons.get(page, {})))
    for path in sorted(p for folder in PYTHON for p in (ROOT / folder).rglob('*.py')):
        found[path] = list(places_of_file(path))
    for path in sorted((ROOT / 'asyncpatch').glob('[a-z]*.py')):
        if (lines := len(path.read_text(encoding='utf-8').splitlines())) > MODULE:
            found[path] = [('lines over 500', 'module', f'{lines} lines')] * (lines - MODULE)
    named = {path.relative_to(ROOT).as_posix(): list_ for path, list_ in found.items() if list_}
    for file, place in places_of_ruff():
        named.setdefault(file, []).append(place)
    return named


def counts_of(found):
    "How many of each kind, by file."
    counts = {}
    for file, list_ in found.items():
        counts[file] = {}
        for kind, _, _ in list_:
            counts[file][kind] = counts[file].get(kind, 0) + 1
    return counts


def compared(counts, admitted):
    "What is over the list, what is under it, and the list as it may be from now on."
    over, under, lowered = [], [], {}
    for file in sorted(counts.keys() | admitted.keys()):
        for kind in sorted(counts.get(file, {}).keys() | admitted.get(file, {}).keys()):
            now, most = counts.get(file, {}).get(kind, 0), admitted.get(file, {}).get(kind, 0)
            if now > most:
                over.append(f'{file}: {now} {kind}, {most} are admitted')
            if now < most:
                under.append(f'{file}: {now} {kind}, {most} are admitted')
            if least := min(now, most):
                lowered.setdefault(file, {})[kind] = least
    return over, under, lowered


def admitted():
    "The list of exceptions."
    return json.loads(EXCEPTIONS.read_text()) if EXCEPTIONS.is_file() else {}


def ruff(*arguments):
    "What ruff says about all files."
    if importlib.util.find_spec('ruff') is None:
        raise SystemExit('ruff is not installed here: `make setup` installs it')
    call = [sys.executable, '-m', 'ruff', *arguments, 'nbs', *PYTHON]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:
        raise SystemExit(done.stderr)
    return done.stdout


def places_of_ruff():
    "Files that `ruff format` would change, and names that are unused, undefined or defined twice."
    for line in ruff('format', '--check', '-q').splitlines():
        if name := re.search(r'[\w./-]+\.(?:ipynb|py)', line):
            yield name[0], ('unformatted', 'file', 'run `ruff format`')
    for found in json.loads(ruff('check', '-q', '--select', 'F', '--output-format', 'json')):
        where = f"line {found['location']['row']}"
        if found.get('cell'):
            where = f"cell {found['cell']}, {where}"
        file = Path(found['filename']).relative_to(ROOT).as_posix()
        yield file, ('names', where, f"{found['code']} {found['message']}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--lower', action='store_true')
    parser.add_argument('--raise', action='store_true', dest='raise_', help=argparse.SUPPRESS)
    parser.add_argument('--list', nargs='*', metavar='FILE', help='all places, or those of files')
    args, found = parser.parse_args(argv), places()
    if args.list is not None:
        for file, list_ in found.items():
            for kind, place, words in list_:
                if not args.list or any(part in file for part in args.list):
                    print(f'{file}, {place}: {kind}: {words}')
        return 0
    counts = counts_of(found)
    over, under, lowered = compared(counts, admitted())
    if args.lower or args.raise_:
        EXCEPTIONS.write_text(json.dumps(counts if args.raise_ else lowered, indent=1) + '\n')
    elif under:
        print(f'{len(under)} counts can be lowered: python tools/check_style.py --lower')
    over = [] if args.raise_ else over
    totals = {}
    for kinds in counts.values():
        for kind, count in kinds.items():
            totals[kind] = totals.get(kind, 0) + count
    print('Style:', ', '.join(f'{count} {kind}' for kind, count in sorted(totals.items())))
    print('\n'.join(over) or 'Nothing over the list of exceptions.')
    return int(bool(over))


if __name__ == '__main__':
    sys.exit(main())
