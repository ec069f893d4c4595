"""The site's translator on small inputs, the real book's labels and links, and README. Nothing is
rendered here."""

import json
import re
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import build_docs
import build_readme
from docs import address
from docs.book import Book, BookError, outside_code, page_url
from docs.check import check_site
from docs.myst import Translator, api_entry, entries_before_sources, parse_signature, to_myst

BASE = 'https://asyncpatch.example.org/asyncpatch/'


def cell_id(source):
    return sha256(source.encode()).hexdigest()[:8]


def prose(source):
    return {'cell_type': 'markdown', 'id': cell_id(source), 'metadata': {}, 'source': source}


def code(source, *data):
    outputs = [{'output_type': 'display_data', 'metadata': {}, 'data': d} for d in data]
    return {
        'cell_type': 'code',
        'id': cell_id(source),
        'metadata': {},
        'source': source,
        'outputs': outputs,
        'execution_count': None,
    }


ONE = [
    prose('# One\n\n> The first.'),
    code('#| default_exp one'),
    prose('$$a<b$$ {#eq-a}\n\n$$c$$ {#eq-c}'),
    code('#| exports\ndef alpha(t): return t'),
    code(
        '#| label: fig-one\n#| fig-cap: "See @eq-a."\ndraw()',
        {'image/png': 'iVBORw0KGgo='},
        {'image/png': 'iVBORw0KGgo='},
    ),
]
TWO = [
    prose('# Two\n\n> The second.'),
    prose('$$d$$ {#eq-d}\n\n@eq-c, @eq-d and [@fig-one]; `@eq-zero`.'),
]


def make_book(root, pages=None, contents=None, executed=None):
    "A repository of two pages, or of those given."
    pages = pages or {'theory/00_one.ipynb': ONE, 'theory/13_two.ipynb': TWO}
    for path, cells in pages.items():
        (root / 'nbs' / path).parent.mkdir(parents=True, exist_ok=True)
        (root / 'nbs' / path).write_text(
            json.dumps({'cells': cells, 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5})
        )
    contents = contents or [{'section': 'I. Part', 'contents': list(pages)}]
    (root / '_quarto.yml').write_text(json.dumps({'website': {'sidebar': {'contents': contents}}}))
    return Book(root, executed)


@pytest.fixture
def book(tmp_path):
    return make_book(tmp_path)


def translate(text, book, page=0):
    return to_myst(text, book.pages[page], book, BASE)


# -- the book --------------------------------------------------------------------------------------


def test_the_book_has_no_loose_ends():
    book = Book(ROOT)
    assert book.problems == []
    assert [
        line for line in book.warnings if not line.endswith(('does not exist yet', 'left out'))
    ] == []


def test_readme_is_what_the_index_makes():
    assert build_readme.problem() is None


def test_pages_and_numbers(book):
    assert [page.url for page in book.pages] == ['theory/one.html', 'theory/two.html']
    assert [page.chapter for page in book.pages] == ['0', '13']
    assert (book.pages[0].title, book.pages[0].subtitle, book.pages[0].module) == (
        'One',
        'The first.',
        'asyncpatch.one',
    )
    assert {name: label.text for name, label in book.labels.items()} == {
        'eq-a': 'Eq. 0.1',
        'eq-c': 'Eq. 0.2',
        'fig-one': 'Figure 0.1',
        'eq-d': 'Eq. 13.1',
    }
    assert book.api == {'theory/one.html': {'alpha'}, 'theory/two.html': set()}


def test_page_addresses_are_nbdevs():
    from nbdev.doclinks import _nbpath2html

    for path in (
        'theory/00_schedules.ipynb',
        'index.ipynb',
        'results/39_Beyond_all.ipynb',
        'library/10a_x.ipynb',
    ):
        assert page_url(path) == _nbpath2html(Path(path)).as_posix()


def test_labels_given_twice_are_refused(tmp_path):
    pages = {
        '00_a.ipynb': [prose('# A'), prose('$$x$$ {#eq-x}')],
        '01_b.ipynb': [prose('# B'), prose('$$y$$ {#eq-x}')],
    }
    assert make_book(tmp_path, pages).problems == [
        'label eq-x is given twice: in nbs/00_a.ipynb and in nbs/01_b.ipynb'
    ]


