"""Sphinx's configuration; what the builder decides (title, MathJax, address) is in settings.json
beside this file."""

import json
from pathlib import Path

from sphinx.domains.python import ModuleEntry, ObjectEntry

settings = json.loads(Path(__file__).with_name('settings.json').read_text(encoding='utf-8'))

project = html_title = settings['title']
author = settings['author']
copyright = settings['copyright']
version = release = settings['version']
language = 'en'

extensions = ['myst_nb', 'sphinx_copybutton']
source_suffix = {'.ipynb': 'myst-nb'}
exclude_patterns = ['book', '_static']
nb_execution_mode = 'off'
nb_merge_streams = True
nb_code_prompt_show = 'Show the code'
nb_code_prompt_hide = 'Hide the code'
nb_render_markdown_format = 'myst'
myst_enable_extensions = [
    'dollarmath',
    'amsmath',
    'colon_fence',
    'attrs_inline',
    'attrs_block',
    'deflist',
    'html_image',
]
myst_heading_anchors = 3
suppress_warnings = [
    'myst.header',  # a page may go from its title to a third-level heading
    'misc.highlighting_failure',  # a listing may hold output, or code of no particular language
]
copybutton_selector = 'div.cell_input div.highlight pre'

html_theme = 'sphinx_book_theme'
html_static_path = ['_static']
html_css_files = ['custom.css']
html_js_files = ['fit.js']
html_favicon = '_static/favicon.svg'
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_show_sourcelink = False
html_theme_options = {
    'logo': {
        'image_light': '_static/logo.svg',
        'image_dark': '_static/logo.svg',
        'text': settings['title'],
        'alt_text': settings['title'],
    },
    'show_toc_level': 2,
    'navbar_start': [],
    'navbar_center': [],
    'navbar_end': [],
    'navbar_persistent': [],
    'footer_content_items': ['copyright.html'],
    'use_download_button': False,
    'use_fullscreen_button': False,
    'pygments_light_style': 'tango',
    'pygments_dark_style': 'github-dark',
    **(
        {'repository_url': settings['repository'], 'use_repository_button': True}
        if settings['repository']
        else {}
    ),
}

mathjax_path = settings['mathjax']
mathjax3_config = {
    'tex': {'macros': settings['macros'], 'tags': 'none'},
    'options': {
        'ignoreHtmlClass': 'tex2jax_ignore|mathjax_ignore|document',
        'processHtmlClass': 'tex2jax_process|mathjax_process|math|output_area',
    },
    'chtml': {'matchFontHeight': False, 'scale': 1.04},
}


def note_objects(app, env):
    "The entries of the reference, for the search of the site and for `objects.inv`."
    python = env.domains['py']
    for name, docname, anchor, kind in settings['objects']:
        if kind == 'module':
            python.modules[name] = ModuleEntry(docname, anchor, '', '', False)
        else:
            python.objects[name] = ObjectEntry(docname, anchor, kind, False)


def setup(app):
    app.connect('env-updated', note_objects)
    app.set_html_assets_policy(
        'always'
    )  # numbered equations are plain HTML, and Sphinx does not see them
