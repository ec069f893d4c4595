"""nbdev's part of the build: API entries, links from names in backticks, hidden cells left out.

It executes imports and exported cells, nothing else. (A module of its own, because the shell in
which nbdev runs a notebook takes the place of `__main__` in its process.)"""

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from docs.book import BookError


def process_notebook(source, target):
    "One notebook through nbdev's processors; returns what went wrong, or None."
    os.environ['IN_TEST'] = '1'
    os.environ.setdefault('MPLBACKEND', 'agg')
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import exec_nb

    try:
        exec_nb(source, target, FilterDefaults)
    except Exception as error:
        return f'{error}{f" {error.__cause__!r}" if error.__cause__ else ""}'


def process_notebooks(book, folder):
    "All pages of the book into `folder`, at their own relative paths."
    jobs = {}
    with ProcessPoolExecutor(
        min(os.cpu_count() or 1, 8), multiprocessing.get_context('spawn')
    ) as pool:
        for page in book.pages:
            target = folder / page.path
            target.parent.mkdir(parents=True, exist_ok=True)
            jobs[page] = pool.submit(process_notebook, page.source.absolute(), target)
        failed = [
            f'nbs/{page.path}: {error}' for page, job in jobs.items() if (error := job.result())
        ]
    if failed:
        raise BookError('\n'.join(failed))


def read_notebook(folder, page):
    "A processed notebook."
    return json.loads((folder / page.path).read_text(encoding='utf-8'))
