"""The book as data: its table of contents, its labels with their numbers, and what is wrong with
them.

Everything is read from the stored notebooks and `_quarto.yml`; nothing is executed.
"""

import ast
import json
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from urllib.parse import unquote

import yaml

KINDS = {'eq': 'Eq.', 'fig': 'Figure', 'tbl': 'Table', 'sec': 'Section'}
LABEL = re.compile(r'\{#((?:eq|fig|tbl|sec)-[\w-]+)[^}\n]*\}')
REFERENCE = re.compile(r'(?<![\w`@/])\[?@((?:eq|fig|tbl|sec)-[\w-]*\w)(?:(?<=\w)\])?')
LINK = re.compile(
    r'(?<=\]\()(?!https?:|mailto:|data:|attachment:|#)([^()\s]+)(?=(?:\s+"[^"\n]*")?\))|'
    r'(?<=\bsrc=")(?!https?:|data:)([^"]+)(?=")'
)
CODE = re.compile(
    r'^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$|'
    r'(?P<tick>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=tick)(?!`)',
    re.M | re.S,
)
OPTION = re.compile(r'^#\|[ \t]*([\w-]+)(?::[ \t]*|[ \t]+|$)(.*)$', re.M)


class BookError(Exception):
    "Something in the notebooks that a reader would stumble over; the message says what and where."


@dataclass(frozen=True)
class Label:
    "A place that can be referred to, and how a reference to it reads."

    name: str
    page: 'Page'
    text: str
    number: str


@dataclass(eq=False)
class Page:
    "One notebook of the book."

    path: PurePosixPath  # below nbs/
    source: Path  # the file that is shown: the stored notebook, or the reader's own run of it
    title: str = ''
    subtitle: str = ''
    module: str = ''
    chapter: str | None = None  # '1' of 01_joint, '011' of 011_lowrank
    cells: list = field(default_factory=list)
    executed: bool = False

    @property
    def url(self):
        return page_url(self.path)

    @property
    def docname(self):
        return self.url.removesuffix('.html')


@dataclass(eq=False)
class Part:
    "A named run of pages in the sidebar; the front matter has no name."

    title: str
    pages: list


def page_url(path):
    "nbdev's own address of the page of a notebook: lower case, the number in front is dropped."
    path = PurePosixPath(path)
    return (
        path.with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', path.name.lower()))
        .with_suffix('.html')
        .as_posix()
    )


def path_of(entry):
    "The path that an entry of the sidebar names."
    return entry.get('href', '') if isinstance(entry, dict) else entry


def text_of(cell):
    "The source of a cell as one string, however it is stored."
    return cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])


def options(source):
    "The `#|` lines of a cell: `{'label': 'fig-x', 'export': ''}`."
    return {key: value.strip().strip('"') for key, value in OPTION.findall(source)}


def is_hidden(cell):
    "Cells that never reach a page."
    seen = options(text_of(cell)) if cell['cell_type'] == 'code' else {}
    return bool({'hide', 'default_exp', 'exporti'} & seen.keys()) or seen.get('include') == 'false'


def outside_code(text, change):
    """Apply `change` to the prose of a Markdown text; fenced blocks and `code` come back as they
    were."""
    kept = []

    def put_away(match):
        kept.append(match[0])
        return f'\0{len(kept) - 1}\0'

    return re.sub('\0(\\d+)\0', lambda m: kept[int(m[1])], change(CODE.sub(put_away, text)))


def prose_of(cell):
    """What a page says in words: Markdown, captions and the docstrings of exported code; code spans
    are left out."""
    source = text_of(cell)
    if cell['cell_type'] == 'markdown':
        return CODE.sub(' ', source)
    seen = options(source)
    docs = source if {'export', 'exports'} & seen.keys() else ''
    return '\n'.join([seen.get('fig-cap', ''), seen.get('tbl-cap', ''), docs])


