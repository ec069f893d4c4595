"""AsyncPatch Diffusion: train, sample and inpaint with a clock for every pixel.

    import asyncpatch

    model = asyncpatch.load('digits-asyncpatch')        # a model by its name, a file or a run
    images = asyncpatch.sample(model, n=16, label=3)    # from noise to data, a seed for each image
    filled = asyncpatch.inpaint(model, picture, known)  # PIL images, arrays, tensors; any size
    model = asyncpatch.train('my/pictures', 'runs/mine', size=32, minutes=30)

Everything else is in the modules, one for each page of the book: `asyncpatch.samplers`,
`asyncpatch.inpainting`, `asyncpatch.training` … The shell has the same: `asyncpatch --help`.
"""

__version__ = "0.0.1"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncpatch.api import inpaint, sample, train
    from asyncpatch.weights import load

__all__ = ['load', 'sample', 'inpaint', 'train']
_HOMES = {'load': 'weights', 'sample': 'api', 'inpaint': 'api', 'train': 'api'}


def __getattr__(name):
    "The functions of the root, imported when they are wanted (PEP 562): torch takes seconds."
    if name not in _HOMES:
        raise AttributeError(f"module 'asyncpatch' has no attribute {name!r}")
    return getattr(import_module(f'asyncpatch.{_HOMES[name]}'), name)


def __dir__():
    return sorted(__all__ + [name for name in globals() if name.startswith('__')])
