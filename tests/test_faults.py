"""Trouble that users of other tools report, closed by kind: what is asked is done or refused.

Each test is the law behind one or more faults of an outside review, over everything of its kind.
"""

import os
from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image

import asyncpatch
from asyncpatch import commands
from asyncpatch.budgets import calls_of, knobs
from asyncpatch.cli import main, parser
from asyncpatch.conventions import as_generators
from asyncpatch.data import Images, digits
from asyncpatch.methods import METHODS
from asyncpatch.usage import UsageError, writable

ASKED = [name for name in METHODS if name not in ('supervised', 'biharmonic')]


def options_of(command):
    "Every option of a command with something to put behind it."
    found = parser()._subparsers._group_actions[0].choices[command]._actions
    for action in found:
        if action.option_strings and action.dest not in ('help', 'debug'):
            value = [] if action.nargs == 0 else [action.choices[0] if action.choices else '8']
            yield action.dest, [action.option_strings[0], *value]


MODES = [
    ('inpaint', [], [*commands.FOR_A_DIGIT, *commands.FOR_BOTH]),
    ('inpaint', ['picture.png'], [*commands.FOR_A_PICTURE, *commands.FOR_BOTH]),
    ('train', [], commands.BY_SCALE),
    ('train', ['--images', 'mine'], commands.BY_IMAGES),
    ('train', ['--config', 'imagenet64-60m', '--images', 'mine'], commands.BY_CONFIG),
]


