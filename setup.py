"""Package metadata, read from settings.ini so that every fact is written once, and two build steps:
the argument comments of the modules become docstrings in a wheel, and a source archive carries the
numbers of the equations."""

import json
import sys
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here / 'tools'))

import docstrings  # noqa: E402

ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here / 'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
name, package = cfg['lib_name'], cfg['lib_path']

STATUS = {'1': '1 - Planning', '2': '2 - Pre-Alpha', '3': '3 - Alpha', '4': '4 - Beta'}
FILES = ['*.safetensors', '*.npz', '*.json', '*.md', '*.png', '*.jpg', '*.txt', '*.js', '*.html']


def extras():
    "Every `…_requirements` of settings.ini; `all` is what users want, `dev` that and the tools."
    ending = '_requirements'
    found = {k.removesuffix(ending): v.split() for k, v in cfg.items() if k.endswith(ending)}
    wanted = [k for k in found if k not in ('dev', 'docs', 'reproduce', 'tpu', 'xla')]
    found['all'] = sorted({package for k in wanted for package in found[k]})
    others = {package for k in (*wanted, 'docs', 'reproduce') for package in found[k]}
    found['dev'] = [*found['dev'], *sorted(others)]
    return found


def classifiers():
    "What kind of package this is, in the words of PyPI."
    audiences, topics = (
        [part.strip() for part in cfg[key].split(',')] for key in ('audience', 'topics')
    )
    return [
        f'Development Status :: {STATUS[cfg["status"]]}',
        *(f'Intended Audience :: {audience}' for audience in audiences),
        f'Natural Language :: {cfg["language"]}',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: {python}' for python in cfg['pythons'].split()),
        *(f'Topic :: {topic}' for topic in topics),
        'Typing :: Typed',
    ]


class BuildModules(build_py):
    "A wheel's modules say in their docstrings what the notebooks say beside each argument."

    def build_module(self, module, module_file, package):
        outfile, copied = super().build_module(module, module_file, package)
        source = Path(module_file).read_text(encoding='utf-8')
        if not self.editable_mode and docstrings.is_exported(source):
            text = docstrings.documented(source, docstrings.equations(here))
            Path(outfile).write_text(text, encoding='utf-8')
        return outfile, copied


class SourceArchive(sdist):
    "An archive without notebooks that can still number its equations."

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        path = Path(base_dir) / docstrings.EQUATIONS
        path.write_text(json.dumps(docstrings.equations(here), indent=1), encoding='utf-8')


setup(
    name=name,
    version=cfg['version'],
    description=cfg['description'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    project_urls={
        'Documentation': cfg['doc_host'] + cfg['doc_baseurl'],
        'Source': cfg['git_url'],
        'Issues': cfg['git_url'] + '/issues',
        'Changelog': f'{cfg["git_url"]}/blob/{cfg["branch"]}/CHANGELOG.md',
        'Paper': 'https://arxiv.org/abs/2606.07079',
    },
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=cfg['keywords'].split(),
    classifiers=classifiers(),
    packages=find_packages(include=[package, package + '.*']),
    package_data={package: ['py.typed', *FILES, *(f'**/{pattern}' for pattern in FILES)]},
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require=extras(),
    cmdclass={'build_py': BuildModules, 'sdist': SourceArchive},
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    entry_points={
        'console_scripts': [f'asyncpatch={package}.cli:main'],
        'nbdev': [f'{package}={package}._modidx:d'],
    },
)
