"""The widget in a real JupyterLab: a server on the loopback address, Chromium, a cell that is run.

Half a minute, and more packages than the tests need: `ASYNCPATCH_JUPYTER=1` asks for it, and
`ASYNCPATCH_JUPYTER=FOLDER` keeps pictures of what was seen there."""

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import browser

WANTED = os.environ.get('ASYNCPATCH_JUPYTER')
pytestmark = [
    pytest.mark.skipif(not WANTED, reason='half a minute: ASYNCPATCH_JUPYTER=1 asks for it'),
    pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing())),
    *(
        pytest.mark.skipif(not importlib.util.find_spec(name), reason=f'{name} is not installed')
        for name in ('jupyterlab', 'anywidget')
    ),
]
FIRST = """from asyncpatch.garments import garments
from asyncpatch.playground import play

widget = play(garments('garments14'), 'Garments')
widget"""
PLAY = "[...document.querySelectorAll('.jp-OutputArea-output div')].find(e => e.playground)"


def notebook(*sources):
    "A notebook of code cells."
    common = dict(cell_type='code', metadata={}, outputs=[], execution_count=None)
    cells = [dict(common, id=f'cell{n}', source=source) for n, source in enumerate(sources)]
    kernel = dict(name='python3', display_name='Python 3', language='python')
    return dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)


@contextmanager
def lab(folder):
    "The address of a JupyterLab with settings of its own, ended with the block."
    runtime, token = folder / 'runtime', secrets.token_hex(16)
    places = dict(JUPYTER_CONFIG_DIR='config', JUPYTER_RUNTIME_DIR='runtime', IPYTHONDIR='ipython')
    places |= dict(JUPYTERLAB_SETTINGS_DIR='settings', JUPYTERLAB_WORKSPACES_DIR='workspaces')
    paths = {name: str(folder / place) for name, place in places.items()}
    given = [
        '--no-browser',
        '--ip=127.0.0.1',
        '--port=0',
        '--allow-root',
        '--expose-app-in-browser',
    ]
    given += [f'--ServerApp.root_dir={folder}', f'--IdentityProvider.token={token}']
    process = subprocess.Popen(
        [sys.executable, '-m', 'jupyterlab', *given],
        env={**os.environ, **paths, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while not (told := list(runtime.glob('jpserver-*.json'))):
            assert process.poll() is None and time.monotonic() < until, 'JupyterLab did not start'
            time.sleep(0.2)
        yield f'{json.loads(told[0].read_text())["url"]}lab/tree/play.ipynb?token={token}'
    finally:
        process.terminate()
        process.wait(30)


def test_the_widget_in_jupyterlab(tmp_path):
    "A cell shows the playground, Python computes a run, the picture changes, the plan returns."
    shape = 'print(tuple(widget.maps().shape), float(widget.maps()[0].mean()))'
    (tmp_path / 'play.ipynb').write_text(json.dumps(notebook(FIRST, shape)))
    with lab(tmp_path) as url, browser.Chromium() as chromium:
        tab = chromium.open(url, width=1500, height=1500)
        tab.wait('!!document.querySelector(".jp-Notebook .jp-CodeCell")')
        kernel = 'jupyterapp.shell.currentWidget?.sessionContext'
        tab.wait(f'!!{kernel}?.isReady && {kernel}.session?.kernel?.status == "idle"')
        run_cell(tab, 0)
        tab.wait(f'!!{PLAY}?.playground.run', 90)
        tab.run(f'globalThis.play = {PLAY}.playground; play.mask("lower half"); 0')
        tab.run('play.$("calls").value = 10; play.changed(); 0')
        pixels = 'play.$("picture").querySelector("canvas").toDataURL()'
        before = tab.run(pixels)
        keep(tab, 'before')
        tab.run('play.$("play").click(); 0')
        tab.wait('play.run.done && !play.playing && play.frame == 10', 120)
        keep(tab, 'after')
        assert tab.run(pixels) != before
        same = 'play.start.every((s, p) => s > 0 || z[p] === play.x[p])'
        known = f'(z => {same})(play.run.frames[10].z[0])'
        assert tab.run(known) is True
        run_cell(tab, 1)
        printed = '[...document.querySelectorAll(".jp-OutputArea-output pre")].at(-1)?.textContent'
        tab.wait(f'!!{printed}')
        assert tab.run(printed).strip() == '(11, 1, 1, 14, 14) 0.5'
        keep(tab, 'printed')


def run_cell(tab, number):
    "Click into a cell, and run it."
    place = f'document.querySelectorAll(".jp-Notebook .cm-content")[{number}]'
    code = f'(b => [b.left + 9, b.top + 9])({place}.getBoundingClientRect())'
    tab.drag([tab.run(code)])
    tab.wait(f'!!{place}.closest(".jp-mod-active")')
    tab.run('jupyterapp.commands.execute("notebook:run-cell"); 0')


def keep(tab, name):
    "A picture of the window where a folder was named."
    if Path(WANTED).is_dir():
        tab.picture(Path(WANTED) / f'{name}.png', whole=False)