def api_names(cell):
    "Public functions and classes that a cell exports."
    source = text_of(cell)
    if cell['cell_type'] != 'code' or not {'export', 'exports'} & options(source).keys():
        return []
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.name.startswith('_')
    ]


def chapter_of(digits):
    "A chapter's number: 01_joint is 1; 011_lowrank stays 011, since 11 is another page."
    return digits if len(digits) > 2 else str(int(digits))


def read_page(path, source, executed=False):
    "A notebook with its title, one-line subtitle and module."
    page = Page(PurePosixPath(path), Path(source), executed=executed)
    page.cells = json.loads(page.source.read_text(encoding='utf-8'))['cells']
    for cell in page.cells:
        text = text_of(cell)
        if (
            not page.title
            and cell['cell_type'] == 'markdown'
            and (title := re.search(r'^# +(.+?)\s*$', text, re.M))
        ):
            page.title = title[1]
            if subtitle := re.search(r'^> +(.+?)\s*$', text, re.M):
                page.subtitle = subtitle[1]
        elif not page.title and cell['cell_type'] == 'raw' and text.strip().startswith('---'):
            front = yaml.safe_load(text.strip().strip('-')) or {}
            page.title, page.subtitle = front.get('title', ''), front.get('description', '')
        if cell['cell_type'] == 'code' and (module := options(text).get('default_exp')):
            page.module = f'asyncpatch.{module}'
    if not page.title:
        raise BookError(f'nbs/{path}: no title; the first cell says `# Title` and `> one line`')
    if number := re.match(r'(\d+)', page.path.name):
        page.chapter = chapter_of(number[1])
    return page


