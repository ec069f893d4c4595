"""Whatever is given in place of an argument, the error names that argument; nothing crashes."""

import inspect

import pytest
import torch

import asyncpatch
from asyncpatch.budgets import Price
from asyncpatch.guidance import ClassGuidance, InputGuidance
from asyncpatch.laws import logit_normal, perlin, synchronous
from asyncpatch.methods import METHODS
from asyncpatch.samplers import ddim_step, sample
from asyncpatch.schedules import rectified_flow
from asyncpatch.spatial import synchronous_maps as one_clock
from asyncpatch.weights import load
from asyncpatch.windows import Windowed

WORLD = load('garments14')
IMAGES = WORLD.sample(2, torch.Generator().manual_seed(0)).clamp(-1, 1)
KNOWN = torch.ones(14, 14, dtype=torch.bool)
KNOWN[4:8, 4:8] = False
SMALL = dict(
    points=5, levels=6, jump=2, resamples=2, travel=2, repeats=1, rounds=2, particles=2, inner=1
)


def told(*state):
    "A callback."


def input_guided(denoiser, weight, region, time, generator, noise, schedule):
    "Made and asked: what is per image can be looked at only then."
    guided = InputGuidance(denoiser, weight, region, time, generator, noise, schedule)
    return guided(IMAGES, 0.5 * torch.ones(2, 1, 14, 14), 3)


def cases():
    "Functions with arguments that they take."
    plan = dict(maps=one_clock(4), shape=(2, 1, 14, 14), x=IMAGES, label=3)
    how = dict(step=ddim_step, schedule=rectified_flow, callback=told)
    yield asyncpatch.load, dict(name='garments14', device='cpu')
    yield asyncpatch.sample, dict(model=WORLD, **plan, **how, n=2, seed=0, at_once=3)
    drawn = dict(label=3, seed=0, calls=3, price=Price(), at_once=3)
    yield asyncpatch.sample, dict(model=WORLD, n=2, order='together', **drawn)
    yield asyncpatch.inpaint, dict(model=WORLD, image=IMAGES, known=KNOWN, white=None, **drawn)
    yield sample, dict(denoiser=WORLD, **plan, **how, generator=0)
    yield ClassGuidance, dict(denoiser=WORLD, weight=2.0)
    asked = dict(region=~KNOWN, time=1.0, generator=None, noise=None, schedule=rectified_flow)
    yield input_guided, dict(denoiser=WORLD, weight=2.0, **asked)
    yield Windowed, dict(denoiser=WORLD, size=14, stride=7, batch=4)
    yield one_clock, dict(points=5, height=3, width=3)
    for law in (synchronous, logit_normal, perlin):
        yield law, dict(n=2, height=4, width=4, generator=None, t_min=0.0, t_max=1.0)
    for name, method in METHODS.items():
        if name not in ('supervised', 'biharmonic'):
            named = inspect.signature(method).parameters
            small = {key: value for key, value in SMALL.items() if key in named}
            posed = dict(denoiser=WORLD, x=IMAGES, known=KNOWN, label=3, generator=0)
            yield method, dict(**posed, schedule=rectified_flow, **small)


def parameters(function):
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


NOTHING_IS = [object(), 'no such thing', [], {}, float('nan')]
NOT_ASKED = {  # anything is true or false; torch refuses what is no device
    *(('sample', 'progress'), ('inpaint', 'progress'), ('perlin', 'per_pixel')),
    *((law.__name__, 'device') for law in (synchronous, logit_normal, perlin)),
}


@pytest.mark.parametrize('case', list(cases()), ids=lambda case: case[0].__name__)
def test_the_error_names_the_argument(case):
    function, given = case
    function(**given)
    for name in parameters(function):
        if (function.__name__, name) in NOT_ASKED:
            continue
        for wrong in NOTHING_IS:
            with pytest.raises((TypeError, ValueError, FileNotFoundError)) as caught:
                function(**{**given, name: wrong})
            assert name in str(caught.value), f'{name}={wrong!r}: {caught.value}'


def test_one_that_does_not_look_is_found_out():
    "The negative control: a function that looks at one of its two arguments."

    def careless(count, height):
        if not isinstance(count, int):
            raise TypeError(f'count must be a whole number, got {count!r}')
        return torch.zeros(count, height)

    with pytest.raises(AssertionError, match='height='):
        test_the_error_names_the_argument((careless, dict(count=1, height=1)))


CONTRADICTIONS = {
    'n': dict(n=3, shape=(1, 1, 14, 14)),
    'shape': dict(shape=(1, 14, 14)),
    'x': dict(x=IMAGES, calls=2),
    'calls': dict(calls=2, maps=one_clock(3)),
    'order': dict(order='raster', maps=one_clock(3)),
    'seed': dict(n=3, seed=[1, 2]),
    'label': dict(n=3, label=[1, 2]),
    'at_once': dict(at_once=0, calls=2),
    'maps': dict(maps=torch.linspace(1, 0, 3)),
}


@pytest.mark.parametrize('name', CONTRADICTIONS)
def test_what_contradicts_is_not_chosen_from(name):
    with pytest.raises(ValueError, match='shape must fit 3 images' if name == 'n' else name):
        asyncpatch.sample(WORLD, **CONTRADICTIONS[name])


def test_a_bright_picture_of_bytes_is_no_picture_made_for_other_numbers(recwarn):
    "Whole numbers have the range of their type; floats in [0, 1] are remarked on."
    bright = torch.full((1, 14, 14), 220, dtype=torch.uint8)
    bright[..., 3] = 250
    asyncpatch.inpaint(WORLD, bright, KNOWN, calls=2)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r'image should hold pictures in \[-1, 1\]'):
        asyncpatch.inpaint(WORLD, bright / 255, KNOWN, calls=2)


def test_a_device_that_is_not_here_is_not_a_damaged_file():
    with pytest.raises(ValueError, match='^device must be a device of this machine'):
        load('garments14', 'cuda:63')