@pytest.mark.parametrize(
    ('cell', 'problem'),
    [
        (prose('see @eq-nowhere'), '@eq-nowhere refers to no label'),
        (code('#| exports\ndef f(): "Of @fig-nowhere."'), '@fig-nowhere refers to no label'),
        (prose('[gone](../LICENCE)'), 'link to ../LICENCE, which does not exist'),
        (prose('<img src="../gone.png">'), 'link to ../gone.png, which does not exist'),
        (code('#| label: plot-x\n1'), 'label plot-x begins with none of'),
        (code('#| label: fig-x\n1'), 'fig-x has no caption'),
    ],
)
def test_loose_ends_are_found(tmp_path, cell, problem):
    assert problem in '\n'.join(make_book(tmp_path, {'00_a.ipynb': [prose('# A'), cell]}).problems)


def test_code_and_hidden_cells_have_no_loose_ends(tmp_path):
    cells = [
        prose('# A'),
        prose('`@eq-x` and\n\n```\n@eq-y [z](gone.md)\n```'),
        code('#| hide\n#| label: fig-x\n1'),
        code('x @ y  # @eq-z'),
    ]
    assert make_book(tmp_path, {'00_a.ipynb': cells}).problems == []


def test_prose_that_nbdev_would_drop_is_found(tmp_path):
    assert (
        'prose in the title cell is lost'
        in make_book(tmp_path, {'00_a.ipynb': [prose('# A\n\n> One line.\n\nMore.')]}).problems[0]
    )


def test_the_book_may_grow(tmp_path):
    book = make_book(
        tmp_path,
        {'00_a.ipynb': [prose('# A'), prose('See [the next](01_b.ipynb).')]},
        ['00_a.ipynb', '01_b.ipynb'],
    )
    assert [page.title for page in book.pages] == ['A'] and book.problems == []
    assert book.warnings == [
        '_quarto.yml names 01_b.ipynb, which does not exist yet: left out',
        'nbs/00_a.ipynb: link to 01_b.ipynb, which does not exist yet',
    ]
    assert translate('See [the next](01_b.ipynb).', book) == 'See the next.'


def test_a_readers_own_run_takes_the_place_of_the_stored_one(tmp_path, book):
    own = tmp_path / 'own/theory/13_two.ipynb'
    own.parent.mkdir(parents=True)
    own.write_text(json.dumps({'cells': TWO}))
    assert [page.executed for page in Book(tmp_path, tmp_path / 'own').pages] == [False, True]
    assert [page.executed for page in Book(tmp_path, tmp_path / 'nowhere').pages] == [False, False]


# -- the translator --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('quarto', 'html'),
    [
        (
            '$$a<b$$ {#eq-a}',
            r'<div class="math notranslate nohighlight equation" id="eq-a">\[a&lt;b '
            r'\tag{0.1}\]</div>',
        ),
        (
            '$$\na \\\\\nb\n$$ {#eq-a}\nand so on',
            r'id="eq-a">\[a \\ b \tag{0.1}\]</div>' + '\n\nand so on',
        ),
        (
            '> $$a$$ {#eq-a}\n> more',
            '> <div class="math notranslate nohighlight equation" id="eq-a">\\[a '
            '\\tag{0.1}\\]</div>\n>\n> more',
        ),
        (
            'so $$a$$ {#eq-c}',
            'so \n\n<div class="math notranslate nohighlight equation" id="eq-c">\\[a '
            '\\tag{0.2}\\]</div>',
        ),
    ],
)
def test_equations(book, quarto, html):
    assert html in translate(quarto, book)


def test_equations_without_a_label_are_left_alone(book):
    assert translate('$$x$$\n\nand $$y$$ {#eq-a}', book).startswith('$$x$$\n\nand')


def test_references_within_and_across_pages(book):
    assert translate('by @eq-a.', book) == 'by <a class="crossref" href="#eq-a">Eq. 0.1</a>.'
    assert translate('(@eq-d, [@fig-one])', book) == (
        '(<a class="crossref" href="two.html#eq-d">Eq. 13.1</a>, <a class="crossref" '
        'href="#fig-one">Figure 0.1</a>)'
    )
    assert translate('`@eq-a` me@eq-a.org', book) == '`@eq-a` me@eq-a.org'
    with pytest.raises(BookError, match='@eq-none refers to no label'):
        translate('@eq-none', book)


