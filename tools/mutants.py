"""Break the formulas of the library one at a time, and count the breaks that its tests notice.

    python tools/mutants.py                      go on with all of them (`make torture`; hours)
    python tools/mutants.py --module samplers    those of one module
    python tools/mutants.py --again              only those that survived so far
    python tools/mutants.py --report             what is known, and every survivor

A mutant is one function with one operator, number, sign or call changed. It is put into the module
as it is imported and into the cell of the page that defines it; no file changes. Then the page
runs, and the tests that import the module, each in a process that starts with the libraries loaded.
It is killed when anything fails or takes too long. Which mutants are made is a matter of names
alone, so that every machine makes the same. Results stand in `benchmarks/torture/mutants.json`; why
a survivor may live, in `survivors.json` beside it.
"""

import argparse
import ast
import hashlib
import importlib.abc
import importlib.util
import io
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path

from asyncpatch.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks/torture/mutants.json'
SURVIVORS = ROOT / 'benchmarks/torture/survivors.json'
# module -> how many of its mutants are tried
MODULES = dict(
    schedules=16, denoisers=8, joint=16, lowrank=20, walks=8, paths=8,
    fluid_limit=4, density=8, elbo=12, elbo_estimator=10, fluxes=6, asyncpatch_bound=4,
    holes=8, masks=8, laws=14, rival_laws=16, law_facts=12, spatial=14, samplers=20, moments=6,
    windows=6, guidance=12, tables=10, codebook=4, sources=4, objectives=14, inpainting=14,
    inverse_problems=16, exact_comparison=8, adaptive=10, texture=8, distances=10,
    pixel_errors=4, sampling_error=4, proper_scores=14, results=12, budgets=6,
)  # fmt: skip
SLOW = (
    'wheel', 'cli', 'kill', 'kill_products', 'docs', 'style', 'package', 'gpu_bench', 'dispatch',
    'zoo', 'fuzz', 'playground', 'site', 'jupyter', 'surroundings', 'pretended_device',
)  # fmt: skip
PREFIXES_LEFT_OUT = ('check', '_check', 'draw_', '_draw', '__repr__', '__str__', 'open_axes')
SECONDS, PATIENCE = 150, 3600  # of computing for a stage, and on the clock
BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.Pow: ast.Mult, ast.FloorDiv: ast.Div, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
COMPARED = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}  # fmt: skip
NAMES = dict(
    exp='expm1', expm1='exp', log='log1p', log1p='log', min='max', max='min', amin='amax',
    amax='amin', minimum='maximum', maximum='minimum', mean='sum', sum='mean', sin='cos', cos='sin',
    floor='ceil', ceil='floor', any='all', all='any', alpha='sigma', sigma='alpha',
    argmin='argmax', argmax='argmin', square='abs', sqrt='abs', rsqrt='abs', logsumexp='amax',
)  # fmt: skip


def is_whole(node):
    "Whether an argument is a plain whole number: a dimension or a count."
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


