"""README.md from nbs/index.ipynb, so that the two never tell different stories.

python tools/build_readme.py [--check]   --check only fails where README.md is out of date"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from docs.address import settings_of, whole_addresses, with_badges, with_install
from docs.book import LINK, REFERENCE, Book, BookError, is_hidden, options, outside_code
from docs.myst import EQUATION, FENCE, numbered, title_of
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NOTE = '<!-- Made from nbs/index.ipynb by `make readme`: edit it there. -->'
STORY = 'nbs/story.ipynb'
LEFT_OUT = '<!-- left out of README -->'
LABELLED = re.compile(r'[ \t]*\{#(?P<name>(?:fig|tbl|sec)-[\w-]+)[^}\n]*\}')


def quotes(text):
    "Callouts as quotations with a bold title: the one form that every reader of Markdown shows."
    lines, done, depth = text.split('\n'), [], 0
    while lines:
        line = lines.pop(0)
        fence = FENCE.match(line)
        if fence and fence['attributes'] is not None:
            depth += 1
            if kind := re.search(r'\.callout-(\w+)', fence['attributes']):
                done += [f'> **{title_of(kind[1], fence["attributes"], lines)}**', '>']
        elif fence and depth:
            depth -= 1
        else:
            done.append(f'> {line}'.rstrip() if depth else line)
    return '\n'.join(done)


def refer(name, page, book):
    "A reference as words, with a link where the place is on another page."
    if name not in book.labels:
        raise BookError(f'nbs/{page.path}: @{name} refers to no label of the book')
    label = book.labels[name]
    return label.text if label.page is page else f'[{label.text}](nbs/{label.page.path})'


def to_readme(text, page, book):
    """One Markdown text of the index in words that GitHub shows: paths from the root, numbers
    written out."""

    def local(match):
        target = match[1] or match[2]
        anchor = target.partition('#')[2]
        return book.repository_path(page, target) + (f'#{anchor}' if anchor else '')

    def tagged(match):
        tex = match['tex'].rstrip()
        return f'{match["before"]}$${tex} \\tag{{{book.labels[match["name"]].number}}}{match["tex"][len(tex) :]}$$'

    def prose(part):
        part = EQUATION.sub(tagged, LINK.sub(local, part))
        part = re.sub(
            r'^!\[(.*)\]\((\S+)\)\{#(fig-[\w-]+)[^}]*\}',
            lambda m: f'![{m[1]}]({m[2]})\n\n{numbered(m[1], m[3], book)}',
            part,
            flags=re.M,
        )
        part = re.sub(
            r'^: (.*?)\s*\{#(tbl-[\w-]+)[^}]*\}',
            lambda m: numbered(m[1], m[2], book),
            part,
            flags=re.M,
        )
        part = quotes(LABELLED.sub('', part))
        return REFERENCE.sub(lambda m: refer(m[1], page, book), part)

    return outside_code(text, prose)


def shown(cell, page, book):
    "A cell as README shows it, or None."
    if cell.cell_type == 'raw' or is_hidden(cell):
        return None
    if cell.cell_type == 'markdown':
        return nbformat.v4.new_markdown_cell(to_readme(cell.source, page, book))
    seen = options(cell.source)
    if 'export' in seen:
        return None
    source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
    for output in cell.outputs:
        data = output.get('data', {})
        if any(kind.startswith('image/') for kind in data) or 'base64,' in data.get(
            'text/html', ''
        ):
            raise BookError(
                'nbs/index.ipynb: a cell shows an image; README.md holds none, so refer to a '
                'file under figures/ instead'
            )
        if 'text/markdown' in data:
            data['text/markdown'] = to_readme(data['text/markdown'], page, book)
    return nbformat.v4.new_code_cell(
        source,
        outputs=cell.outputs,
        metadata={'transient': {'remove_source': seen.get('echo') == 'false'}},
    )


def left_in(cells):
    "Cells without the sections that say they are left out, up to the next of their level."
    kept, out = [], False
    for cell in cells:
        heading = cell.cell_type == 'markdown' and cell.source.startswith('## ')
        out = LEFT_OUT in cell.source if heading else out
        if cell.cell_type == 'markdown' and out and '\n## ' in cell.source:
            raise BookError('nbs/index.ipynb: a section that is left out must end with its cell')
        kept += [] if out else [cell]
    return kept


def slug(heading):
    "The anchor of a heading."
    return re.sub(r'[^\w-]+', '-', heading.strip().lower()).strip('-')


def whole_links(text):
    "Links to sections that were left out lead to the notebook."
    here = {slug(heading) for heading in re.findall(r'^#+ (.+)$', text, re.M)}
    lead = lambda m: m[0] if m[1] in here else '](nbs/index.ipynb)'
    return re.sub(r'\]\(#([\w-]+)\)', lead, text)


def readme(root=ROOT):
    "The text of README.md."
    book = Book(root)
    page = book.by_url.get('index.html')
    if page is None:
        raise BookError('_quarto.yml names no nbs/index.ipynb')
    notebook = nbformat.read(page.source, as_version=4)
    notebook.metadata['language_info'] = {'name': 'python'}
    notebook.cells = list(filter(None, (shown(c, page, book) for c in left_in(notebook.cells))))
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    url, branch = settings_of(root)
    text = with_badges(text, 'nbs/index.ipynb', url, branch)
    text = whole_links(re.sub(r'[ \t]+$', '', text, flags=re.M))
    text = whole_addresses(text, url, branch)
    return f'{NOTE}\n\n' + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def problem(root=ROOT):
    "What is wrong with README.md, or nothing."
    path = Path(root) / 'README.md'
    if not path.is_file() or path.read_text(encoding='utf-8') != readme(root):
        return 'README.md: not what nbs/index.ipynb makes; run `make readme`'
    story = Path(root) / STORY
    if story.is_file() and story.read_text(encoding='utf-8') != installing(root):
        return f'{STORY}: installs from another address than git_url; run `make readme`'


def installing(root=ROOT):
    "The page that tells it all, as a file: its first code cell installs from `git_url`."
    text = (Path(root) / STORY).read_text(encoding='utf-8')
    return with_install(text, settings_of(root, placeholder=True)[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--check', action='store_true', help='fail where README.md is out of date, change nothing'
    )
    try:
        if parser.parse_args().check:
            sys.exit(problem())
        (ROOT / 'README.md').write_text(readme(), encoding='utf-8')
        (ROOT / STORY).write_text(installing(), encoding='utf-8')
    except BookError as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
