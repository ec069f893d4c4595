"The playground in a browser and in Node: its arithmetic against the package's, and painting on it."

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch

from asyncpatch import playground
from asyncpatch.adaptive import Accelerated, head_uncertainty
from asyncpatch.cli import main
from asyncpatch.garments import garments
from asyncpatch.guidance import ClassGuidance, InputGuidance
from asyncpatch.play_server import PlayServer
from asyncpatch.playground import WEB, page, painted
from asyncpatch.samplers import ddim_update
from asyncpatch.spatial import raster
from asyncpatch.unet import UNet
from asyncpatch.weights import load, save

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import browser

WEIGHTS = ROOT / 'asyncpatch/weights'
RESIDUAL = dict(
    channels=3,
    base=16,
    multipliers=(1, 2, 3),
    blocks=(1, 2, 1),
    middle=2,
    attention=(1, 2),
    classes=5,
    resampling='residual',
    rope=True,
    head_width=16,
)
NEAREST = dict(
    base=8,
    multipliers=(1, 1),
    blocks=(2, 1),
    attention=(0,),
    embedding=12,
    reduction='nearest',
    condition=2,
    outputs=3,
    head_width=4,
)


# -- the questions, and the package's answers ----------------------------------------------------


def rows(x):
    "Images as the page has them: a row of (H, W, C) numbers for each."
    return None if x is None else x.movedim(1, -1).flatten(1).tolist()


