"""Quarto's Markdown, as nbdev's processed notebooks hold it, in MyST's words.

Equations, figures and tables keep the numbers of `Book`, so that a reference reads the same on
every page; references and links to the API are plain relative links, checked once the site is
built."""

import ast
import re
from html import escape
from io import StringIO
from tokenize import COMMENT, generate_tokens

from docs.book import CODE, LINK, REFERENCE, api_names, options, outside_code, relative, text_of

FENCE = re.compile(r'^(?P<indent>[ \t>]*):{3,}[ \t]*(?:\{(?P<attributes>[^}]*)\})?[ \t]*$')
DEEPEST = 8  # colons of the outermost fence beyond three; inner fences have fewer
EQUATION = re.compile(
    r'(?P<before>^[ \t>]*|[^\n]*?)\$\$(?P<tex>(?:(?!\$\$).)+)\$\$[ \t]*\{#(?P<name>eq-[\w-]+)\}',
    re.M | re.S,
)
IMAGE = re.compile(
    r'^!\[(?P<caption>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<path>[^()\s]+)\)'
    r'\{#(?P<name>fig-[\w-]+)(?P<rest>[^}\n]*)\}[ \t]*$',
    re.M,
)
TABLE = re.compile(
    r'(?P<rows>(?:^\|.*\|[ \t]*\n)+)\n?^:[ \t]+(?P<caption>.*?)'
    r'[ \t]*\{#(?P<name>tbl-[\w-]+)[^}\n]*\}[ \t]*$',
    re.M,
)
HEADING = re.compile(r'^(?P<heading>#+ .*?)[ \t]*\{#(?P<name>sec-[\w-]+)[^}\n]*\}[ \t]*$', re.M)
NOTEBOOK = re.compile(
    r'(?<!!)\[(?P<words>(?:[^\[\]]|\[[^\]]*\])*)\]'
    r'\((?P<target>(?!https?:)[^()\s]+\.ipynb(?:#[^()\s]*)?)\)'
)
TAGS = {
    ('echo', 'false'): 'remove-input',
    ('code-fold', 'true'): 'hide-input',
    ('output', 'false'): 'remove-output',
    ('include', 'false'): 'remove-cell',
}
PLAIN_IMAGES = ('image/png', 'image/jpeg', 'image/svg+xml', 'image/gif')


def equation(match, book):
    """A labelled equation with its number; one line of HTML, so that it may stand in a quotation or
    a list."""
    tex = ' '.join(
        re.sub(r'^[ \t]*>', '', line).strip() for line in match['tex'].splitlines()
    ).strip()
    before, name = match['before'], match['name']
    start, indent = ('', before) if not before.strip('> \t') else (f'{before}\n\n', '')
    div = (
        '<div class="math notranslate nohighlight equation" '
        f'id="{name}">\\[{escape(tex, quote=False)} \\tag{{{book.labels[name].number}}}\\]</div>'
    )
    return f'{start}{indent}{div}\n{indent.rstrip()}'  # the empty line ends the HTML


def numbered(caption, name, book):
    "A caption that begins with its number."
    return f'**{book.labels[name].text}.** {caption}' if name in book.labels else caption


def figure(match, book):
    "An image with a label becomes a numbered figure."
    width = re.search(r'width=["\']?([\w.%]+)', match['rest'])
    style = f':width: {width[1]}\n' if width else ''
    return (
        f':::{{figure}} {match["path"]}\n:name: '
        f'{match["name"]}\n{style}\n{numbered(match["caption"], match["name"], book)}\n:::'
    )


def table_caption(caption, name, book):
    "A numbered caption above a table, with an anchor where it has a label."
    anchor = f'<span class="anchor" id="{name}"></span>\n\n' if name else ''
    return f'{anchor}::: {{.table-caption}}\n{numbered(caption, name, book)}\n:::'


def table(match, book):
    "A pipe table with a labelled caption becomes a numbered table, caption first."
    return f'{table_caption(match["caption"], match["name"], book)}\n\n{match["rows"]}'