class Break(ast.NodeTransformer):
    "Counts the places where a function can be broken; breaks it at the one asked for."

    def __init__(self, place=None):
        self.place, self.count, self.what = place, 0, None

    def offer(self, node, *others):
        "The node, or the other that the place asked for points at."
        for other in others:
            if self.count == self.place:
                self.what = f'{ast.unparse(node)}  ->  {ast.unparse(other)}'
                self.count += 1
                return ast.copy_location(other, node)
            self.count += 1
        return node

    def visit_FunctionDef(self, node):
        node.body = [self.visit(line) for line in node.body]
        return node

    def _as_it_is(self, node):
        return node

    visit_Raise = visit_Assert = visit_JoinedStr = visit_Import = visit_ImportFrom = _as_it_is
    visit_Global = visit_Nonlocal = _as_it_is

    def visit_Expr(self, node):
        "Texts stay, and so do checks of arguments."
        if isinstance(node.value, ast.Constant):
            return node
        if isinstance(node.value, ast.Call) and 'check' in ast.unparse(node.value.func):
            return node
        return self.generic_visit(node)

    def visit_If(self, node):
        "What only refuses input stays."
        if all(isinstance(line, ast.Raise) for line in node.body):
            node.orelse = [self.visit(line) for line in node.orelse]
            return node
        return self.generic_visit(node)

    def visit_AnnAssign(self, node):
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Subscript(self, node):
        "Places in a tensor are not formulas."
        node.value = self.visit(node.value)
        return node

    def visit_BinOp(self, node):
        whole = deepcopy(node)
        self.generic_visit(node)
        other = BINARY.get(type(node.op))
        if other is None:
            return node
        turned = ast.BinOp(whole.left, other(), whole.right)
        return self.offer(whole, turned, whole.left) if self._untouched() else node

    def visit_UnaryOp(self, node):
        whole = deepcopy(node)
        self.generic_visit(node)
        if isinstance(whole.operand, ast.Constant) or not self._untouched():
            return node
        return self.offer(whole, whole.operand)

    def visit_Compare(self, node):
        whole = deepcopy(node)
        self.generic_visit(node)
        other = COMPARED.get(type(node.ops[0]))
        if other is None or len(node.ops) > 1 or not self._untouched():
            return node
        return self.offer(whole, ast.Compare(whole.left, [other()], whole.comparators))

    def visit_BoolOp(self, node):
        whole = deepcopy(node)
        self.generic_visit(node)
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return self.offer(whole, ast.BoolOp(other, whole.values)) if self._untouched() else node

    def visit_Constant(self, node):
        "Numbers grow by one; halves and the like double."
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            return node
        value = 2 * node.value if isinstance(node.value, float) and node.value else node.value + 1
        return self.offer(node, ast.Constant(value))

    def visit_Call(self, node):
        "A function by its neighbour; keywords stay."
        node.args = [a if is_whole(a) else self.visit(a) for a in node.args]
        if isinstance(node.func, ast.Attribute):
            node.func.value = self.visit(node.func.value)
            name = node.func.attr
        else:
            name = getattr(node.func, 'id', None)
        if name not in NAMES or not self._untouched():
            return node
        other = deepcopy(node)
        if isinstance(other.func, ast.Attribute):
            other.func.attr = NAMES[name]
        else:
            other.func.id = NAMES[name]
        return self.offer(node, other)

    def _untouched(self):
        "Whether nothing inside the node was broken (what is counted stays the same either way)."
        return self.place is None or self.what is None


def functions(tree):
    "Functions and methods of a module by their qualified names."
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f'{node.name}.{inner.name}', inner


def is_formula(name):
    "Whether a function is more than checks, text and drawing."
    return not name.split('.')[-1].startswith(PREFIXES_LEFT_OUT)


def broken(node, place):
    "A function broken at a place, and what was changed, on one line."
    transformer = Break(place)
    result = transformer.visit(deepcopy(node))
    return ast.fix_missing_locations(result), transformer.what


def mutants_of(module, count):
    "Names of mutants of a module: function, place, what is changed; functions take turns."
    tree = ast.parse((ROOT / f'asyncpatch/{module}.py').read_text())
    draw = random.Random(module)
    queues = []
    for name, node in functions(tree):
        if not is_formula(name):
            continue
        counter = Break()
        counter.visit(deepcopy(node))
        places = list(range(counter.count))
        draw.shuffle(places)
        digest = hashlib.sha256(ast.dump(node).encode()).hexdigest()[:10]
        queues.append([(name, place, digest, broken(node, place)[1]) for place in places])
    draw.shuffle(queues)
    chosen = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            while queue:
                mutant = queue.pop()
                if mutant[3] is not None:
                    chosen.append(mutant)
                    break
    return chosen[:count]


def with_break(source, name, place):
    "A source with one of its functions broken, or None where it is not defined."
    tree = ast.parse(source)
    for found, node in functions(tree):
        if found == name:
            changed, _ = broken(node, place)
            node.body = changed.body
            return ast.unparse(ast.fix_missing_locations(tree))
    return None


class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    "Imports one module of the package from a changed source."

    def __init__(self, module, source):
        self.name, self.source = f'asyncpatch.{module}', source

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        place = str(ROOT / f'asyncpatch/{name.split(".")[1]}.py')
        return importlib.util.spec_from_file_location(name, place, loader=self)

    def exec_module(self, module):
        exec(compile(self.source, module.__file__, 'exec'), module.__dict__)


def page_of(module):
    "The notebook that a module is exported from."
    first = (ROOT / f'asyncpatch/{module}.py').read_text().splitlines()[:6]
    found = re.search(r'(nbs/[\w/]+\.ipynb)', '\n'.join(first))
    return ROOT / found[1]


def tests_of(module):
    "Its own tests first, then others that import it."
    own = ROOT / f'tests/test_{module}.py'
    named = re.compile(rf'asyncpatch\.{module} import|asyncpatch import [^\n]*\b{module}\b')
    others = [
        path
        for path in sorted((ROOT / 'tests').glob('test_*.py'))
        if path != own and path.stem[5:] not in SLOW and named.search(path.read_text())
    ]
    first = [path for path in (own, ROOT / 'tests/test_formulas.py') if path.is_file()]
    return first + [path for path in others if path not in first]


