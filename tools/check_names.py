"""Fail where a public name has two homes, or an argument another meaning than its name has here.

    python tools/check_names.py                  the check of `make test`
    python tools/check_names.py --list NAME …    every public argument of these names, and its words

A name has two homes when two modules export it, or when one module exports the name of another.
Arguments are looked at by annotation and comment, in public functions, methods and fields.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / 'asyncpatch'

TWO_HOMES = {  # why they may
    'sample': '`asyncpatch.sample` is the front door of `samplers.sample`',
    'train': '`asyncpatch.train` is the front door of `training.train`',
}

ARGUMENTS = {  # name: pattern of the annotation, pattern of the comment
    'calls': (r'int|float', r'of the (network|model)'),
    'generator': (r'torch\.Generator|Generators|Seeds', r''),
    'known': (r'Tensor|object', r'True where'),
    'maps': (r'TimeMaps|Tensor', r'maps|an array|the plan|times of every point'),
    'points': (r'int|Tensor', r''),
    'schedule': (r'NoiseSchedule', r'own|\(alpha, sigma\)|denoiser|not used'),
    'steps': (r'int', r'of the optimiser'),
    't': (r'Tensor', r'\btimes?\b'),
}


def exported(source):
    "The names in `__all__` of a module."
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__':
            return list(ast.literal_eval(node.value))
    return []


def two_homes(modules):
    "Of {module: source}: {name: modules}, for names that two export or that are another's name."
    homes = {}
    for module, source in modules.items():
        for name in exported(source):
            homes.setdefault(name, []).append(module)
    for name, found in homes.items():
        if name in modules and found != [name]:
            found.append(f'the module {name}')
    return {name: found for name, found in homes.items() if len(found) > 1}


def arguments(source):
    "Every public argument or field: (where, name, annotation or None, comment)."
    lines = source.splitlines()

    def comment(line):
        return lines[line - 1].partition('  # ')[2].strip()

    def walk(body, prefix=''):
        for node in body:
            if isinstance(node, ast.AnnAssign) and prefix:
                name, words = ast.unparse(node.target), comment(node.end_lineno)
                yield prefix[:-1], name, ast.unparse(node.annotation), words
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                yield from walk(node.body, f'{prefix}{node.name}.')
            if isinstance(node, ast.FunctionDef) and re.match('[a-z]|__', node.name):
                every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                for one in every:
                    said = ast.unparse(one.annotation) if one.annotation else None
                    words = comment(one.end_lineno) if one.lineno > node.lineno else ''
                    yield prefix + node.name, one.arg, said, words

    yield from walk(ast.parse(source).body)


def other_meanings(modules):
    "Arguments of a name in `ARGUMENTS` whose annotation or comment says something else."
    for module, source in modules.items():
        for where, name, annotation, comment in arguments(source):
            kind, words = ARGUMENTS.get(name, (None, None))
            if kind and annotation and not re.search(kind, annotation):
                yield f'{module}.{where}: {name} is {annotation}'
            elif kind and comment and not re.search(words, comment):
                yield f'{module}.{where}: {name} is "{comment}"'


def package():
    "{module: source} of the package."
    return {path.stem: path.read_text(encoding='utf-8') for path in PACKAGE.glob('[a-z]*.py')}


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--list', nargs='+', default=[], metavar='NAME')
    names, modules = parser.parse_args(argv).list, package()
    for module, source in modules.items():
        for where, name, annotation, comment in arguments(source):
            if name in names:
                print(f'{name:10} {module}.{where}: {annotation}  # {comment}')
    if names:
        return 0
    found = two_homes(modules)
    wrong = [
        f'{name}: {", ".join(homes)}' for name, homes in found.items() if name not in TWO_HOMES
    ]
    wrong += [f'{name} has one home: strike it from the list' for name in TWO_HOMES.keys() - found]
    wrong += other_meanings(modules)
    print('\n'.join(wrong) or f'One name, one meaning; {len(TWO_HOMES)} names with two homes.')
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
