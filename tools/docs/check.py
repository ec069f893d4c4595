"""Does every link of a built site lead somewhere? Pages, anchors, images, scripts; addresses
outside are not asked."""

from html.parser import HTMLParser
from pathlib import Path
from posixpath import normpath
from urllib.parse import unquote, urlsplit


class Reader(HTMLParser):
    "The anchors of a page and the addresses that it uses."

    def __init__(self):
        super().__init__()
        self.anchors, self.addresses, self.doubled = set(), [], set()

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key == 'id' and value in self.anchors:
                self.doubled.add(value)
            if key == 'id' or (key == 'name' and tag == 'a'):
                self.anchors.add(value)
            if key in ('href', 'src') and value:
                self.addresses.append(value)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding='utf-8'))
    return reader


def check_site(site):
    """What is wrong, one line each: links to pages, files or anchors that are not there, references
    left unresolved."""
    site = Path(site)
    pages = {
        path.relative_to(site).as_posix(): read(path)
        for path in site.rglob('*.html')
        if '_static' not in path.relative_to(site).parts
    }
    if 'index.html' not in pages:
        return ['the site has no index.html']
    problems = []
    for name, page in pages.items():
        for address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            path = normpath(f'{name}/../{unquote(parts.path)}') if parts.path else name
            target = f'{path}/index.html' if (site / path).is_dir() else path
            if not (site / target).is_file():
                problems.append(f'{name}: link to {address}, which is not in the site')
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].anchors
            ):
                problems.append(f'{name}: link to {address}, but that page has no such place')
    return sorted(set(problems))