def run_page(page, name, place):
    "Every cell of a page, the function broken where it is defined."
    from execnb.nbio import read_nb
    from execnb.shell import CaptureShell

    shell = CaptureShell(page.parent)
    for cell in read_nb(page).cells:
        if cell.cell_type != 'code' or re.search(r'^#\|\s*eval:\s*false', cell.source, re.M):
            continue
        source = cell.source
        if name and re.search(rf'\b(def|class) {name.split(".")[0]}\b', source):
            source = with_break(source, name, place) or source
        shell.run(source)
        if shell.exc:
            raise shell.exc


def run_tests(paths):
    "pytest over some files, stopped at the first failure."
    import pytest

    if paths and pytest.main(['-x', '-q', '-p', 'no:cacheprovider', *map(str, paths)]) != 0:
        raise AssertionError('a test failed')


def stage(what, module, name, place, out):
    "One of the two stages in a process of its own; says how it ended."
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for loaded in [m for m in sys.modules if m.split('.')[0] == 'asyncpatch']:
        del sys.modules[loaded]
    try:
        if name:
            source = with_break((ROOT / f'asyncpatch/{module}.py').read_text(), name, place)
            sys.meta_path.insert(0, Broken(module, source))
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            if what == 'page':
                run_page(page_of(module), name, place)
            else:
                run_tests(tests_of(module))
        out.send('passed')
    except BaseException as error:
        out.send(f'{type(error).__name__}: {str(error)[:120]}')


def outcome(what, module, name=None, place=None):
    "How a stage ends: 'passed', 'too slow', an exit status, or the error."
    fork = multiprocessing.get_context('fork')
    ends, out = fork.Pipe(duplex=False)
    process = fork.Process(target=stage, args=(what, module, name, place, out))
    process.start()
    out.close()
    try:
        return ends.recv() if ends.poll(PATIENCE) else 'too slow'
    except EOFError:
        process.join()
        return 'too slow' if process.exitcode == -signal.SIGXCPU else f'exit {process.exitcode}'
    finally:
        process.kill()
        process.join()


def judge(module, name, place):
    "Which stage notices a mutant, and how; None for a survivor."
    for what in ('page', 'tests'):
        ended = outcome(what, module, name, place)
        if ended != 'passed':
            return dict(by=what, how=ended)
    return None


def known():
    "What was found so far, by the mutant's name."
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def try_all(modules, again):
    "Judge what is not yet known; keep every answer at once."
    import fastcore.test  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import sympy  # noqa: F401
    import torch  # noqa: F401
    import torchvision  # noqa: F401

    for module in modules:
        sound = None
        for name, place, digest, what in mutants_of(module, MODULES[module]):
            key = f'{module}.{name}#{place}@{digest}'
            found = known()
            if key in found and not (again and found[key]['killed'] is None):
                continue
            if sound is None:
                ends = {stage: outcome(stage, module) for stage in ('page', 'tests')}
                sound = set(ends.values()) == {'passed'}
                if not sound:
                    print(f'{module}: does not pass unbroken: {ends}', flush=True)
            if not sound:
                break
            start = time.monotonic()
            killed = judge(module, name, place)
            found = {k: v for k, v in known().items() if k.split('@')[0] != key.split('@')[0]}
            found[key] = dict(what=what, killed=killed)
            write_atomically(RESULTS, json.dumps(found, indent=1).encode())
            fate = f"killed by its {killed['by']}" if killed else 'SURVIVES'
            print(f'{time.monotonic() - start:5.0f} s  {key}  {what}  {fate}', flush=True)


def report():
    "One line a module, then the survivors with the reason why they may live."
    found = known()
    reasons = json.loads(SURVIVORS.read_text()) if SURVIVORS.is_file() else {}
    by_module = {}
    for key, value in found.items():
        by_module.setdefault(key.split('.')[0], []).append(value['killed'] is not None)
    for module, killed in by_module.items():
        print(f'{module:>20}  {sum(killed):>3} of {len(killed)} killed')
    total = [k for group in by_module.values() for k in group]
    print(f"{'all':>20}  {sum(total)} of {len(total)} killed: {sum(total) / len(total):.1%}")
    for key, value in found.items():
        if value['killed'] is None:
            reason = reasons.get(key.split('@')[0], 'not explained')
            print(f"{key.split('@')[0]}  {value['what']}\n    {reason}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--module', action='append', choices=MODULES)
    parser.add_argument('--again', action='store_true', help='try survivors once more')
    parser.add_argument('--report', action='store_true')
    options = parser.parse_args()
    if not options.report:
        try_all(options.module or MODULES, options.again)
    report()


if __name__ == '__main__':
    main()