def title_of(kind, attributes, lines):
    """The title of a callout: the heading with which it begins (taken off `lines`), its attribute,
    or its kind."""
    while lines and not lines[0].strip('> \t'):
        lines.pop(0)
    if lines and (head := re.match(r'[ \t>]*#+ (.*)', lines[0])):
        lines.pop(0)
        return head[1]
    named = re.search(r'title=["\']([^"\']*)["\']', attributes)
    return named[1] if named else kind.capitalize()


def open_fence(attributes, lines, indent, depth):
    "The opening of a callout (with the heading below it as its title) or of any other div."
    colons = ':' * (3 + DEEPEST - depth)
    kind = re.search(r'\.callout-(\w+)', attributes)
    if not kind:
        classes = ' '.join(re.findall(r'\.([\w-]+)', attributes))
        return [f'{indent}{colons}{{container}} {classes}'.rstrip(), indent.rstrip()], [
            f'{indent}{colons}'
        ]
    title = title_of(kind[1], attributes, lines)
    if re.search(r'collapse=["\']?true', attributes):
        return [
            f'{indent}<details class="admonition {kind[1]}"><summary '
            f'class="admonition-title">{escape(title)}</summary>',
            indent.rstrip(),
        ], [indent.rstrip(), f'{indent}</details>']
    return [
        f'{indent}{colons}{{admonition}} {title}',
        f'{indent}:class: {kind[1]}',
        indent.rstrip(),
    ], [f'{indent}{colons}']


def fences(text):
    "Quarto's `:::` divs, nested or not, as MyST's directives."
    lines, done, closing = text.split('\n'), [], []
    while lines:
        line = lines.pop(0)
        match = FENCE.match(line)
        if match and match['attributes'] is not None:
            opened, closed = open_fence(match['attributes'], lines, match['indent'], len(closing))
            done += opened
            closing.append(closed)
        elif match and closing:
            done += closing.pop()
        else:
            done.append(line)
    return '\n'.join(done)


def api_link(match, page, book):
    "nbdev's link from a name in backticks, turned towards the entry in this very site."
    name, url, anchor = match[1], match[2], match[3].partition('.')[0]
    code = f'<code class="docutils literal notranslate">{escape(name)}</code>'
    known = {name.lower(): name for name in book.api.get(url, ())}
    if url not in book.by_url:
        return code
    address = '' if book.by_url[url] is page else relative(url, page)
    if anchor in known:
        address += f'#api-{known[anchor]}'
    return f'<a class="api" href="{address}">{code}</a>' if address else code


def link(target, page, book, files):
    """The address of a link: a page of the book, or a file of the repository that the site takes
    along."""
    path, _, anchor = target.partition('#')
    repository_path = book.repository_path(page, target)
    if linked := book.page_at(repository_path):
        source = relative(linked.url, page).removesuffix('.html') + '.ipynb'
        return f'{source}#{anchor}' if anchor else source
    if not (book.root / repository_path).is_file():
        return target
    files.add(repository_path)
    return f'/book/{repository_path}'


def later_as_words(text, page, book):
    "Links to notebooks that are not in the book (yet) lose their address."
    return NOTEBOOK.sub(
        lambda m: m[0] if book.page_at(book.repository_path(page, m['target'])) else m['words'],
        text,
    )


def to_myst(text, page, book, base='', files=None):
    """Translate one Markdown text of `page`; files that it shows are added to `files`, as paths
    from the repository root."""
    files = set() if files is None else files
    if base:
        text = re.sub(
            rf'\[`([^`]+)`\]\({re.escape(base)}([\w/]+\.html)#([\w.]+)\)',
            lambda m: api_link(m, page, book),
            text,
        )

    def prose(part):
        part = LINK.sub(local, later_as_words(part, page, book))
        part = EQUATION.sub(lambda m: equation(m, book), part)
        part = IMAGE.sub(lambda m: figure(m, book), part)
        part = TABLE.sub(lambda m: table(m, book), part)
        part = HEADING.sub(lambda m: f'({m["name"]})=\n{m["heading"]}', part)
        part = fences(part)
        return REFERENCE.sub(lambda m: book.reference(m[1], page), part)

    def local(match):
        if match[1]:
            return link(match[1], page, book, files)
        return re.sub(
            '^/book/', relative('_static/book/', page) + '/', link(match[2], page, book, files)
        )

    return outside_code(text, prose)


