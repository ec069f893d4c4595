"""Render the notebooks to a site in `_docs/`, in the order of `_quarto.yml`.

    python tools/build_docs.py [--executed DIR] [--route sphinx|quarto]

nbdev processes the notebooks (it runs imports and exported cells, nothing else); Quarto renders
them where it is installed, else (or where it fails) Sphinx. Notebooks under DIR, at the same
relative paths as under nbs/, take the place of the stored ones. The site is built in `_site/` and
moved into place when it is whole and all its links lead somewhere, so an interrupted or failed
build leaves the former site as it was."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from importlib.util import find_spec
from pathlib import Path
from posixpath import relpath

import yaml
from docs.address import real_address, settings_of, with_badges
from docs.art import picture
from docs.book import LINK, REFERENCE, Book, BookError, outside_code, relative, text_of
from docs.check import check_site
from docs.myst import Translator, later_as_words, link, markdown, objects_of
from docs.process import process_notebooks, read_notebook

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ASSETS = HERE / 'docs'
MATHJAX_CDN = 'https://cdn.jsdelivr.net/npm/mathjax@3.2.2/es5/tex-chtml-full.js'
MATHJAX_PARTS = ('tex-chtml-full.js', 'output/chtml/fonts')


# -- the playground --------------------------------------------------------------------------------

PLAYGROUND = re.compile('<div class="asyncpatch-playground">.*?</div>', re.DOTALL)


def write_playground(folder):
    "The playground's script and the weights that ship, made from the package and never kept."
    from asyncpatch import playground

    folder.mkdir(parents=True, exist_ok=True)
    beside = [m.name for m in playground.PLAY_MODELS if not m.inline]
    scripts = {
        'playground-data.js': playground.data_script(),
        'playground.js': playground.play_script(),
        **{playground.script_name(name): playground.file_script(name) for name in beside},
    }
    for name, content in scripts.items():
        (folder / name).write_text(content, encoding='utf-8')


def with_playground(text, page):
    "A text with the scripts of the playground behind its place, where it has one."
    up = '../' * page.url.count('/') or './'
    names = ('playground-data.js', 'playground.js')
    tags = ''.join(f'<script src="{up}_static/{name}"></script>' for name in names)
    return PLAYGROUND.sub(lambda place: place[0] + tags, text)


# -- Sphinx ----------------------------------------------------------------------------------------


def find_mathjax():
    """A folder with MathJax 3 (`es5`): named by MATHJAX, of npm, or of the package
    sphinx-mathjax-offline; None if there is none."""
    package = find_spec('sphinx-mathjax-offline')
    named = os.environ.get('MATHJAX')
    places = [
        named and Path(named),
        ROOT / 'node_modules/mathjax/es5',
        package and package.origin and Path(package.origin).parent / 'static/mathjax',
    ]
    for place in places:
        if place and (place / MATHJAX_PARTS[0]).is_file():
            return place
    if named:
        raise BookError(f'MATHJAX={named} holds no {MATHJAX_PARTS[0]}')


def heading_of(page):
    "Title with the number of the chapter, subtitle, and where the page comes from."
    number = '' if page.chapter is None else f'[{page.chapter}]{{.chapter}} '
    lines = [f'# {number}{page.title}']
    if page.url == 'index.html':
        lines.append(
            '<img class="banner" alt="One image in patches, each at its own time between clean '
            'and noise" src="_static/banner.svg">'
        )
    if page.subtitle:
        lines.append(f'{{.subtitle}}\n{page.subtitle}')
    module = f'<code>{page.module}</code> · ' if page.module else ''
    if page.chapter is not None:
        anchor = f' id="module-{page.module}"' if page.module else ''
        lines.append(f'<p class="origin"{anchor}>{module}<code>nbs/{page.path}</code></p>')
    if page.executed:
        lines.append(
            ':::{admonition} Computed on this machine\n:class: tip computed\nThe outputs on this '
            'page come from your own run of the notebook, not from the one that ships.\n:::'
        )
    return '\n\n'.join(lines)


def inline(text):
    "Words of a title or subtitle as HTML, with their mathematics and code."
    text = escape(text, quote=False)
    text = re.sub(r'`([^`]+)`', r'<code>\1</code>', text)
    return re.sub(
        r'\$([^$]+)\$', r'<span class="math notranslate nohighlight">\\(\1\\)</span>', text
    )


def cards(part, page):
    "The pages of a part as cards, seen from `page`."
    items = [
        f'<a class="card-link" href="{relative(p.url, page)}"><span '
        f'class="card-number">{"" if p.chapter is None else p.chapter}</span>'
        f'<span class="card-name">{inline(p.title)}</span><span '
        f'class="card-words">{inline(p.subtitle)}</span></a>'
        for p in part.pages
    ]
    return '<div class="book-cards">' + ''.join(items) + '</div>'


def contents(book, home):
    """Below the landing page: the parts of the book, as cards for the reader and as tables of
    contents for Sphinx."""
    blocks = []
    for part in book.parts:
        pages = [page for page in part.pages if page is not home]
        if not pages:
            continue
        entries = '\n'.join(f'/{page.docname}' for page in pages)
        if part.title:
            blocks.append(f'## {part.title}\n\n{cards(part, home)}')
        blocks.append(
            '```{toctree}\n:hidden:\n'
            + (f':caption: "{part.title}"\n' if part.title else '')
            + f'\n{entries}\n```'
        )
    return '\n\n'.join(blocks)


def write_sphinx_source(book, processed, source, base):
    """Translated notebooks and what they show, as Sphinx wants them; returns the inventory's
    entries."""
    files, objects = set(), []
    for page in book.pages:
        notebook = read_notebook(processed, page)
        translator = Translator(page, book, base)
        cells = [markdown(heading_of(page)), *translator.cells(notebook['cells'])]
        if page.url == 'index.html':
            cells.append(markdown(contents(book, page)))
        for cell in cells:
            if cell['cell_type'] == 'markdown':
                text = with_badges(text_of(cell), f'nbs/{page.path}', *settings_of(ROOT))
                cell['source'] = with_playground(text, page)
        notebook['cells'] = [dict(cell, id=f'c{n}') for n, cell in enumerate(cells)]
        target = source / f'{page.docname}.ipynb'
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(notebook), encoding='utf-8')
        files |= translator.files
        objects += objects_of(page, translator.entries)
    for name in files:
        for place in (source / 'book', source / '_static/book'):
            copy(ROOT / name, place / name)
    return objects + at_the_root(objects)


def at_the_root(objects):
    "What may be called without its module, `asyncpatch.load`, leads to its entry too."
    import asyncpatch

    homes = {f'asyncpatch.{home}.{name}': name for name, home in asyncpatch._HOMES.items()}
    return [(f'asyncpatch.{homes[name]}', *rest) for name, *rest in objects if name in homes]


def copy(source, target):
    "A file or a folder, with the folders above it."
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def write_sphinx_settings(config, source, objects):
    "Configuration, style and MathJax beside the pages."
    mathjax = find_mathjax()
    for part in MATHJAX_PARTS if mathjax else ():
        copy(mathjax / part, source / '_static/mathjax' / part)
    for name in ('custom.css', 'fit.js', 'logo.svg', 'favicon.svg'):
        copy(ASSETS / name, source / '_static' / name)
    (source / '_static/banner.svg').write_text(picture(), encoding='utf-8')
    write_playground(source / '_static')
    copy(ASSETS / 'conf.py', source / 'conf.py')
    settings = {
        'title': config.title,
        'author': config.author,
        'copyright': config.copyright,
        'macros': {},
        'mathjax': f'mathjax/{MATHJAX_PARTS[0]}' if mathjax else MATHJAX_CDN,
        'repository': real_address(config.git_url),
        'version': config.version,
        'objects': objects,
    }
    (source / 'settings.json').write_text(json.dumps(settings), encoding='utf-8')
    return mathjax


def render_with_sphinx(book, processed, work, config, base):
    "The site, made by Sphinx; returns its folder."
    source, site = work / 'source', work / 'html'
    source.mkdir()
    objects = write_sphinx_source(book, processed, source, base)
    mathjax = write_sphinx_settings(config, source, objects)
    if not mathjax:
        print(
            'Equations are set by MathJax from its CDN: the site needs a network to show them '
            '(pip install sphinx-mathjax-offline avoids it)'
        )
    run(
        [
            sys.executable,
            '-m',
            'sphinx',
            '-W',
            '--keep-going',
            '-q',
            '-j',
            'auto',
            '-b',
            'html',
            '-d',
            work / 'doctrees',
            source,
            site,
        ],
        work,
    )
    (site / '.buildinfo').unlink(missing_ok=True)
    shutil.rmtree(site / '_sources', ignore_errors=True)
    return site


# -- Quarto ----------------------------------------------------------------------------------------


def quarto_text(text, page, book, base, files):
    """References to other pages, which a Quarto website does not resolve, and links to this site's
    own pages."""

    def refer(match):
        label = book.labels.get(match[1])
        if label is None or label.page is page:
            return match[0]
        kind, _, number = label.text.rpartition(' ')
        words = (
            label.text if label.name.startswith('sec-') else f'{kind} {number.rpartition(".")[2]}'
        )
        return (
            f'{words} of '
            f'[{label.page.title}]({relpath(str(label.page.path), str(page.path.parent))}#'
            f'{label.name})'
        )

    def local(match):
        target = match[1] or match[2]
        if book.page_at(book.repository_path(page, target)):
            return target
        new = link(target, page, book, files)
        return relpath(new.lstrip('/'), str(page.path.parent)) if new.startswith('/book/') else new

    text = outside_code(
        text, lambda prose: LINK.sub(local, REFERENCE.sub(refer, later_as_words(prose, page, book)))
    )
    return text.replace(f']({base}', '](' + ('../' * (len(page.path.parts) - 1) or './'))


def write_quarto_source(book, source, base):
    "Edit the processed notebooks in `source`, and cut the table of contents down to what exists."
    files = set()
    for page in book.pages:
        notebook = read_notebook(source, page)
        for cell in notebook['cells']:
            if cell['cell_type'] == 'markdown':
                text = quarto_text(text_of(cell), page, book, base, files)
                text = with_badges(text, f'nbs/{page.path}', *settings_of(ROOT))
                cell['source'] = with_playground(text, page)
            for output in cell.get('outputs', []):
                data = output.get('data', {})
                if 'text/markdown' in data:
                    data['text/markdown'] = quarto_text(
                        ''.join(data['text/markdown']), page, book, base, files
                    )
        (source / page.path).write_text(json.dumps(notebook), encoding='utf-8')
    for name in files:
        copy(ROOT / name, source / 'book' / name)
    settings = yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))
    entry = lambda part: (
        {'section': part.title, 'contents': [str(p.path) for p in part.pages]}
        if part.title
        else str(part.pages[0].path)
    )
    settings['website']['sidebar']['contents'] = [entry(part) for part in book.parts]
    write_playground(source / '_static')
    settings['project'].setdefault('resources', ['_static'])
    settings['website'].setdefault('favicon', 'favicon.svg')
    settings['format']['html'].setdefault('css', 'custom.css')
    (source / '_quarto.yml').write_text(
        yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding='utf-8'
    )
    for name in ('custom.css', 'favicon.svg'):
        copy(ASSETS / name, source / name)


def render_with_quarto(book, processed, work, config, base):
    "The site, made by Quarto as `nbdev_docs` does it; returns its folder."
    from nbdev.quarto import refresh_quarto_yml

    source = work / 'quarto'
    copy(processed, source)
    write_quarto_source(book, source, base)
    refresh_quarto_yml()
    copy(ROOT / 'nbs/nbdev.yml', source / 'nbdev.yml')
    run(['quarto', 'render', '--no-cache'], source)
    return source / config.doc_path.name


# -- the build -------------------------------------------------------------------------------------


def run(command, folder):
    "A command, quiet when it succeeds."
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise BookError(
            f'{done.stdout.strip()}\n{Path(str(command[0])).name} '
            f'{" ".join(map(str, command[1:3]))} failed'
        )


def put_in_place(site, target, work):
    "Swap the new site for the former one: two renames on one file system."
    if target.exists():
        target.rename(work / 'former')
    site.rename(target)


ROUTES = {'quarto': render_with_quarto, 'sphinx': render_with_sphinx}


def render(book, work, config, routes):
    "The first route that gives a whole site."
    base = f'{config.doc_host}{config.doc_baseurl.rstrip("/")}/'
    for route in routes:
        print(f'Rendering with {route.capitalize()}', flush=True)
        try:
            site = ROUTES[route](book, work / 'notebooks', work, config, base)
            if problems := check_site(site):
                raise BookError('\n'.join(problems))
            return site
        except BookError as error:
            if route == routes[-1]:
                raise
            print(f'{error}\nwarning: {route.capitalize()} gave no whole site')


def read_book(executed):
    "The book, with its warnings printed; its problems are an error."
    book = Book(ROOT, executed)
    for line in dict.fromkeys(book.warnings):
        print(f'warning: {line}')
    if 'index.html' not in book.by_url:
        book.problems.append('_quarto.yml names no nbs/index.ipynb, the landing page')
    if book.problems:
        raise BookError('\n'.join(dict.fromkeys(book.problems)))
    replaced = [str(page.path) for page in book.pages if page.executed]
    if replaced:
        print(f'Showing your own run of {", ".join(replaced)}')
    return book


def build(executed=None, route=None):
    "Build the site; returns the path of its first page."
    from nbdev.config import get_config

    config = get_config(path=ROOT)
    book = read_book(executed)
    (ROOT / '_site').mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / '_site') as folder:
        work = Path(folder)
        print(f'Processing {len(book.pages)} notebooks', flush=True)
        process_notebooks(book, work / 'notebooks')
        site = render(
            book,
            work,
            config,
            [route] if route else ['quarto', 'sphinx'] if shutil.which('quarto') else ['sphinx'],
        )
        put_in_place(site, config.doc_path, work)
    return config.doc_path / 'index.html'


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--executed',
        type=Path,
        metavar='DIR',
        help='notebooks found here are shown in place of the stored ones',
    )
    parser.add_argument(
        '--route',
        choices=('sphinx', 'quarto'),
        help='default: Quarto where it is installed, else Sphinx',
    )
    arguments = parser.parse_args()
    os.chdir(ROOT)
    try:
        first = build(arguments.executed and arguments.executed.absolute(), arguments.route)
    except BookError as error:
        sys.exit(f'{error}\nThe site was not built; _docs/ is as it was.')
    except KeyboardInterrupt:
        sys.exit('\nInterrupted; _docs/ is as it was.')
    print(f'Open {first.as_uri()}')


if __name__ == '__main__':
    main()