def test_code_comes_back_as_it_was():
    text = 'a `b` ``c`d``\n```python\ne `f`\n```\nlone ` tick'
    assert outside_code(
        text, lambda part: part.replace('a', 'A').replace('e', 'E')
    ) == text.replace('a `b`', 'A `b`').replace('lone', 'lonE')


def test_callouts(book):
    assert (
        translate('::: {.callout-note}\n## Paper vs ours\nBoth.\n:::', book)
        == ':::::::::::{admonition} Paper vs ours\n:class: note\n\nBoth.\n:::::::::::'
    )
    nested = translate('::: {.callout-tip}\nA.\n\n::: {.callout-warning}\nB.\n:::\n:::', book)
    assert (
        ':::::::::::{admonition} Tip\n' in nested
        and '\n::::::::::{admonition} Warning\n' in nested
        and nested.endswith('\n::::::::::\n:::::::::::')
    )
    assert (
        '<details class="admonition note"><summary class="admonition-title">More</summary>'
        in translate('::: {.callout-note collapse="true"}\n## More\nx\n:::', book)
    )


def test_links(book, tmp_path):
    (tmp_path / 'figures').mkdir()
    (tmp_path / 'figures/f.png').write_bytes(b'')
    files = set()
    links = to_myst(
        '[a](13_two.ipynb) [b](13_two.ipynb#d) ![c](../../figures/f.png) <img src="../../figures/f.png"> [d](https://x.org/y.ipynb)',
        book.pages[0],
        book,
        BASE,
        files,
    )
    assert (
        links
        == '[a](two.ipynb) [b](two.ipynb#d) ![c](/book/figures/f.png) <img src="../_static/book/figures/f.png"> [d](https://x.org/y.ipynb)'
    )
    assert files == {'figures/f.png'}


def test_names_link_to_this_very_site(book):
    assert translate(f'[`alpha`]({BASE}theory/one.html#alpha)', book, 1) == (
        '<a class="api" href="one.html#api-alpha"><code class="docutils literal '
        'notranslate">alpha</code></a>'
    )
    assert (
        translate(f'[`beta`]({BASE}library/later.html#beta)', book)
        == '<code class="docutils literal notranslate">beta</code>'
    )


def test_static_figures_tables_and_sections(tmp_path):
    text = (
        '## Here {#sec-h}\n\n![Words.](f.png){#fig-f width=50%}\n\n| a |\n|---|\n| 1 |\n\n: Rows. '
        '{#tbl-t}\n\n@sec-h, @tbl-t'
    )
    (tmp_path / 'nbs').mkdir()
    (tmp_path / 'nbs/f.png').write_bytes(b'')
    book = make_book(tmp_path, {'02_a.ipynb': [prose('# A'), prose(text)]})
    done = translate(text, book)
    assert '(sec-h)=\n## Here\n' in done and '<a class="crossref" href="#sec-h">Here</a>' in done
    assert (
        ':::{figure} /book/nbs/f.png\n:name: fig-f\n:width: 50%\n\n**Figure 2.1.** Words.\n:::'
        in done
    )
    assert '**Table 2.1.** Rows.' in done and 'id="tbl-t"' in done


SHOW_DOC = '''---

[source](https://example.org/x/blob/main/x.py#L1){target="_blank" style="float:right"}

### step

```python
def step(
    z:torch.Tensor, # noisy data
    n, seeds:collections.abc.Sequence[int] | None=None, # one "#" per sample | or none
    *args, k:str='# a'
)->tuple: # what is left
```

*One step of $z_t$.*

From here to there.
Raises `ValueError` at the end.'''


