"""Where the repository is, for strangers: addresses of its files, and badges that open a notebook.

All come from `git_url` in settings.ini; while that is a placeholder there are none.
"""

import re
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import quote, urlsplit

from docs.book import outside_code

BADGES = re.compile(r'[ \t]*<!-- badges(?:: (?P<path>\S+))? -->')
INSTALL = re.compile(r"(?<='git\+)[^']*(?=')")
WITHIN = re.compile(
    r'(?P<image>!?)\[(?P<words>(?:[^\[\]]|!?\[[^\]]*\](?:\([^()\s]*\))?)*)\]'
    r'\((?!https?:|mailto:|data:|#)(?P<path>[^()\s]+)\)'
)


def real_address(url):
    "The URL, or nothing while it is a placeholder (example.org and its like are nobody's)."
    host = urlsplit(url).hostname or ''
    return '' if host.rpartition('example.')[1] and host.split('.')[-2] == 'example' else url


def settings_of(root, placeholder=False):
    "`git_url` (nothing for a placeholder, unless that is wanted) and `branch` of a checkout."
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(Path(root) / 'settings.ini', encoding='utf-8')
    found = ini['DEFAULT']
    url = found.get('git_url', '').rstrip('/')
    return url if placeholder else real_address(url), found.get('branch', 'main')


def host_of(url):
    "The host of a repository and its path there."
    parts = urlsplit(url)
    return parts.hostname or '', parts.path.strip('/').removesuffix('.git')


def address_of(path, url, branch, raw=False):
    "The page of a file of the repository, or the file itself."
    host, name = host_of(url)
    if raw and host == 'github.com':
        return f'https://raw.githubusercontent.com/{name}/{branch}/{path}'
    between = '/-' if 'gitlab' in host else ''
    return f'{url.removesuffix(".git")}{between}/{"raw" if raw else "blob"}/{branch}/{path}'


def whole_addresses(text, url, branch):
    "Markdown in which no link or image depends on where it is read: as PyPI needs it."

    def absolute(match):
        path = address_of(match['path'], url, branch, raw=bool(match['image']))
        words = WITHIN.sub(absolute, match['words'])
        return f'{match["image"]}[{words}]({path})'

    return outside_code(text, lambda prose: WITHIN.sub(absolute, prose)) if url else text


def badges(path, url, branch):
    "Links that open a notebook, `nbs/story.ipynb`, on Colab (from GitHub alone) and on Binder."
    host, name = host_of(url)
    shown = []
    if host == 'github.com':
        link = f'https://colab.research.google.com/github/{name}/blob/{branch}/{path}'
        image = 'https://colab.research.google.com/assets/colab-badge.svg'
        shown.append(f'[![Open in Colab]({image})]({link})')
    if url:
        kind = {'github.com': 'gh', 'gitlab.com': 'gl'}.get(host, 'git')
        place = name if kind == 'gh' else quote(name if kind == 'gl' else url, safe='')
        link = f'https://mybinder.org/v2/{kind}/{place}/{branch}?labpath={quote(path, safe="")}'
        shown.append(f'[![Launch Binder](https://mybinder.org/badge_logo.svg)]({link})')
    return shown


def with_badges(text, path, url, branch):
    "A text with badges where it has their mark: of the notebook that it names, or of `path`."
    shown = lambda match: badges(match['path'] or path, url, branch)
    return BADGES.sub(lambda match: ''.join(f' {badge}' for badge in shown(match)), text)


def with_install(source, url):
    "A notebook, or a cell of it, that installs the package from this repository."
    return INSTALL.sub(url, source)
