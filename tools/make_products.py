"""Compute products of a result page where there is no Jupyter: on a GPU machine with PyTorch alone.

    python tools/make_products.py nbs/results/32_ablation.ipynb fashion tab01
    python tools/make_products.py PAGE SCALE NAME … --part quick --out FOLDER

The code cells of the page run one after the other in this process up to the last product that is
asked for, with nothing made on the way; then each product is made at that scale, in full if not
said otherwise. Records and drawings go to `figures/<scale>/`, or below `--out`. Where git cannot
say which commit the code is, `ASYNCPATCH_COMMIT` does.
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
os.environ.setdefault('MPLBACKEND', 'agg')

from asyncpatch.products import Product


def code_of(page):
    "The code cells of a notebook, without lines for Jupyter alone."
    for cell in json.loads(page.read_text(encoding='utf-8'))['cells']:
        lines = cell['source'] if cell['cell_type'] == 'code' else []
        code = ''.join(line for line in lines if not line.lstrip().startswith(('%', '!')))
        if code.strip() and 'nbdev_export(' not in code:
            yield code


def products_of(page, names):
    "Run a page until it has defined the products; all of them, by name."
    made, ours = {}, {'__name__': '__page__'}
    make, Product.make = Product.make, lambda self, *_, **__: self.shipped('digits')
    folder = os.getcwd()
    try:
        os.chdir(page.parent)
        for code in code_of(page):
            try:
                exec(compile(code, page.name, 'exec'), ours)
            except Exception:  # a cell that shows what is not here
                print(f'{page.stem}: a cell was left out: {traceback.format_exc(limit=0).strip()}')
            made |= {one.name: one for one in ours.values() if isinstance(one, Product)}
            if set(names) <= set(made):
                return made
    finally:
        Product.make = make
        os.chdir(folder)
    missing = ', '.join(sorted(set(names) - set(made)))
    raise SystemExit(f'{page} defines no product {missing}; it defines {", ".join(made)}')


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('page', type=Path)
    parser.add_argument('scale')
    parser.add_argument('names', nargs='+')
    parser.add_argument('--part', choices=('quick', 'full'), default='full')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args(argv)
    if args.out:
        os.environ['ASYNCPATCH_OUT'] = str(args.out.resolve())
    os.environ |= dict(ASYNCPATCH_SCALE=args.scale, ASYNCPATCH_PART=args.part)
    made, failed = products_of(args.page.resolve(), args.names), []
    for name in args.names:
        try:
            record = made[name].make(args.scale, args.part)
            print(f'{name} at {args.scale}: {record.seconds} s', flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    return 'failed: ' + ', '.join(failed) if failed else 0


if __name__ == '__main__':
    sys.exit(main())
