"""What a reader of the built site would stumble over, found in a headless Chromium.

    python tools/check_site.py [SITE] [--pages WORD …]

Every page is opened at desktop and at phone width: errors of scripts, files that are missing,
formulas that were not set, markup that is shown raw, figures without alternative text or that do
not load, words broken in tables, pages that are wider than a phone. Links are looked up by
`docs/check.py`.
"""

import argparse
import sys
from pathlib import Path

import browser
from docs.check import check_site

ROOT = Path(__file__).resolve().parent.parent
PHONE = 390
LOOK = r"""
(async () => {
  const main = document.querySelector('main, .bd-article') || document.body, found = [];
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  const started = Date.now(), open = () => [...main.querySelectorAll('.math')].filter(
    e => !e.querySelector('mjx-container') && e.textContent.trim());
  while (window.MathJax && open().length && Date.now() - started < 20000)
    await new Promise(r => setTimeout(r, 100));
  for (const e of open()) found.push(`formula not set: ${e.textContent.trim().slice(0, 60)}`);
  for (const e of main.querySelectorAll('mjx-merror, [data-mml-node="merror"]'))
    found.push(`formula with an error: ${e.getAttribute('data-mjx-error') || e.textContent}`);
  for (const e of main.querySelectorAll('img')) {
    const name = e.getAttribute('src').slice(0, 60);
    if (!e.alt.trim()) found.push(`picture without alternative text: ${name}`);
    e.loading = 'eager';
    await e.decode().catch(() => found.push(`picture that does not load: ${name}`));
  }
  const raw = [/\$\$/, /(^|\s)\$[^$\s][^$]*\$/, /\\\(|\\\[/, /:::/, /\{#(fig|tbl|eq|sec)-/,
    /(^|\s)\[?@(fig|tbl|eq|sec)-/, /\]\([^)\s]+\)/, /\*\*[^\s\d]/, /^#{1,6} /, /\{\.callout/,
    /\([^()\s]+\.(ipynb|html)(#[^()\s]*)?\)/];
  const walk = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const { parentElement: e, nodeValue: text } = walk.currentNode;
    if (e.closest('code, pre, script, style, .math, mjx-container, svg')) continue;
    for (const form of raw) if (form.test(text))
      found.push(`markup shown raw: ${text.trim().slice(0, 70)}`);
  }
  for (const cell of main.querySelectorAll('th, td')) {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), range = new Range();
    while (texts.nextNode())
      for (const { 0: word, index } of texts.currentNode.nodeValue.matchAll(/[\w.]+/g)) {
        if (texts.currentNode.parentElement.closest('code, .math, mjx-container')) continue;
        range.setStart(texts.currentNode, index);
        range.setEnd(texts.currentNode, index + word.length);
        if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1)
          found.push(`word broken in a table: ${word}`);
      }
  }
  return found;
})()
"""


def check_page(tab, url):
    "What is wrong with one page, one line each."
    tab.problems.clear()
    tab.view(width=1280, height=900)
    tab.go(url)
    found = list(tab.run(LOOK))
    tab.view(width=PHONE, height=844, touch=True)
    width = tab.run('document.documentElement.scrollWidth')
    if width > PHONE:
        found.append(f'{width} pixels wide on a phone of {PHONE}')
    return list(dict.fromkeys(found + tab.problems))


def check(site, words=()):
    "What is wrong with a site, `page: what` each."
    pages = sorted(p for p in Path(site).rglob('*.html') if '_static' not in p.parts)
    chosen = [p for p in pages if not words or any(word in str(p) for word in words)]
    problems = list(check_site(site))
    with browser.Chromium() as running:
        tab = running.open()
        for path in chosen:
            name = path.relative_to(site).as_posix()
            problems += [f'{name}: {what}' for what in check_page(tab, path.absolute().as_uri())]
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('site', nargs='?', type=Path, default=ROOT / '_docs')
    parser.add_argument('--pages', nargs='+', default=[], help='only those with such a word')
    arguments = parser.parse_args()
    if browser.missing():
        sys.exit(browser.missing())
    if not (arguments.site / 'index.html').is_file():
        sys.exit(f'{arguments.site} holds no site; make it by `make docs`')
    problems = check(arguments.site, arguments.pages)
    print('\n'.join(problems) or 'Nothing to stumble over.')
    sys.exit(bool(problems))


if __name__ == '__main__':
    main()
