__version__ = "0.0.1"


def __getattr__(name):
    "`asyncpatch.load`, `.sample` and `.inpaint` without importing torch before they are wanted (PEP 562)."
    if name == 'load':
        from asyncpatch.weights import load
        return load
    if name == 'sample':
        from asyncpatch.samplers import sample
        return sample
    raise AttributeError(f"module 'asyncpatch' has no attribute {name!r}")