def test_signatures():
    call, rows, result = parse_signature(SHOW_DOC.partition('```python\n')[2].partition('```')[0])
    assert call == "step(z, n, seeds=None, *args, k='# a')"
    assert rows == [
        ('z', 'Tensor', '', 'noisy data'),
        ('n', '', '', ''),
        ('seeds', 'Sequence[int] | None', 'None', 'one "#" per sample | or none'),
        ('*args', '', '', ''),
        ('k', 'str', "'# a'", ''),
    ]
    assert result == ('tuple', 'what is left')


def test_api_entry():
    entry = api_entry(SHOW_DOC, 3)
    assert entry.startswith(
        '<span class="api-anchor" id="api-step"></span>\n\n### `step`\n\n::: '
        '{.api-entry}\n```python\nstep(z, n, '
    )
    assert (
        '\nOne step of $z_t$.\n' in entry
        and '\n\nRaises `ValueError`' in entry
        and '[source]' not in entry
    )
    assert (
        '| `seeds` | `Sequence[int] \\| None` | `None` | one "#" per sample \\| or none |' in entry
        and '| *returns* | `tuple` |  | what is left |' in entry
    )


def test_api_entries_stand_before_their_sources():
    source = lambda *names: code(
        '#| code-summary: "Exported source"\n' + '\n'.join(f'def {name}(): pass' for name in names)
    )
    entry = lambda name: code(f'#| echo: false\nshow_doc({name})')
    mixed = [
        entry('c'),
        source('_helper'),
        source('c'),
        entry('a'),
        source('a', 'b'),
        entry('b'),
        entry('other'),
    ]
    wanted = [
        source('_helper'),
        entry('c'),
        source('c'),
        entry('a'),
        entry('b'),
        source('a', 'b'),
        entry('other'),
    ]
    assert entries_before_sources(mixed) == wanted


def test_figures_and_animations(book):
    cells = Translator(book.pages[0], book, BASE).cells(
        [
            ONE[-1],
            code('show()', {'image/webp': 'UklG'}),
            code('#| echo: false\ntable()', {'text/markdown': ['see @eq-a']}),
        ]
    )
    drawn, figure, animation, table = cells
    assert (len(drawn['outputs']), len(figure['outputs'])) == (1, 1)
    assert figure['metadata']['mystnb']['figure'] == {
        'caption': '**Figure 0.1.** See <a class="crossref" href="#eq-a">Eq. 0.1</a>.',
        'name': 'fig-one',
    }
    assert animation['outputs'][0]['data'] == {
        'text/html': '<img alt="" src="data:image/webp;base64,UklG">'
    }
    assert (
        table['metadata']['tags'] == ['remove-input']
        and 'Eq. 0.1' in table['outputs'][0]['data']['text/markdown']
    )


@pytest.mark.parametrize(
    ('contents', 'problem'),
    [
        (['00_a.ipynb', '01_a.ipynb'], 'have the same address, a.html'),
        (
            ['00_a.ipynb', {'section': 'S', 'contents': ['00_a.ipynb']}],
            '_quarto.yml names 00_a.ipynb twice',
        ),
    ],
)
def test_contents_are_checked(tmp_path, contents, problem):
    pages = {'00_a.ipynb': [prose('# A')], '01_a.ipynb': [prose('# B')]}
    assert problem in '\n'.join(make_book(tmp_path, pages, contents).problems)


