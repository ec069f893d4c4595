"""A device that this machine does not have, pretended: its tensors compute on the CPU, but meet
others of their own kind only, as on a GPU."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class Backend:
    "What torch asks of the module of a device."

    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    is_in_bad_fork = _is_in_bad_fork = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])


_setup_privateuseone_for_python_backend('pretend', Backend)
DEVICE = torch.device('pretend:0')
MOVES = ('_to_copy', 'copy_', '_copy_from')  # what may read from one device and write to another
BY_PLACES = ('index', 'index_put_', 'index_put')  # may take indices that lie on the CPU


class Elsewhere(torch.Tensor):
    "A tensor that says it is on the pretended device."

    @staticmethod
    def __new__(cls, inner):
        about = dict(strides=inner.stride(), dtype=inner.dtype, layout=inner.layout, device=DEVICE)
        about['storage_offset'] = inner.storage_offset()
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, **about)

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f'Elsewhere({self.inner})'

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, **how):
        raise TypeError(f"can't convert a tensor of {DEVICE} to numpy")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


class Generator(torch.Generator):
    "Random numbers of the device that is asked for."

    def __new__(cls, device='cpu'):
        made = super().__new__(cls, 'cpu')
        made.where = torch.device(device)
        return made

    @property
    def device(self):
        return self.where


def is_ours(device):
    return device is not None and torch.device(device).type == DEVICE.type


def check_together(function, args, kwargs):
    "What a GPU would refuse: tensors of two devices, unless one is a single number."
    name = function.overloadpacket.__name__
    given, _ = tree_flatten((args, kwargs))
    tensors = [v for v in given if isinstance(v, torch.Tensor)]
    ours = is_ours(kwargs.get('device')) or any(isinstance(v, Elsewhere) for v in tensors)
    if not ours or name in MOVES:
        return ours
    strangers = [v for v in tensors if not isinstance(v, Elsewhere) and v.ndim]
    if name in BY_PLACES:
        strangers = [v for v in strangers if v is args[0] or v is args[-1] and name != 'index']
    if strangers:
        shapes = ', '.join(str(tuple(v.shape)) for v in strangers)
        raise RuntimeError(f"{name}: expected all tensors on {DEVICE}, found {shapes} on the CPU")
    return ours


def dispatched(function, args, kwargs):
    "One operation, computed by the CPU."
    ours = check_together(function, args, kwargs)
    if 'device' in kwargs and kwargs['device'] is not None:
        ours = is_ours(kwargs['device'])
        kwargs = {**kwargs, 'device': torch.device('cpu')}

    def inside(value):
        return value.inner if isinstance(value, Elsewhere) else value

    wrapped = {id(v.inner): v for v in tree_flatten((args, kwargs))[0] if isinstance(v, Elsewhere)}
    function_of_cpu = function(*tree_map(inside, args), **tree_map(inside, kwargs))

    def outside(value):
        if not isinstance(value, torch.Tensor) or isinstance(value, Elsewhere):
            return value
        return wrapped.get(id(value)) if id(value) in wrapped else Elsewhere(value)

    if function.overloadpacket.__name__ == 'copy_' and not isinstance(args[0], Elsewhere):
        return args[0]
    return tree_map(outside, function_of_cpu) if ours else function_of_cpu


NUMBERS = torch.library.Library('aten', 'IMPL')  # where torch makes tensors without asking a mode


def empty_there(size, stride=None, dtype=None, layout=None, device=None, pin_memory=None):
    dtype = dtype or torch.get_default_dtype()
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype, device='cpu'))


def copy_there(source, destination, non_blocking=False):
    inside = [v.inner if isinstance(v, Elsewhere) else v for v in (source, destination)]
    inside[1].copy_(inside[0])
    return destination


NUMBERS.impl('empty_strided', empty_there, 'PrivateUse1')
NUMBERS.impl('_copy_from', copy_there, 'PrivateUse1')


class Operations(TorchDispatchMode):
    "Every operation on the device, those that make tensors too."

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


class Streams(TorchFunctionMode):
    "Random numbers come from a generator of the device where they go."

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        stream = kwargs.get('generator')
        if isinstance(stream, Generator):
            place = kwargs.get('device') or getattr(args[0], 'device', 'cpu')
            if is_ours(place) != is_ours(stream.device):
                raise RuntimeError(f'expected a generator of {place}, got one of {stream.device}')
        return function(*args, **kwargs)


@contextmanager
def pretended():
    "While it is active, `DEVICE` is there, with random numbers of its own."
    made, torch.Generator = torch.Generator, Generator
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Operations(), Streams():
            yield
    finally:
        torch.Generator = made
        torch.__future__.set_overwrite_module_params_on_conversion(False)
