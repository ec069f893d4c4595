"The check of the built site sees what it is there to see."

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tools'))

import browser
import check_site

PIXEL = 'data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=='
HEAD = '<!doctype html><meta name="viewport" content="width=device-width"><title>A</title><main>'
NARROW = 'width: 2em; table-layout: fixed; overflow-wrap: anywhere'
FAULTS = {
    '<p>So <span class="math">x^2</span>.</p>': 'formula not set',
    '<p>See $$x^2$$.</p>': 'markup shown raw',
    '<p>The mass is $m + 1$ here.</p>': 'markup shown raw',
    '<p>By @fig-one, and so on.</p>': 'markup shown raw',
    '<p>::: callout</p>': 'markup shown raw',
    '<p>A [link](there.html).</p>': 'markup shown raw',
    '<p>By <a href="#">Eq. 1</a>(../library/regret.html).</p>': 'markup shown raw',
    '<p>In **bold**.</p>': 'markup shown raw',
    f'<img src="{PIXEL}">': 'picture without alternative text',
    '<img src="nowhere.png" alt="A picture">': 'picture that does not load',
    '<script>throw new Error("broken")</script>': 'broken',
    f'<table style="{NARROW}"><td>number': 'word broken in a table',
    '<div style="width: 900px">wide</div>': 'pixels wide on a phone',
}
FINE = f"""<p>It costs $5, or 10 %; a * b and [brackets] (words).</p>
<table><td>a whole number</td><td>0.01 ± 0.02</td></table>
<pre>$$x$$ **kwargs @fig-one</pre><p><code>[a](b)</code></p><img src="{PIXEL}" alt="A dot">"""


@pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))
def test_faults_of_a_page_are_seen_and_a_good_page_passes(tmp_path):
    with browser.Chromium() as running:
        tab = running.open()
        for text, wanted in {FINE: None, **FAULTS}.items():
            page = tmp_path / 'page.html'
            page.write_text(HEAD + text, encoding='utf-8')
            found = check_site.check_page(tab, page.as_uri())
            if wanted is None:
                assert found == []
            else:
                assert any(wanted in what for what in found), (text, found)