# -- API entries -----------------------------------------------------------------------------------


def short_type(annotation):
    "`torch.Tensor | None` without the modules in front."
    return re.sub(r'\b(?:\w+\.)+(?=\w)', '', annotation or '')


def parse_signature(code):
    """A signature with docments as (call without types, rows (name, type, default, meaning), result
    (type, meaning))."""
    code = code.strip()
    try:
        tree = ast.parse(code + '\n    ...').body[0]
    except SyntaxError as e:  # show_doc drops the bare star before keyword-only arguments
        lines = code.split('\n')
        code = '\n'.join([*lines[: e.lineno - 1], '    *,', *lines[e.lineno - 1 :]])
        tree = ast.parse(code + '\n    ...').body[0]
    comments = {
        token.start[0]: token.string.lstrip('# ')
        for token in generate_tokens(StringIO(code + '\n').readline)
        if token.type == COMMENT
    }
    text = lambda node: ast.get_source_segment(code, node) if node else ''
    a, rows = tree.args, []
    positional = a.posonlyargs + a.args
    defaults = [None] * (len(positional) - len(a.defaults)) + a.defaults
    for arg, default in [
        *zip(positional, defaults),
        (a.vararg, None),
        *zip(a.kwonlyargs, a.kw_defaults),
        (a.kwarg, None),
    ]:
        if arg is None:
            continue
        stars = '*' if arg is a.vararg else '**' if arg is a.kwarg else ''
        rows.append((arg.lineno, stars + arg.arg, short_type(text(arg.annotation)), text(default)))
    last = {
        line: name for line, name, *_ in rows
    }  # a comment belongs to the last argument of its line
    rows = [(*row, comments.get(line, '') if last[line] == row[0] else '') for line, *row in rows]
    result = (
        (short_type(text(tree.returns)), comments.get(len(code.splitlines()), ''))
        if tree.returns
        else ('', '')
    )
    for node in ast.walk(a):
        if isinstance(node, ast.arg):
            node.annotation = None
    return f'{tree.name}({ast.unparse(a)})', rows, result


def cell_text(text):
    "Text for a cell of a pipe table."
    return text.replace('|', r'\|')


def code_text(text):
    return f'`{cell_text(text)}`' if text else ''


def argument_table(rows, result):
    "The arguments, one row each, and what is returned; columns that would be empty are left out."
    lines = [
        (f'`{name}`', code_text(kind), code_text(default), cell_text(meaning))
        for name, kind, default, meaning in rows
    ]
    if any(result) and result != ('None', ''):
        lines.append(('*returns*', code_text(result[0]), '', cell_text(result[1])))
    kept = [n for n in range(4) if any(line[n] for line in lines)]
    if kept in ([], [0]):
        return ''
    table = [('argument', 'type', 'default', 'meaning'), ('---',) * 4, *lines]
    return '\n'.join(f'| {" | ".join(line[n] for n in kept)} |' for line in table)


def fields_of(source):
    """Classes that are declared by their fields, with a row for each: name, type, default, the
    comment of its line."""
    found = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        declared = [part for part in node.body if isinstance(part, ast.AnnAssign)]
        comments = {
            token.start[0]: token.string.lstrip('# ')
            for token in generate_tokens(StringIO(source + '\n').readline)
            if token.type == COMMENT
        }
        rows = [
            (
                part.target.id,
                short_type(ast.unparse(part.annotation)),
                ast.unparse(part.value) if part.value else '',
                comments.get(part.lineno, ''),
            )
            for part in declared
        ]
        if rows:
            found[node.name] = rows
    return found


