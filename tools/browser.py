"""A headless Chromium, driven over its debugging port: for tests and for the check of the site.

with Chromium() as browser:
    tab = browser.open('file:///…/page.html', width=390, height=844, dark=True)
    tab.run('document.title')
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FLAGS = (
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--hide-scrollbars',
    '--disable-background-networking',
    '--disable-component-update',
    '--remote-debugging-port=0',
    '--remote-allow-origins=*',
)


def find_chromium():
    "Where a Chromium is, or None; the variable CHROMIUM names one."
    named = os.environ.get('CHROMIUM')
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def missing():
    "Why there is no browser here, None where there is one."
    if find_chromium() is None:
        return f'no Chromium found ({", ".join(NAMES)}; the variable CHROMIUM names another)'
    try:
        import websocket  # noqa: F401
    except ModuleNotFoundError:
        return 'websocket-client is not installed (pip install websocket-client)'
    return None


def connect(address):
    "A connection to a page or to the browser."
    import websocket

    return websocket.create_connection(address, timeout=120, suppress_origin=True)


def command(socket, number, method, given, hear=None):
    "A command of the debugging protocol and its answer; what comes in between is heard."
    socket.send(json.dumps({'id': number, 'method': method, 'params': given}))
    while True:
        message = json.loads(socket.recv())
        if message.get('id') == number:
            if 'error' in message:
                raise RuntimeError(f'{method}: {message["error"]["message"]}')
            return message['result']
        if hear:
            hear(message)


class Tab:
    "One page: `run` evaluates JavaScript, `send` is any command of the debugging protocol."

    def __init__(self, address):
        self.socket = connect(address)
        self.number, self.problems, self.requests = 0, [], []
        for domain in ('Page', 'Runtime', 'Network', 'Log'):
            self.send(f'{domain}.enable')

    def _hear(self, message):
        "Keep what goes wrong, and what is asked for."
        given = message.get('params', {})
        if message.get('method') == 'Runtime.exceptionThrown':
            details = given['exceptionDetails']
            text = details.get('exception', {}).get('description') or details['text']
            self.problems.append(text)
        if message.get('method') == 'Log.entryAdded' and given['entry']['level'] == 'error':
            self.problems.append(f'{given["entry"]["text"]} {given["entry"].get("url", "")}')
        if message.get('method') == 'Network.requestWillBeSent':
            self.requests.append(given['request']['url'])

    def send(self, method, **given):
        "A command and its answer."
        self.number += 1
        return command(self.socket, self.number, method, given, self._hear)

    def run(self, code):
        "The value of an expression; promises are waited for."
        asked = dict(expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        answer = self.send('Runtime.evaluate', **asked)
        if 'exceptionDetails' in answer:
            raise RuntimeError(answer['exceptionDetails'].get('exception', {}).get('description'))
        return answer['result'].get('value')

    def wait(self, condition, seconds=60):
        "Until an expression is true."
        until = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > until:
                raise TimeoutError(f'still not true after {seconds} s: {condition}')
            time.sleep(0.05)

    def view(self, width=1200, height=900, dark=False, sharp=1, touch=False):
        "The size and the colours of the window."
        size = dict(width=width, height=height, deviceScaleFactor=sharp, mobile=touch)
        self.send('Emulation.setDeviceMetricsOverride', **size)
        self.send('Emulation.setTouchEmulationEnabled', enabled=touch)
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.send('Emulation.setEmulatedMedia', features=[scheme])

    def go(self, url):
        "To an address, until it is loaded."
        self.send('Page.navigate', url=url)
        self.wait('location.href != "about:blank" && document.readyState == "complete"')

    def drag(self, points, shift=False):
        "The mouse pressed at the first of some points and drawn through the others."
        common = dict(button='left', buttons=1, modifiers=8 if shift else 0, clickCount=1)
        (x, y), *others = points
        self.send('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)
        self.send('Input.dispatchMouseEvent', type='mousePressed', x=x, y=y, **common)
        for x, y in others:
            self.send('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y, **common)
        self.send('Input.dispatchMouseEvent', type='mouseReleased', x=x, y=y, **common)

    def touch(self, points):
        "A finger put down at the first of some points and drawn through the others."
        for n, (x, y) in enumerate(points):
            kind = 'touchMove' if n else 'touchStart'
            self.send('Input.dispatchTouchEvent', type=kind, touchPoints=[{'x': x, 'y': y}])
        self.send('Input.dispatchTouchEvent', type='touchEnd', touchPoints=[])

    def press(self, key, code=None):
        "A key by its name."
        text = key if len(key) == 1 else ''
        common = dict(key=key, code=code or key, text=text)
        self.send('Input.dispatchKeyEvent', type='keyDown' if text else 'rawKeyDown', **common)
        self.send('Input.dispatchKeyEvent', type='keyUp', key=key, code=code or key)

    def picture(self, path, whole=True):
        "The page as a PNG."
        shown = self.send('Page.captureScreenshot', captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shown['data']))


class Chromium:
    "A browser with a profile of its own, ended and wiped when the block ends."

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix='asyncpatch-browser-')
        command = [find_chromium(), *FLAGS, f'--user-data-dir={self.folder.name}', 'about:blank']
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(command, **quiet)
        told, until = Path(self.folder.name) / 'DevToolsActivePort', time.monotonic() + 60
        while not (told.exists() and told.read_text().count('\n')):
            if self.process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise RuntimeError('Chromium did not start')
            time.sleep(0.05)
        port, self.path = told.read_text().split()
        self.port = int(port)
        self.tabs = []
        return self

    def open(self, url='about:blank', **view):
        "A new window at an address."
        if not self.tabs:
            self.control = connect(f'ws://127.0.0.1:{self.port}{self.path}')
        asked = dict(url='about:blank', newWindow=True)  # one that is seen, for animations
        target = command(self.control, 1, 'Target.createTarget', asked)['targetId']
        tab = Tab(f'ws://127.0.0.1:{self.port}/devtools/page/{target}')
        self.tabs.append(tab)
        tab.view(**view)
        if url != 'about:blank':
            tab.go(url)
        return tab

    def __exit__(self, *_):
        for tab in getattr(self, 'tabs', []):
            tab.socket.close()
        if hasattr(self, 'control'):
            self.control.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()