@pytest.mark.parametrize('command, words, apply', MODES)
def test_an_option_that_does_not_apply_is_refused_by_name(command, words, apply, capsys, tmp_path):
    "No option vanishes, in any mode of any command; and no option is refused everywhere."
    others = [(name, typed) for name, typed in options_of(command) if name not in apply]
    assert others or command == 'sample'
    for name, typed in others:
        if name in ('config', 'images') and command == 'train':
            continue  # these choose the mode
        status = main([command, *words, *typed, '--out', str(tmp_path / 'out.png')])
        said = capsys.readouterr().err
        assert status == 2 and typed[0] in said and 'does not apply' in said, (name, said)
        assert len(said.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def test_every_option_applies_somewhere():
    for command in ('inpaint', 'train'):
        applying = {name for other, _, names in MODES if other == command for name in names}
        assert {name for name, _ in options_of(command)} <= applying


@pytest.mark.parametrize('name', ASKED)
def test_a_number_of_calls_reaches_every_method(name, monkeypatch):
    "The knobs that a method gets cost what was asked for, or a little less."
    seen = {}

    def record(denoiser, x, known, label=None, generator=None, **parameters):
        seen.update(parameters)
        return x

    record.__signature__ = signature(METHODS[name])
    monkeypatch.setitem(METHODS, name, record)
    model = asyncpatch.load('digits-asyncpatch')
    known = torch.ones(8, 8, dtype=torch.bool)
    known[2:5, 2:5] = False
    asyncpatch.inpaint(model, digits().held_out.x[0], known, name, calls=7)
    assert seen.keys() >= knobs(name).keys() and 3 < calls_of(name, seen) <= 7


def test_results_replace_ordinary_files_only(tmp_path):
    "Pipes, folders, links to them: refused, and still what they were."
    pipe, link, folder = tmp_path / 'pipe.png', tmp_path / 'link.png', tmp_path / 'folder.png'
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    folder.mkdir()
    for place in (pipe, link, folder):
        before = os.lstat(place).st_mode
        with pytest.raises(UsageError, match='--out must be an ordinary file'):
            writable(place, force=True)
        assert os.lstat(place).st_mode == before
    (tmp_path / 'old.png').touch()
    assert writable(tmp_path / 'old.png', force=True)  # the control


LABELS = [10, -2, [1, 2, 3], torch.tensor([10, 1]), [0.5, 1.5], 'three', True, [True, False]]
LABELS += [np.array([1.0, 2.0]), np.array([True, False]), np.float64(2), 2**70, [2**63, 1]]


@pytest.mark.parametrize('label', LABELS, ids=str)
def test_labels_are_looked_at_where_they_enter(label):
    model, known = asyncpatch.load('digits-asyncpatch'), torch.arange(8).expand(8, 8) < 4
    two = digits().held_out.x[:2]
    for ask in (
        lambda: asyncpatch.sample(model, n=2, label=label, calls=1),
        lambda: asyncpatch.inpaint(model, two, known, label=label, calls=1),
    ):
        with pytest.raises((TypeError, ValueError), match='label'):
            ask()
    right = [9, -1], (9, -1), np.array([9, -1]), np.array([9, -1], np.int8), torch.tensor([9, -1])
    first = asyncpatch.sample(model, n=2, label=right[0], calls=1)
    for same in right:  # the control
        assert torch.equal(asyncpatch.sample(model, n=2, label=same, calls=1), first)


@pytest.mark.parametrize('seed', [1.5, 'a', True, [0.5, 1], [True, 2], 2**70], ids=str)
def test_seeds_are_looked_at_where_they_enter(seed):
    model, known = asyncpatch.load('digits-asyncpatch'), torch.arange(8).expand(8, 8) < 4
    two = digits().held_out.x[:2]
    for ask in (
        lambda: asyncpatch.sample(model, n=2, seed=seed, calls=1),
        lambda: asyncpatch.inpaint(model, two, known, seed=seed, calls=1),
        lambda: as_generators(seed, 2),
    ):
        with pytest.raises((TypeError, ValueError), match='seed|generator'):
            ask()
    first = asyncpatch.sample(model, n=2, seed=5, calls=1)
    for same in ([5, 6], np.int64(5), np.array([5, 6]), torch.tensor([5, 6])):  # the control
        assert torch.equal(asyncpatch.sample(model, n=2, seed=same, calls=1), first)


TRAINED = dict(size=8, channels=1, width=4, steps=2, progress=False)


def test_training_looks_at_the_range_of_its_images_and_takes_any_precision(tmp_path):
    "[0, 255] and NaN are refused before anything is written, [0, 1] is remarked on."
    x, label = digits().train.x[:64], digits().train.label[:64]
    wrong = {'255': (x + 1) * 127.5, 'nan': torch.where(x > 0, torch.nan, x)}
    for name, values in wrong.items():
        with pytest.raises(ValueError, match='images must'):
            asyncpatch.train(Images(values, label), tmp_path / name, **TRAINED)
        assert not (tmp_path / name).exists()
    with pytest.warns(UserWarning, match='2 \\* images - 1'):
        asyncpatch.train(Images((x + 1) / 2, label), tmp_path / '01', **TRAINED)
    weights = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        made = asyncpatch.train(Images(x.to(dtype), label), tmp_path / str(dtype), **TRAINED)
        weights.append(torch.cat([p.flatten() for p in made.net.parameters()]))
    assert torch.equal(weights[0], weights[1]) and weights[2].isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_from_end_to_end(dtype):
    "Network in half precision, pictures in any: every method, and drawing."
    model = asyncpatch.load('digits-asyncpatch').to(dtype)
    x, known = digits().held_out.x[:2], (torch.arange(8) < 4).expand(2, 1, 8, 8)
    for given in (x, x.to(dtype)):
        for name in ASKED:
            filled = asyncpatch.inpaint(model, given, known, name, calls=4)
            assert filled.isfinite().all() and filled.dtype == given.dtype, name
            assert torch.equal(filled[..., :4], given[..., :4]), name
    assert asyncpatch.sample(model, n=2, calls=3).isfinite().all()


def test_ranges_and_bytes():
    "Bytes become the floats that they mean; floats in another range are refused or remarked on."
    model, known = asyncpatch.load('digits-asyncpatch'), torch.arange(8).expand(8, 8) < 4
    x = digits().held_out.x[0]
    as_bytes = ((x + 1) * 127.5).round().to(torch.uint8)
    filled = asyncpatch.inpaint(model, as_bytes, known, calls=4)
    same = asyncpatch.inpaint(model, as_bytes.float() / 127.5 - 1, known, calls=4)
    assert filled.dtype == torch.uint8 and torch.equal(filled[..., :4], as_bytes[..., :4])
    off = filled.float() / 127.5 - 1 - same.clamp(-1, 1)
    assert off.abs().max() <= 1 / 127.5
    with pytest.raises(ValueError, match=r'image must hold pictures in \[-1, 1\]'):
        asyncpatch.inpaint(model, as_bytes.float(), known, calls=4)
    with pytest.warns(UserWarning, match='2 \\* image - 1'):
        asyncpatch.inpaint(model, (x + 1) / 2, known, calls=1)
    with pytest.raises(TypeError, match='image must hold'):
        asyncpatch.inpaint(model, as_bytes.long(), known, calls=1)


def test_latents_are_decoded_everywhere():
    "A model of latents draws and fills in pictures, in pixels."
    model = asyncpatch.load('digits-latent-asyncpatch')
    assert asyncpatch.sample(model, n=2, calls=2).shape == (2, 1, 8, 8)
    known = torch.arange(8).expand(8, 8) < 4
    picture = Image.new('RGB', (19, 13), 'grey')
    wide = torch.arange(19).expand(13, 19) < 9
    assert asyncpatch.inpaint(model, digits().held_out.x[0], known, calls=2).shape == (1, 8, 8)
    answer = asyncpatch.inpaint(model, picture, wide, calls=2)
    assert (answer.size, answer.mode) == (picture.size, 'RGB')


def test_an_exact_oracle_is_a_model_like_any_other():
    model = asyncpatch.load('garments')
    x = asyncpatch.sample(model, n=2, label=3, seed=0, calls=5)
    known = torch.zeros(28, 28, dtype=torch.bool)
    known[:14] = True
    filled = asyncpatch.inpaint(model, x, known, label=3, calls=5)
    assert x.shape == (2, 1, 28, 28) and torch.equal(filled[..., known], x[..., known])
    with pytest.raises(ValueError, match='trained to inpaint'):
        asyncpatch.sample(asyncpatch.load('digits-supervised'), n=1)