def api_entry(doc, level, fields=()):
    """What `show_doc` says about a symbol, as a heading with an anchor and a box: signature,
    summary, arguments, the rest."""
    doc = re.sub(r'^---\s*', '', doc.strip())
    doc = re.sub(r'^\[source\]\([^)]*\)(\{[^}]*\})?\s*', '', doc)
    name, code, words = re.match(r'#+ (\S+)\s*(?:```python\n(.*?)```)?\s*(.*)', doc, re.S).groups()
    summary, _, rest = words.partition('\n\n')
    if summary == '*Call self as a function.*':
        summary = ''  # what inspect says where nobody wrote a docstring
    if re.fullmatch(r'\*[^*].*\*', summary, re.S):
        summary = summary[1:-1]
    code = (
        '' if '(*args, **kwargs)' in (code or '') else code or ''
    )  # what inspect says of named tuples and exceptions
    try:
        call, rows, result = parse_signature(code)
    except (SyntaxError, IndexError):
        call, rows, result = code.strip(), [], ()
    if fields:
        said = [f'{field}={default}' if default else field for field, _, default, _ in fields]
        call, rows, result = f'{name}({", ".join(said)})', fields, ()
    box = [
        f'```python\n{call}\n```' if call else '',
        summary,
        argument_table(rows, result),
        re.sub(r'\n(?=Raises )', '\n\n', rest),
    ]
    inner = '\n\n'.join(part for part in box if part)
    return (
        f'<span class="api-anchor" id="api-{name}"></span>\n\n{"#" * level} `{name}`\n\n::: '
        f'{{.api-entry}}\n{inner}\n:::'
    )


# -- cells -----------------------------------------------------------------------------------------


def objects_of(page, names):
    "A page's entries for an inventory: name in full, page, anchor and kind of each."
    exported = '\n'.join(text_of(cell) for cell in page.cells if api_names(cell))
    classes = {
        node.name for node in ast.walk(ast.parse(exported)) if isinstance(node, ast.ClassDef)
    }
    kind = lambda name: 'method' if '.' in name else 'class' if name in classes else 'function'
    if not page.module:
        return []
    return [(page.module, page.docname, f'module-{page.module}', 'module')] + [
        (f'{page.module}.{name}', page.docname, f'api-{name}', kind(name)) for name in names
    ]


def is_api(cell):
    return (
        cell['cell_type'] == 'code' and re.search(r'^show_doc\(', text_of(cell), re.M) is not None
    )


def symbol(cell):
    "The name that a `show_doc` cell documents."
    return re.search(r'^show_doc\(\s*([\w.]+)', text_of(cell), re.M)[1]


def defined(cell):
    "Names that an exported cell with visible source defines."
    if cell['cell_type'] != 'code' or 'Exported source' not in text_of(cell):
        return []
    return [
        node.name
        for node in ast.parse(text_of(cell)).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]


def entries_before_sources(cells):
    "Each API entry right before the cell that shows its source (nbdev mixes up neighbours)."
    shown = {name for cell in cells for name in defined(cell)}
    entries = {symbol(cell): cell for cell in cells if is_api(cell) and symbol(cell) in shown}
    ordered = []
    for cell in cells:
        if is_api(cell) and symbol(cell) in entries:
            continue
        ordered += [entries[name] for name in defined(cell) if name in entries] + [cell]
    return ordered


