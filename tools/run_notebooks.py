"""Run notebooks in place and keep their outputs; cells that nbdev's test flags skip keep the
outputs they had.

    python tools/run_notebooks.py [NOTEBOOK ...]   all of them without arguments
    python tools/run_notebooks.py --shipped [...]  result pages: the records that ship are shown

With `--shipped` nothing is computed that a record holds: `Product.make()` hands out the full record
that ships, at the scale of digits and those that belong to it, and the page is drawn from it.
"""

import base64
import os
import re
import sys
from pathlib import Path

from execnb.nbio import write_nb
from execnb.shell import CaptureShell
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import NBProcessor

from asyncpatch.records import with_palette


def is_skipped(cell, flags):
    "Prose, the export cell at the end, and cells flagged `eval: false`, `slow`, `gpu` or `notest`."
    if cell.cell_type != 'code' or 'nbdev_export(' in cell.source:
        return True
    directives = getattr(cell, 'directives_', {}) or {}
    return directives.get('eval:', [''])[0].lower() == 'false' or bool(flags & directives.keys())


def lighter(png):
    "A picture of an output, in base64, with a palette where that is smaller."
    return base64.b64encode(with_palette(base64.b64decode(png))).decode()


SHIPPED = """
from asyncpatch.products import Product as _Product
from asyncpatch.records import current_scale as _current_scale


_make = _Product.make


def _shipped(self, scale=None, part=None, **resources):
    if part == 'quick':  # asked for by name: computed, as always
        return _make(self, scale, part, **resources)
    return self.shipped(scale or _current_scale())


_Product.make = _shipped
"""


def run(path, flags, shipped=False):
    "Execute one notebook from its own folder, stop at the first error, store what it printed."
    os.environ['IN_TEST'] = '1'
    if shipped:
        os.environ.update(ASYNCPATCH_SCALE='digits', ASYNCPATCH_PART='full')
    nb = NBProcessor(path, rm_directives=False, process=True).nb
    for cell in nb.cells:
        if cell.cell_type == 'code' and not is_skipped(cell, flags):
            cell['outputs'] = []  # a cell that falls silent keeps nothing
    shell, here = CaptureShell(path), os.getcwd()
    shell.run_cell('%matplotlib inline')
    if shipped:
        shell.run_cell(SHIPPED)
    os.chdir(path.parent)
    try:
        shell.run_all(nb, exc_stop=True, preproc=lambda cell: is_skipped(cell, flags))
    finally:
        os.chdir(here)
    for cell in nb.cells:
        for output in cell.get('outputs', []):
            if 'image/png' in (data := output.get('data', {})):
                data['image/png'] = lighter(''.join(data['image/png']))
        if re.search(r'^#\| ?output: false', cell.source, re.M):
            cell['outputs'] = [
                o for o in cell.get('outputs', []) if o.get('name') != 'stderr'
            ]  # progress bars
    write_nb(nb, path)
    nbdev_clean(path)


if __name__ == '__main__':
    config = get_config()
    sys.path.insert(0, str(config.config_path))
    flags = set(config.tst_flags.split()) - set(os.environ.get('RUN_FLAGS', '').split())
    shipped = '--shipped' in sys.argv
    names = [name for name in sys.argv[1:] if name != '--shipped']
    every = sorted(p.resolve() for p in nbglob(as_path=True))
    for path in [Path(name).resolve() for name in names] or every:
        print(path.relative_to(config.config_path), flush=True)
        run(path, flags, shipped)