def test_a_second_route_is_taken_where_the_first_fails(book, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise BookError('no such thing')

    (tmp_path / 'index.html').write_text('')
    monkeypatch.setattr(build_docs, 'ROUTES', {'quarto': fails, 'sphinx': lambda *_: tmp_path})
    config = SimpleNamespace(doc_host='', doc_baseurl='')
    assert (
        build_docs.render(book, tmp_path, config, ['quarto', 'sphinx']) == tmp_path
        and 'Quarto gave no whole site' in capsys.readouterr().out
    )
    with pytest.raises(BookError, match='no such thing'):
        build_docs.render(book, tmp_path, config, ['quarto'])


def test_a_site_is_put_in_place_of_the_former(tmp_path):
    for folder in ('new', 'work', 'site'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'new/index.html').write_text('new')
    (tmp_path / 'site/index.html').write_text('old')
    (tmp_path / 'site/gone.html').write_text('old')
    build_docs.put_in_place(tmp_path / 'new', tmp_path / 'site', tmp_path / 'work')
    assert [path.name for path in (tmp_path / 'site').iterdir()] == ['index.html'] and (
        tmp_path / 'site/index.html'
    ).read_text() == 'new'


def test_a_figure_without_its_picture_keeps_its_place(tmp_path):
    book = make_book(
        tmp_path,
        {
            '07_a.ipynb': [
                prose('# A'),
                prose('@fig-x'),
                code('#| label: fig-x\n#| fig-cap: "Soon."\ndraw()'),
            ]
        },
    )
    assert book.warnings == [
        'nbs/07_a.ipynb: fig-x was stored without its output; run the notebook'
    ]
    source, caption = Translator(book.pages[0], book, BASE).cells(book.pages[0].cells[2:])
    assert (
        source['source'] == 'draw()'
        and 'id="fig-x"' in caption['source']
        and '**Figure 7.1.** Soon. *(Not computed yet.)*' in caption['source']
    )


def test_quarto_gets_links_where_it_resolves_no_references(book):
    text = build_docs.quarto_text(
        f'@eq-c, @eq-d and [`alpha`]({BASE}theory/one.html#alpha)', book.pages[1], book, BASE, set()
    )
    assert (
        text == 'Eq. 2 of [One](00_one.ipynb#eq-c), @eq-d and [`alpha`](../theory/one.html#alpha)'
    )


# -- the site and README ---------------------------------------------------------------------------


def test_dead_links_of_a_site_are_found(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'index.html').write_text(
        '<p id="top"><a href="a/b.html#x">1</a><a href="#top">2</a><a href="https://x.org">3</a>'
    )
    (tmp_path / 'a/b.html').write_text(
        '<p id="x"><a href="../index.html#no">4</a><img src="gone.png">'
    )
    assert check_site(tmp_path) == [
        'a/b.html: link to ../index.html#no, but that page has no such place',
        'a/b.html: link to gone.png, which is not in the site',
    ]


def test_placeholder_addresses_are_no_addresses():
    assert (
        build_docs.real_address('https://example.org/a/b')
        == ''
        == build_docs.real_address('https://docs.example.com')
    )
    assert build_docs.real_address('https://github.com/a/example') == 'https://github.com/a/example'


INDEX = [
    prose('# Title\n\n> Line.'),
    code('#| hide\nimport x'),
    code('#| echo: false\ntable()', {'text/markdown': '| a |\n|---|\n| 1 |'}),
    prose(
        '$$x$$ {#eq-x} as in @eq-x and @eq-a.\n\n::: {.callout-note}\n## Note this\nBoth.\n:::\n\n![](../figures/f.png) [t](theory/00_one.ipynb#x) [home](https://x.org)'
    ),
    code('asyncpatch.run()'),
]


def test_readme(tmp_path):
    (tmp_path / 'figures').mkdir()
    (tmp_path / 'figures/f.png').write_bytes(b'')
    make_book(tmp_path, {'index.ipynb': INDEX, 'theory/00_one.ipynb': ONE})
    text = build_readme.readme(tmp_path)
    assert text == build_readme.readme(tmp_path) and text.endswith(
        '```python\nasyncpatch.run()\n```\n'
    )
    assert '$$x \\tag{1}$$ as in Eq. 1 and [Eq. 0.1](nbs/theory/00_one.ipynb).' in text
    assert (
        '> **Note this**\n>\n> Both.' in text
        and '![](figures/f.png) [t](nbs/theory/00_one.ipynb#x) [home](https://x.org)' in text
    )
    assert '| a |' in text and 'table()' not in text and 'import x' not in text and '{#' not in text
    assert 'not what nbs/index.ipynb makes' in build_readme.problem(tmp_path)
    (tmp_path / 'README.md').write_text(text)
    assert build_readme.problem(tmp_path) is None


def test_readme_holds_no_images_of_its_own(tmp_path):
    make_book(
        tmp_path, {'index.ipynb': [prose('# T'), code('plot()', {'image/png': 'iVBORw0KGgo='})]}
    )
    with pytest.raises(BookError, match='a cell shows an image'):
        build_readme.readme(tmp_path)


def test_keyword_only_arguments_keep_their_table():
    call, rows, _ = parse_signature("""def f(
    a:int=1, # first
    b:int, # needed, by keyword
)->int: # answer""")
    assert call == 'f(a=1, *, b)' and [row[0] for row in rows] == ['a', 'b']


def test_the_playground_of_the_site_is_the_package_s(tmp_path):
    "Its scripts are made from the shipped files, and its page says where they are."
    from asyncpatch.playground import PLAY_MODELS, inlined, play_script, script_name

    build_docs.write_playground(tmp_path)
    assert (tmp_path / 'playground.js').read_text() == play_script()
    data = (tmp_path / 'playground-data.js').read_text()
    for model in PLAY_MODELS:
        place = data if model.inline else (tmp_path / script_name(model.name)).read_text()
        assert inlined([model.name])[1:-1] in place
    page = next(p for p in Book(ROOT).pages if p.module == 'asyncpatch.playground')
    notebook = json.loads((ROOT / 'nbs' / page.path).read_text())
    text = '\n'.join(''.join(cell['source']) for cell in notebook['cells'])
    shown = build_docs.with_playground(text, page)
    assert shown.count('<script src="../_static/playground') == 2
    assert build_docs.with_playground('no place', page) == 'no place'


def test_readme_leaves_out_what_says_so():
    "Sections that are marked are left out, to the next of their level, and links to them lead on."
    texts = ['## A', '[b](#b-c), [d](#d)', '## B c\n\n' + build_readme.LEFT_OUT, 'long', '## D']
    cells = [SimpleNamespace(cell_type='markdown', source=text) for text in texts]
    kept = [cell.source for cell in build_readme.left_in(cells)]
    assert kept == ['## A', '[b](#b-c), [d](#d)', '## D']
    text = build_readme.whole_links('\n'.join(kept))
    assert '[b](nbs/index.ipynb), [d](#d)' in text


@pytest.mark.parametrize(
    'url, hosts',
    [
        ('https://example.org/a/b', []),
        ('https://github.com/a/b', ['colab.research.google.com', 'mybinder.org']),
        ('https://gitlab.com/a/b', ['mybinder.org']),
    ],
)
def test_badges_are_there_where_the_repository_is_public(tmp_path, url, hosts):
    "From `git_url` in settings.ini: in README, on the site and in the notebook's first cell."
    (tmp_path / 'settings.ini').write_text(f'[DEFAULT]\ngit_url = {url}\nbranch = trunk\n')
    first = "wanted = 'asyncpatch @ ' + 'git+https://elsewhere.net/x'"
    index = [prose('# T\n\n> L.'), prose('New?<!-- badges: nbs/story.ipynb --> [s](story.ipynb)')]
    story = [prose('# S\n\n> L.'), prose('Here.<!-- badges -->'), code(first)]
    make_book(tmp_path, {'index.ipynb': index, 'story.ipynb': story})
    text = build_readme.readme(tmp_path)
    found = re.findall(r'\]\((https://[^)]*story.ipynb)\)', text)
    assert [urlsplit(link).hostname for link in found[: len(hosts)]] == hosts
    assert 'badges' not in text and text.count('[![') == len(hosts)
    shown = address.with_badges(
        'Here.<!-- badges -->', 'nbs/s.ipynb', *address.settings_of(tmp_path)
    )
    assert shown.count('nbs/s.ipynb') + shown.count('nbs%2Fs.ipynb') == len(hosts)
    (tmp_path / 'README.md').write_text(text)
    assert 'another address' in build_readme.problem(tmp_path)
    (tmp_path / 'nbs/story.ipynb').write_text(build_readme.installing(tmp_path))
    assert build_readme.problem(tmp_path) is None
    assert f"'git+{url}'" in (tmp_path / 'nbs/story.ipynb').read_text()


def test_readme_of_a_public_repository_holds_on_pypi(tmp_path):
    "No link or picture depends on where README is read; with a placeholder they are as on GitHub."
    ini = (ROOT / 'settings.ini').read_text()
    here = build_readme.readme(ROOT)
    assert address.WITHIN.search(here) and '[![' not in here
    for name in ('_quarto.yml', 'nbs', 'figures', 'asyncpatch'):
        (tmp_path / name).symlink_to(ROOT / name)
    public = re.sub(r'(?m)^git_url = .*', 'git_url = https://github.com/a/b', ini)
    (tmp_path / 'settings.ini').write_text(public)
    text = build_readme.readme(tmp_path)
    assert address.WITHIN.search(text) is None and 'src="' not in text and '](#' not in text
    assert '](https://raw.githubusercontent.com/a/b/main/figures/fashion/clocks.gif)' in text
    files = re.findall(r'https://(?:github.com|raw.githubusercontent.com)/a/b/([^)]*)', text)
    paths = {re.sub('^(blob/)?main/', '', file).partition('#')[0] for file in files}
    assert len(paths) > 90 and not [path for path in paths if not (ROOT / path).is_file()]
    assert '$' not in re.sub(r'```.*?```', '', text, flags=re.S)  # PyPI sets no formulas


@pytest.mark.parametrize('there', [True, False])
def test_the_story_installs_where_the_package_is_missing(monkeypatch, there):
    cells = json.loads((ROOT / 'nbs/story.ipynb').read_text())['cells']
    first = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code'][:2]
    asked = []
    monkeypatch.setattr('importlib.util.find_spec', lambda name: object() if there else None)
    monkeypatch.setattr('subprocess.run', lambda command, check: asked.append(command))
    exec('\n'.join(first), {})
    wanted = 'asyncpatch[data,plots] @ git+' + address.settings_of(ROOT, placeholder=True)[0]
    assert asked == ([] if there else [[sys.executable, '-m', 'pip', 'install', '-q', wanted]])


def shown_doc(name):
    "A processed cell that documents a function, as nbdev makes it."
    said = f'### {name}\n\n```python\n{name}(\n    t, # time\n)->float: # itself\n```\n\n*Itself.*'
    return code(f'show_doc({name})', {'text/markdown': said})


def test_others_can_link_to_the_reference(tmp_path):
    "`objects.inv` as intersphinx reads it: names, modules, labels, each at a place that is there."
    pytest.importorskip('myst_nb')
    from sphinx.util.inventory import InventoryFile

    weights = [
        prose('# W\n\n> Line.'),
        code('#| default_exp weights'),
        code('#| exports\ndef load(t): return t'),
    ]
    index = [prose('# Home\n\n> Line.')]
    pages = {'index.ipynb': index, 'theory/00_one.ipynb': ONE, 'library/18_weights.ipynb': weights}
    book = make_book(tmp_path, pages, list(pages))
    for page, name in zip(book.pages[1:], ('alpha', 'load')):
        path = tmp_path / 'nbs' / page.path
        notebook = json.loads(path.read_text())
        notebook['cells'].append(shown_doc(name))
        notebook['metadata'] = {'language_info': {'name': 'python', 'pygments_lexer': 'python'}}
        path.write_text(json.dumps(notebook))
    told = dict(
        title='t', author='a', copyright='c', version='1.2', git_url='https://example.org/a'
    )
    config = SimpleNamespace(**told, doc_host='', doc_baseurl='')
    site = build_docs.render_with_sphinx(book, tmp_path / 'nbs', tmp_path, config, BASE)
    found = InventoryFile.loads((site / 'objects.inv').read_bytes(), uri='https://x.org')
    uri = {f'{kind} {n}': item.uri for kind in found.data for n, item in found.data[kind].items()}
    assert uri['py:function asyncpatch.one.alpha'] == 'https://x.org/theory/one.html#api-alpha'
    assert uri['py:module asyncpatch.one'] == 'https://x.org/theory/one.html#module-asyncpatch.one'
    load = 'https://x.org/library/weights.html#api-load'
    assert uri['py:function asyncpatch.weights.load'] == load == uri['py:function asyncpatch.load']
    assert uri['std:label fig-one'].endswith('one.html#fig-one')
    for address_ in uri.values():
        file, _, anchor = address_.removeprefix('https://x.org/').partition('#')
        assert not anchor or f'id="{anchor}"' in (site / file).read_text()
    words = (site / 'searchindex.js').read_text()
    assert '"alpha"' in words and 'py:function' in words  # the search of the site knows it