class Translator:
    "The cells of one processed notebook, one after the other."

    def __init__(self, page, book, base):
        self.page, self.book, self.base = page, book, base
        self.files, self.level, self.fields = set(), 1, {}
        self.entries = []

    def text(self, source):
        return to_myst(source, self.page, self.book, self.base, self.files)

    def cells(self, cells):
        for cell in cells:
            if defined(cell):
                self.fields |= fields_of(text_of(cell))
        return [new for cell in entries_before_sources(cells) for new in self.cell(cell)]

    def cell(self, cell):
        source = text_of(cell)
        if cell['cell_type'] == 'raw' or 'AUTOGENERATED! DO NOT EDIT' in source:
            return []
        if cell['cell_type'] == 'markdown':
            return [self.markdown(source)]
        if is_api(cell):
            return [self.api(cell)]
        return self.code(cell)

    def markdown(self, source):
        for heading in re.findall(r'^(#+) ', CODE.sub('', source), re.M):
            self.level = len(heading)
        return markdown(self.text(source))

    def api(self, cell):
        outputs = [
            o['data']['text/markdown']
            for o in cell.get('outputs', [])
            if 'text/markdown' in o.get('data', {})
        ]
        doc = ''.join(outputs[0]) if outputs else f'### {symbol(cell)}\n'
        self.entries.append(symbol(cell))
        return markdown(
            self.text(api_entry(doc, min(self.level + 1, 3), self.fields.get(symbol(cell), ())))
        )

    def code(self, cell):
        "Example code with its outputs; a labelled figure or table gets its caption."
        source = text_of(cell)
        seen = options(source)
        tags = [TAGS[item] for item in seen.items() if item in TAGS] + ['exported'] * (
            seen.get('code-summary') == 'Exported source'
        )
        source = re.sub(r'^#\|.*\n?', '', source, flags=re.M)
        outputs = [self.output(output) for output in cell.get('outputs', [])]
        plain = dict(cell, source=source, outputs=outputs, metadata={'tags': tags})
        if 'label' in seen and not outputs:
            return [plain, self.missing(seen)]
        if 'fig-cap' in seen:
            return self.figure(plain, seen)
        if 'tbl-cap' in seen:
            plain['outputs'] = [self.caption(seen), *outputs]
        return [plain] if source.strip() or outputs else []

    def figure(self, cell, seen):
        "All but the last output stay with the code; the last one is the figure."
        name = seen.get('label', '')
        caption = numbered(self.text(seen['fig-cap']), name, self.book)
        last = dict(
            cell,
            outputs=cell['outputs'][-1:],
            metadata={
                'tags': ['remove-input'],
                'mystnb': {
                    'figure': {'caption': caption, 'name': name},
                    'image': {'alt': seen.get('fig-alt', '') or seen['fig-cap']},
                },
            },
        )
        first = dict(cell, outputs=cell['outputs'][:-1])
        return (
            [first, last]
            if first['outputs'] or 'remove-input' not in cell['metadata']['tags']
            else [last]
        )

    def caption(self, seen):
        "The caption of a table that a cell makes, as the first of its outputs."
        return {
            'output_type': 'display_data',
            'metadata': {},
            'data': {
                'text/markdown': self.text(
                    table_caption(seen['tbl-cap'], seen.get('label', ''), self.book)
                )
            },
        }

    def missing(self, seen):
        "The caption alone, where a notebook was stored without its figure or table."
        caption = seen.get('fig-cap') or seen.get('tbl-cap') or ''
        return markdown(
            self.text(table_caption(f'{caption} *(Not computed yet.)*', seen['label'], self.book))
        )

    def output(self, output):
        """Markdown that a cell made is translated too; images of kinds that myst-nb does not know
        become HTML."""
        data = output.get('data')
        if not data:
            return output
        if 'text/markdown' in data:
            data = {
                'text/markdown': self.text(
                    ''.join(data['text/markdown']).replace(' ± ', '\u00a0±\u00a0')
                )
            }
        for kind in data:
            if kind.startswith('image/') and kind not in PLAIN_IMAGES and 'text/html' not in data:
                content = ''.join(data[kind]).strip()
                data = {'text/html': f'<img alt="" src="data:{kind};base64,{content}">'}
                break
        return dict(output, data=data)


def markdown(source):
    return {'cell_type': 'markdown', 'metadata': {}, 'source': source}