def fields(images, size, generator):
    "Times all over [0, 1]: one for all pixels, halves known and unknown, of each pixel its own."
    t = torch.rand(images, 1, size, size, generator=generator)
    t[0] = 0.5
    t[1, ..., : size // 2], t[1, ..., size // 2 :] = 0, 1
    return t


def case(kind, file, answers, z, t, label, condition=None):
    "One question, as JSON."
    told = dict(kind=kind, file=base64.b64encode(Path(file).read_bytes()).decode())
    told |= dict(z=rows(z), t=rows(t), label=label, condition=rows(condition))
    return told | {name: rows(value) for name, value in answers.items()}


def oracle_case(generator):
    "Exact posterior means and variances, with a class and without."
    world, label = garments('garments14', torch.float64), [0, 3, -1, 9]
    classes = torch.tensor(label)
    x = world.sample(4, generator, classes.clamp(min=0))
    t = fields(4, 14, generator).double()
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    z = ((1 - t) * x + t * noise).float().double()
    mean, variance = world(z, t, classes), world.posterior_variance(z, t, classes)
    return case(
        'oracle',
        WEIGHTS / 'garments14.safetensors',
        dict(mean=mean, variance=variance),
        z,
        t,
        label,
    )


@torch.no_grad()
def network_case(name, size, generator):
    "Posterior means of a shipped network."
    file, label = WEIGHTS / f'{name}.safetensors', [0, 3, -1]
    z, t = torch.randn(3, 1, size, size, generator=generator), fields(3, size, generator)
    return case('mean', file, dict(mean=load(file)(z, t, torch.tensor(label))), z, t, label)


@torch.no_grad()
def other_network_case(folder, config, generator):
    "The prediction of a network of another build, with all its parts in use."
    net = UNet(**config)
    for p in net.parameters():
        p.add_(0.15 * torch.randn(p.shape, generator=generator))
    file = save(folder / f'{net.channels}.safetensors', net, size=16)
    z, t = torch.randn(2, net.channels, 16, 16, generator=generator), fields(2, 16, generator)
    condition = (
        torch.randn(2, net.condition, 16, 16, generator=generator) if net.condition else None
    )
    label = [3, -1] if net.classes else [-1, -1]
    said = net(z, t, torch.tensor(label) if net.classes else None, condition)
    return case('run', file, dict(said=said), z, t, label, condition)


@torch.no_grad()
def guided_case(generator):
    "Class and input guidance together, with the noise of the guide given; the first has none."
    model, size = load('digits-asyncpatch-0'), 8
    z, noise = torch.randn(2, 3, 1, size, size, generator=generator)
    t, label = fields(3, size, generator), [4, 3, 7]
    t[2, ..., ::2] = 0
    told = case('guided', WEIGHTS / 'digits-asyncpatch-0.safetensors', {}, z, t, label)
    asked = ClassGuidance(model, 1.5)
    mean = InputGuidance(asked, 2.0, noise=noise)(z, t, torch.tensor(label))
    plain = asked(z, t, torch.tensor(label))
    moved = (mean - plain).abs().amax((1, 2, 3))
    assert moved[0] < 1e-5 and moved[1:].min() > 0.01  # one clock leaves nothing to guide by
    return told | dict(noise=rows(noise), mean=rows(mean))


def step_case(generator):
    "Steps from many times to earlier ones, some of them to 0 and some to where they are."
    z, x0, noise = torch.randn(3, 1, 1, 8, 8, generator=generator)
    t = fields(2, 8, generator)[1:]
    t = torch.where(torch.rand(t.shape, generator=generator) < 0.5, torch.rand_like(t), t)
    s = t * torch.rand(t.shape, generator=generator)
    s[..., :2, :], s[..., 2:4, :] = 0, t[..., 2:4, :]
    moved = ddim_update(z, x0, t, s, noise)
    told = dict(z=z, x0=x0, t=t, s=s, noise=noise, moved=moved)
    return dict(kind='step', **{name: rows(value)[0] for name, value in told.items()})


def plan_case(generator):
    "A painted plan."
    start, turn = torch.rand(5, 7, generator=generator), raster(5, 7, 2) / 11
    maps = painted(start, turn, 0.3, 9)
    told = dict(start=start.flatten().tolist(), turn=turn.flatten().tolist(), share=0.3)
    return dict(kind='plan', **told, maps=maps.flatten(1).tolist())


@torch.no_grad()
def hurried_case(generator):
    "One step of the plan in which certain pixels hurry, by the network that knows its errors."
    model, head = load('digits-asyncpatch-0'), load('digits-head-0')
    z, t = torch.randn(1, 1, 8, 8, generator=generator), torch.ones(1, 1, 8, 8)
    t[..., :3] = 0
    uncertainty = head_uncertainty(getattr(head, 'net', head), model)
    plan = Accelerated(uncertainty, 8, 8, calls=10, label=4)
    plan.first = t
    plan(0, None, None)
    told = case('hurried', WEIGHTS / 'digits-asyncpatch-0.safetensors', {}, z, t, [4])
    told['head'] = base64.b64encode((WEIGHTS / 'digits-head-0.safetensors').read_bytes()).decode()
    return told | dict(
        variance=rows(uncertainty(z, t, torch.tensor([4]))), s=rows(plan(1, z, None))
    )


@pytest.fixture(scope='module')
def cases(tmp_path_factory):
    "Every question with its answer."
    folder, generator = tmp_path_factory.mktemp('nets'), torch.Generator().manual_seed(0)
    found = {
        'oracle': oracle_case(generator),
        'digits': network_case('digits-asyncpatch-0', 8, generator),
        'fashion': network_case('fashion-asyncpatch-0', 28, generator),
        'residual': other_network_case(folder, RESIDUAL, generator),
        'nearest': other_network_case(folder, NEAREST, generator),
        'guided': guided_case(generator),
        'step': step_case(generator),
        'plan': plan_case(generator),
        'hurried': hurried_case(generator),
    }
    return json.dumps(found)


ASK = """
function errors(cases) {
  const A = AsyncPatch, floats = x => x && Float32Array.from(x), found = {};
  const far = (a, b) => b.reduce((worst, v, i) => Math.max(worst, Math.abs(v - a[i])), 0);
  const answers = {
    oracle: (m, c, i) => {
      const { mean, variance } = m.answer(c.z[i], c.t[i], c.label[i], true);
      return Math.max(far(mean, c.mean[i]), far(variance, c.variance[i]));
    },
    mean: (m, c, i) => far(m.posteriorMean(floats(c.z[i]), floats(c.t[i]), c.label[i]), c.mean[i]),
    run: (m, c, i) => far(m.run(floats(c.z[i]), floats(c.t[i]), c.label[i],
      c.condition && floats(c.condition[i])), c.said[i]),
    guided: (m, c, i) => far(A.guided(m, floats(c.z[i]), floats(c.t[i]), c.label[i], 1.5, 2,
      () => floats(c.noise[i])), c.mean[i]),
    hurried: (m, c, i) => {
      m.withHead(A.load(A.decode(c.head)));
      const variance = m.posteriorVariance(floats(c.z[i]), floats(c.t[i]), c.label[i]);
      const s = A.hurried(floats(c.t[i]), variance, 10);
      return Math.max(far(variance, c.variance[i]), far(s, c.s[i]));
    },
  };
  for (const [name, c] of Object.entries(cases)) {
    if (c.kind === 'step')
      found[name] = far(A.update(...[c.z, c.x0, c.t, c.s, c.noise].map(floats)), c.moved);
    else if (c.kind === 'plan')
      found[name] = Math.max(...c.maps.map((map, i) => far(
        A.timesAt(floats(c.start), floats(c.turn), c.share, i / (c.maps.length - 1)), map)));
    else {
      const model = A.load(A.decode(c.file));
      found[name] = Math.max(...c.z.map((_, i) => answers[c.kind](model, c, i)));
    }
  }
  return found;
}
"""


def check(found):
    "Every answer within 1e-4 of the package's; most are far closer."
    assert set(found) == {
        *'oracle digits fashion residual nearest guided step plan hurried'.split()
    }
    assert {name: error for name, error in found.items() if not error < 1e-4} == {}


# -- Node ----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which('node') is None, reason='no node found')
def test_node_gives_the_answers_of_the_package(cases, tmp_path):
    (tmp_path / 'cases.json').write_text(cases)
    script, data = (json.dumps(str(f)) for f in (WEB / 'playground.js', tmp_path / 'cases.json'))
    script = f"""const AsyncPatch = require({script}), fs = require('fs');
    const cases = JSON.parse(fs.readFileSync({data}));
    {ASK}
    console.log(JSON.stringify(errors(cases)));
    cases.digits.mean[0][0] += 1e-3;
    console.log(JSON.stringify(errors({{ digits: cases.digits }})));"""
    (tmp_path / 'ask.js').write_text(script)
    done = subprocess.run(['node', tmp_path / 'ask.js'], capture_output=True, text=True, check=True)
    found, spoilt = map(json.loads, done.stdout.splitlines())
    check(found)
    assert spoilt['digits'] > 5e-4  # the comparison sees an error that is put in


@pytest.mark.skipif(shutil.which('node') is None, reason='no node found')
def test_noise_of_the_page_is_standard_normal():
    script = f"""const {{ Normals }} = require({json.dumps(str(WEB / 'playground.js'))});
    console.log(JSON.stringify([0, 1, 2].map(seed => [...new Normals(seed).fill(20000)])));"""
    done = subprocess.run(['node', '-e', script], capture_output=True, text=True, check=True)
    x = torch.tensor(json.loads(done.stdout), dtype=torch.float64)
    n = x.shape[1]
    for moment, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = ((x**moment).mean(1) - expected).abs() / (spread / n) ** 0.5
        assert error.max() < 4.5
    assert (torch.corrcoef(x) - torch.eye(3)).abs().max() < 4.5 / n**0.5
    inside = (x[:, 1:] * x[:, :-1]).mean(1)
    assert inside.abs().max() < 4.5 / n**0.5


# -- the browser ---------------------------------------------------------------------------------

PLAY = 'document.getElementById("playground").playground'
needs_browser = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


@pytest.fixture(scope='module')
def chromium():
    with browser.Chromium() as running:
        yield running


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'page.html'
    path.write_text(page(), encoding='utf-8')
    return path


@pytest.fixture
def tab(chromium, file):
    opened = chromium.open(file.as_uri(), width=1200, height=1400)
    opened.run(f'{PLAY}.ready')
    return opened


def choose(tab, **values):
    "Sliders of the page, moved as a hand would."
    for name, value in values.items():
        slider = f'{PLAY}.$("{name}")'
        tab.run(f'{slider}.value = {value}; {slider}.dispatchEvent(new Event("input"))')


def box(tab, name):
    "Left, top, width and height of something on the screen."
    code = f'(() => {{ const b = {PLAY}.$("{name}").getBoundingClientRect();'
    return tab.run(code + ' return [b.left, b.top, b.width, b.height]; })()')


def place(tab, board, row, column):
    "Where a pixel of a board is on the screen."
    left, top, width, height = box(tab, board)
    rows, columns = tab.run(f'[{PLAY}.model.height, {PLAY}.model.width]')
    return left + (column + 0.5) * width / columns, top + (row + 0.5) * height / rows


def press(tab, name):
    "A button, clicked where it is."
    left, top, *_ = box(tab, name)
    tab.drag([(left + 5, top + 5)])


def finish(tab):
    tab.wait(f'{PLAY}.run.done && !{PLAY}.playing', 120)


def now(tab, what):
    "Something of the frame that is shown, as a tensor."
    return torch.tensor(tab.run(f'Array.from({what})'))


@needs_browser
def test_chromium_gives_the_answers_of_the_package(tab, cases):
    tab.run(ASK + f'globalThis.found = errors({cases}); 0')
    check(tab.run('found'))


@needs_browser
def test_paint_press_wait(tab):
    "Erase by hand, generate, and look: what was known is as it was, what was missing is filled."
    tab.run(f'{PLAY}.mask("nothing missing")')
    choose(tab, calls=12, many=2)
    before = now(tab, f'{PLAY}.x')
    assert now(tab, f'{PLAY}.start').sum() == 0
    tab.drag([place(tab, 'picture', 4, column) for column in range(2, 11)])
    missing = now(tab, f'{PLAY}.start') > 0
    assert 15 < missing.sum() < 45 and missing.view(14, 14)[4, 2:11].all()
    noise = now(tab, f'{PLAY}.run.frames[0].z[0]')
    assert torch.equal(noise[~missing], before[~missing])
    assert (noise[missing] - before[missing]).abs().mean() > 0.5
    press(tab, 'play')
    finish(tab)
    first, second = (now(tab, f'{PLAY}.run.frames.at(-1).z[{n}]') for n in (0, 1))
    for draw in (first, second):
        assert torch.equal(draw[~missing], before[~missing])
        assert not torch.isclose(draw[missing], noise[missing]).any()
        assert (draw[missing] - before[missing]).abs().mean() < 0.4  # a shirt goes on as a shirt
    assert not torch.equal(first, second)
    assert now(tab, f'{PLAY}.run.frames.at(-1).t[0]').abs().max() == 0
    assert tab.run(f'{PLAY}.$("said").textContent').startswith('Finished after 12 calls')
    assert tab.problems == []
    assert all(url.startswith('file:') for url in tab.requests) and len(tab.requests) == 1


@needs_browser
def test_brush_value_shift_and_turns(tab):
    tab.run(f'{PLAY}.mask("everything")')
    choose(tab, value=0.5, width=1)
    tab.drag([place(tab, 'clocks', 2, 3)])
    assert now(tab, f'{PLAY}.start').view(14, 14)[2, 3] == 0.5
    tab.drag([place(tab, 'clocks', 2, 4), place(tab, 'clocks', 2, 8)], shift=True)
    assert (now(tab, f'{PLAY}.start').view(14, 14)[2, 4:9] == 0).all()
    choose(tab, turn=1, width=3)
    tab.drag([place(tab, 'turns', 7, 7)])
    assert tab.run(f'{PLAY}.settings.order') == 'painted'
    turn = now(tab, f'{PLAY}.turns()').view(14, 14)
    assert turn[6:9, 7].eq(1).all() and turn[0, 0] == 0
    choose(tab, overlap=0, calls=10)
    tab.run(f'{PLAY}.step()')
    t = now(tab, f'{PLAY}.run.frames[1].t[0]').view(14, 14)
    assert t[7, 7] == 1 and abs(t[0, 0] - 0.8) < 1e-6  # two turns, of five calls each


@needs_browser
def test_keyboard(tab):
    tab.run(
        f'{PLAY}.mask("nothing missing"); {PLAY}.$("width").value = 1; {PLAY}.$("picture").focus()'
    )
    tab.run(f'{PLAY}.brush.cell = [0, 0]')
    for key in ('ArrowDown', 'ArrowRight', 'ArrowRight'):
        tab.press(key)
    tab.press(' ', 'Space')
    start = now(tab, f'{PLAY}.start').view(14, 14)
    assert start.sum() == 1 and start[1, 2] == 1
    assert tab.run(f'{PLAY}.$("said").textContent') == 'row 2, column 3: missing'
    choose(tab, calls=3)
    tab.press('p')
    finish(tab)
    assert tab.run(f'{PLAY}.frame') == 3
    tab.press('r')
    assert tab.run(f'{PLAY}.frame') == 0
    tab.press('n')
    tab.wait(f'{PLAY}.frame == 1')


@needs_browser
@pytest.mark.parametrize('order', ['rows', 'inside out', 'random', 'easy first'])
def test_orders_and_the_digits_network(tab, order):
    tab.run(f'{PLAY}.choose("digits-asyncpatch-0")')
    tab.run(f'{PLAY}.reorder("{order}")')
    choose(tab, calls=8, many=1, guidance=1)
    before = now(tab, f'{PLAY}.x')
    press(tab, 'play')
    finish(tab)
    count = tab.run(f'{PLAY}.run.frames.length')
    t = torch.stack([now(tab, f'{PLAY}.run.frames[{i}].t[0]') for i in range(count)])
    assert (t[1:] <= t[:-1]).all() and t[-1].abs().max() == 0 and count <= 9
    middle = t[count // 2].view(8, 8)
    assert len(middle[:, 4:].unique()) > 1 and middle[:, :4].abs().max() == 0
    after = now(tab, f'{PLAY}.run.frames.at(-1).z[0]')
    known = t[0] == 0
    assert torch.equal(after[known], before[known]) and after.isfinite().all()
    assert tab.problems == []


@needs_browser
def test_input_guidance_moves_what_is_missing_and_nothing_else(tab):
    "The slider: known pixels stay, the noise of the draws is the same, the fill is another."
    filled = []
    for weight in (0, 3):
        tab.run(f'{PLAY}.mask("right half")')
        choose(tab, calls=8, many=1, input=weight)
        press(tab, 'play')
        finish(tab)
        filled.append(now(tab, f'{PLAY}.run.frames.at(-1).z[0]'))
    missing = now(tab, f'{PLAY}.start') > 0
    assert 0 < missing.sum() < missing.numel()
    assert torch.equal(filled[0][~missing], filled[1][~missing])
    assert (filled[0] - filled[1])[missing].abs().max() > 0.05


@needs_browser
def test_a_file_that_is_no_picture_is_refused(tab):
    before = now(tab, f'{PLAY}.x')
    for content, kind in (('hello', 'text/plain'), ('hello', 'image/png')):
        tab.run(f'{PLAY}.own(new File(["{content}"], "a", {{ type: "{kind}" }}))')
        assert 'the file must be a picture' in tab.run(f'{PLAY}.$("error").textContent')
        assert torch.equal(now(tab, f'{PLAY}.x'), before)
    white = f"""new Promise(done => {{ const c = document.createElement('canvas');
      [c.width, c.height] = [30, 20]; c.getContext('2d').fillStyle = '#fff';
      c.getContext('2d').fillRect(0, 0, 30, 20);
      c.toBlob(blob => {PLAY}.own(
        new File([blob], 'a.png', {{ type: blob.type }})).then(done)); }})"""
    tab.run(white)
    assert (now(tab, f'{PLAY}.x') == 1).all() and tab.run(f'{PLAY}.$("error").hidden')


@needs_browser
@pytest.mark.parametrize('dark', [False, True])
def test_phone_touch_and_names(chromium, file, dark):
    "At the width of a phone nothing sticks out, a finger paints, and every control has a name."
    tab = chromium.open(file.as_uri(), width=360, height=800, dark=dark, touch=True)
    tab.run(f'{PLAY}.ready')
    assert tab.run('document.documentElement.scrollWidth') <= 360
    assert tab.run(f'{PLAY}.host.dataset.theme') == ('dark' if dark else 'light')
    tab.run(f'{PLAY}.mask("nothing missing"); {PLAY}.$("picture").scrollIntoView()')
    tab.touch([place(tab, 'picture', 3, column) for column in (3, 5, 7)])
    assert now(tab, f'{PLAY}.start').view(14, 14)[3, 3:8].all()
    nameless = tab.run(f"""[...{PLAY}.root.querySelectorAll('button, input, select, [tabindex]')]
      .filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))
      .map(e => e.outerHTML)""")
    assert nameless == []


@needs_browser
def test_two_users_of_a_server_at_once(chromium):
    "Models of Python, asked by two pages at once: each gets what it would get alone."
    server = PlayServer({'world': garments('garments14')})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        tabs = [chromium.open(server.url) for _ in range(2)]
        for n, tab in enumerate(tabs):
            tab.run(f'{PLAY}.ready')
            tab.run(f'{PLAY}.settings.seed = {10 * n + 1}')
            choose(tab, calls=6)
        alone = []
        for together in (False, True):
            for tab in tabs:
                tab.run(f'{PLAY}.changed(); {PLAY}.play(); 0')
                if not together:
                    finish(tab)
            for tab in tabs:
                finish(tab)
            alone.append([now(tab, f'{PLAY}.run.frames.at(-1).z[0]') for tab in tabs])
        assert torch.equal(alone[0][0], alone[1][0]) and torch.equal(alone[0][1], alone[1][1])
        assert not torch.equal(*alone[0])
        for tab, x in zip(tabs, alone[0]):
            known = now(tab, f'{PLAY}.start') == 0
            assert torch.equal(x[known], now(tab, f'{PLAY}.x')[known])
            assert tab.problems == []
        tabs[0].run(f'{PLAY}.own(new File(["hello"], "a.png", {{ type: "image/png" }}))')
        assert 'picture must be an image' in tabs[0].run(f'{PLAY}.$("error").textContent')
        foreign = chromium.open('data:text/html,<p>elsewhere')
        code = f'fetch("{server.url}run", {{ method: "POST", mode: "no-cors", body: "{{}}" }})'
        code += '.then(r => r.type, e => "refused")'
        assert foreign.run(code) in ('opaque', 'refused')
    finally:
        server.shutdown()
        server.server_close()


FAKE = """
globalThis.widget = async (script, state) => {
  const url = URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));
  const { default: { render } } = await import(url), heard = [];
  const bytes = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  for (const name of Object.keys(state.files)) state.files[name] = bytes(state.files[name]);
  const model = { state, sent: [], get: name => state[name], save_changes() {},
    set: (name, value) => { state[name] = value; }, on: (_, hear) => heard.push(hear), off() {},
    send: message => model.sent.push(message),
    reply: (told, parts) => heard.forEach(hear => hear(told, parts.map(bytes))) };
  const el = document.body.appendChild(document.createElement('div'));
  render({ model, el });
  await el.firstChild.playground.ready;
  Object.assign(globalThis, { model, play: el.firstChild.playground });
};"""


@needs_browser
def test_the_widget_of_a_notebook(chromium):
    "With files as bytes it plays by itself; a model of Python it asks, and shows the answer."
    pytest.importorskip('anywidget')
    world = garments('garments14')
    for model in (None, world):
        shown = playground.play(model)
        tab = chromium.open()
        tab.run(FAKE)
        files = {name: base64.b64encode(content).decode() for name, content in shown.files.items()}
        state = json.dumps(dict(options=shown.options, files=files))
        tab.run(f'widget({json.dumps(shown._esm)}, {state})')
        tab.run('play.$("calls").value = 4; play.changed(); play.play(); 0')
        if model is not None:
            tab.wait('model.sent.length == 1')
            asked = playground.question(tab.run('model.sent[0].question'), world)
            frames = playground.compute_frames(world, asked)
            told = dict(kind='frames', id=tab.run('model.sent[0].id'))
            told |= {name: list(value.shape) for name, value in frames.items()}
            parts = [playground.as_text(value) for value in frames.values()]
            tab.run(f'model.reply({json.dumps(told)}, {json.dumps(parts)})')
        tab.wait('play.run.done && !play.playing && play.frame == 4')
        final = now(tab, 'play.run.frames.at(-1).z[0]')
        if model is not None:
            assert torch.equal(final, frames['z'][-1, 0].flatten())
        plan = tab.run('model.state.plan')
        maps = playground.maps_of(plan)
        assert maps.shape == (5, 1, 1, 14, 14) and maps[0, ..., 7:].min() == 1
        assert torch.equal(maps[0].flatten(), now(tab, 'play.start'))
        assert tab.problems == []


# -- the command -----------------------------------------------------------------------------------


def test_the_command_writes_a_page_and_serves_until_interrupted(tmp_path):
    "`asyncpatch play`: its address on standard output, a model and a picture, an orderly end."
    start = 'import sys; from asyncpatch.cli import main; sys.exit(main())'
    picture = ROOT / 'figures/digits/fig01.png'
    given = ['play', '--quiet', '--model', 'digits-asyncpatch', '--images', picture]
    with subprocess.Popen(
        [sys.executable, '-c', start, *map(str, given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url = process.stdout.readline().strip()
        with urlopen(url) as reply:
            html = reply.read().decode()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and said == 'the playground is closed\n'
    told = re.search(r'asyncpatchOptions = (.*);', html)[1]
    own = json.loads(told)['models'][0]
    assert own['title'] == 'digits-asyncpatch (8 × 8)' and own['pictures']['labels'][0] == -1
    assert main(['play', '--out', str(tmp_path / 'page.html')]) == 0
    assert (tmp_path / 'page.html').read_text(encoding='utf-8') == page()
    assert main(['play', '--out', str(tmp_path / 'page.html')]) == 2
    assert main(['play', '--model', 'nowhere', '--quiet']) == 2