class Book:
    "All pages in reading order, with their labels; `problems` lists what is wrong."

    def __init__(self, root, executed=None):
        self.root, self.nbs = Path(root), Path(root) / 'nbs'
        self.executed = Path(executed) if executed else None
        self.warnings, self.problems = [], []
        self.contents = yaml.safe_load((self.root / '_quarto.yml').read_text(encoding='utf-8'))[
            'website'
        ]['sidebar']['contents']
        self.named = [path for _, entries in self._grouped() for path in map(path_of, entries)]
        self.problems += [
            f'_quarto.yml names {path} twice'
            for path in sorted(set(self.named))
            if self.named.count(path) > 1
        ]
        self.parts = [part for part in map(self._part, self._grouped()) if part.pages]
        self.pages = [page for part in self.parts for page in part.pages]
        self.by_url = {page.url: page for page in self.pages}
        self.problems += [
            f'nbs/{page.path} and nbs/{self.by_url[page.url].path} have the same address, '
            f'{page.url}'
            for page in self.pages
            if self.by_url[page.url].path != page.path
        ]
        self.api = {
            page.url: {
                name for cell in page.cells if not is_hidden(cell) for name in api_names(cell)
            }
            for page in self.pages
        }
        self.labels = {}
        for page in self.pages:
            self._number(page)
        for page in self.pages:
            self._check(page)

    def _grouped(self):
        "Sidebar entries as (title, [paths]); entries outside a section form a part without a name."
        for entry in self.contents:
            if isinstance(entry, dict) and 'section' in entry:
                yield entry['section'], entry.get('contents') or []
            else:
                yield '', [entry]

    def _part(self, grouped):
        title, entries = grouped
        return Part(title, [page for path in map(path_of, entries) if (page := self._read(path))])

    def _read(self, path):
        """The reader's own run of a notebook where there is one, else the stored one, else a
        warning."""
        for folder in (self.executed, self.nbs):
            if folder and (folder / path).is_file() and path.endswith('.ipynb'):
                return read_page(path, folder / path, folder is not self.nbs)
        self.warnings.append(f'_quarto.yml names {path}, which does not exist yet: left out')

    def _number(self, page):
        "Number equations, figures and tables of a page: 13.4 is the fourth of chapter 13."
        counts = dict.fromkeys(KINDS, 0)
        for cell in page.cells:
            if is_hidden(cell):
                continue
            source = text_of(cell)
            names = (
                [
                    (m[1], source[: m.start()])
                    for m in LABEL.finditer(CODE.sub(lambda m: ' ' * len(m[0]), source))
                ]
                if cell['cell_type'] == 'markdown'
                else []
            )
            if cell['cell_type'] == 'code' and (name := options(source).get('label')):
                names.append((name, ''))
                if not {'fig-cap', 'tbl-cap'} & options(source).keys():
                    self.problems.append(f'nbs/{page.path}: {name} has no caption')
                if not cell['outputs']:
                    self.warnings.append(
                        f'nbs/{page.path}: {name} was stored without its output; run the notebook'
                    )
            for name, before in names:
                self._add_label(page, name, before, counts)

    def _add_label(self, page, name, before, counts):
        kind = name.partition('-')[0]
        if kind not in KINDS:
            return self.problems.append(
                f'nbs/{page.path}: label {name} begins with none of {", ".join(KINDS)}'
            )
        if name in self.labels:
            return self.problems.append(
                f'label {name} is given twice: in nbs/{self.labels[name].page.path} and in '
                f'nbs/{page.path}'
            )
        counts[kind] += 1
        number = f'{page.chapter}.{counts[kind]}' if page.chapter is not None else str(counts[kind])
        heading = before.rpartition('\n')[2].lstrip('# ').strip()
        self.labels[name] = Label(
            name, page, heading if kind == 'sec' else f'{KINDS[kind]} {number}', number
        )

    def _check(self, page):
        "References that lead nowhere, files that are not there, prose that nbdev would drop."
        first = next(cell for cell in page.cells if cell['cell_type'] == 'markdown')
        if re.search(r'^# ', text_of(first), re.M):
            lines = [line for line in text_of(first).splitlines() if line.strip()]
            rest = [line for line in lines if not re.match(r'# |> |- \S+:', line)] + [
                line for line in lines if line.startswith('> ')
            ][1:]
            if rest:
                self.problems.append(
                    f'nbs/{page.path}: prose in the title cell is lost, give it a cell of its '
                    f'own: {rest[0][:50]!r}'
                )
        for cell in page.cells:
            if is_hidden(cell):
                continue
            for name in REFERENCE.findall(prose_of(cell)):
                if name not in self.labels:
                    self.problems.append(f'nbs/{page.path}: @{name} refers to no label of the book')
            if cell['cell_type'] == 'markdown':
                for target in (a or b for a, b in LINK.findall(CODE.sub(' ', text_of(cell)))):
                    self._check_link(page, target)

    def _check_link(self, page, target):
        path = self.repository_path(page, target)
        if (self.root / path).exists():
            return
        where = f'nbs/{page.path}: link to {target}, which'
        if path.removeprefix('nbs/') in self.named:
            self.warnings.append(f'{where} does not exist yet')
        elif path.endswith('.ipynb'):
            self.warnings.append(f'{where} neither exists nor is named in _quarto.yml')
        else:
            self.problems.append(f'{where} does not exist')

    def repository_path(self, page, target):
        "A link of a page as a path from the root of the repository."
        return normpath(
            (PurePosixPath('nbs') / page.path.parent / unquote(target.partition('#')[0])).as_posix()
        )

    def page_at(self, repository_path):
        "The page made from a notebook, or None."
        return (
            self.by_url.get(page_url(repository_path.removeprefix('nbs/')))
            if repository_path.startswith('nbs/') and repository_path.endswith('.ipynb')
            else None
        )

    def reference(self, name, page):
        "A link to a label, seen from `page`."
        if name not in self.labels:
            raise BookError(f'nbs/{page.path}: @{name} refers to no label of the book')
        label = self.labels[name]
        address = '' if label.page is page else relative(label.page.url, page)
        return f'<a class="crossref" href="{address}#{name}">{escape(label.text)}</a>'


def relative(url, page):
    "An address of the site as seen from a page."
    return relpath(url, PurePosixPath(page.url).parent.as_posix())
