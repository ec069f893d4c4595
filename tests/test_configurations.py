"The paper's own runs."

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asyncpatch.configurations import (
    CONFIGURATIONS,
    build_network,
    dry_run,
    launch_commands,
    read_configuration,
    train_configuration,
)
from asyncpatch.unet import PAPER_UNETS, UNet

ROOT = Path(__file__).parent.parent
CONFIGS = {p.stem: json.loads(p.read_text()) for p in sorted(CONFIGURATIONS.glob('*.json'))}


# --- the paper's own runs


@pytest.mark.parametrize('name', CONFIGS)
def test_configuration_dry_run(name):
    run = read_configuration(name)
    taken = dry_run(run)
    sizes = {'620m': 615.6e6, '60m': 66.6e6, 'autoencoder': 25.4e6}
    assert (
        abs(
            taken['parameters'] / next(size for end, size in sizes.items() if name.endswith(end))
            - 1
        )
        < 5e-3
    )
    assert (
        2.9 < taken['training'] / taken['forward'] < 6.1
        and taken['total'] == taken['training'] * run.settings['batch'] * run.settings['steps']
    )
    assert all(p.device.type == 'meta' for p in build_network(run).parameters())
    assert (
        f'--config {name} ' in launch_commands(run).markdown()
        and 'assumed' in launch_commands(run).markdown()
    )
    assert set(run.said.values()) == {'paper', 'toolbox', 'ours'}


@pytest.mark.parametrize('name', [n for n in CONFIGS if CONFIGS[n]['kind'] == 'unet'])
def test_configurations_have_the_networks_of_the_page(name):
    with torch.device('meta'):
        ours, page = (
            UNet(**net).config
            for net in (
                read_configuration(name).settings['net'],
                PAPER_UNETS[name.split('-')[-1].upper()],
            )
        )
    assert {k: v for k, v in ours.items() if k != 'classes'} == {
        k: v for k, v in page.items() if k != 'classes'
    }
    assert ours['size'] == read_configuration(name).size


@pytest.mark.parametrize(
    'content, said',
    [
        ('{', 'JSONDecodeError'),
        ('{"paper": {}}', 'KeyError'),
        (
            '{"fills": "", "kind": "unet", "data": "x", "size": 8, "paper": {"net": {"base": '
            '8}}, "toolbox": {"net": {"base": 16}}, "ours": {}}',
            'net.base is said by paper and by toolbox',
        ),
        (
            '{"fills": "", "kind": "unet", "data": "x", "size": 8, "paper": {"net": {"bass": '
            '8}}, "toolbox": {}, "ours": {}}',
            'bass',
        ),
    ],
)
def test_bad_configurations(tmp_path, content, said):
    (tmp_path / 'bad.json').write_text(content)
    with pytest.raises(ValueError, match=said):
        read_configuration(tmp_path / 'bad.json')


def jpeg(size, seed):
    out = io.BytesIO()
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (*size, 3), dtype=np.uint8)).save(
        out, 'JPEG'
    )
    return out.getvalue()


@pytest.fixture(scope='module')
def own_copies(tmp_path_factory):
    "A few pictures in the true formats: class folders of JPEG of odd sizes, and an LMDB of WebP."
    folder = tmp_path_factory.mktemp('data')
    for i, name in enumerate(('n01440764', 'n01443537')):
        (folder / 'imagenet/train' / name).mkdir(parents=True)
        for k in range(2):
            (folder / 'imagenet/train' / name / f'{name}_{k}.JPEG').write_bytes(
                jpeg((300 + 20 * k, 280), 2 * i + k)
            )
    lmdb = pytest.importorskip('lmdb')
    (folder / 'lsun/bedroom_train_lmdb').mkdir(parents=True)
    with (
        lmdb.open(str(folder / 'lsun/bedroom_train_lmdb'), map_size=2**24) as base,
        base.begin(write=True) as transaction,
    ):
        for k in range(4):
            out = io.BytesIO()
            Image.open(io.BytesIO(jpeg((256, 300), 10 + k))).save(out, 'webp')
            transaction.put(f'key{k}'.encode(), out.getvalue())
    return folder


@pytest.mark.parametrize('name', [n for n in CONFIGS if 'autoencoder' not in CONFIGS[n]])
def test_one_real_step_at_reduced_width(name, own_copies, tmp_path):
    found = train_configuration(
        name,
        own_copies / CONFIGS[name]['data'].rstrip('0123456789'),
        width=8,
        steps=1,
        batch=2,
        folder=tmp_path,
        progress=False,
    )
    assert (
        found.about['data'] == CONFIGS[name]['data']
        and found.about['steps'] == 1
        and found.about['precision'] == 'bf16'
    )
    moved = getattr(found, 'net', found).state_dict()
    assert all(value.isfinite().all() for value in moved.values() if value.is_floating_point())


@pytest.mark.parametrize('name', [n for n in CONFIGS if 'autoencoder' in CONFIGS[n]])
def test_one_real_step_on_latents(name, own_copies, tmp_path):
    data = own_copies / CONFIGS[name]['data'].rstrip('0123456789')
    train_configuration(
        CONFIGS[name]['autoencoder'],
        data,
        width=8,
        steps=1,
        batch=2,
        folder=tmp_path / 'autoencoder',
        progress=False,
    )
    found = train_configuration(
        name,
        data,
        autoencoder=tmp_path / 'autoencoder',
        width=8,
        steps=1,
        batch=2,
        law='synchronous',
        folder=tmp_path / 'run',
        progress=False,
    )
    assert found.about['law'] == 'synchronous' and found.net.channels == 3
    with pytest.raises(ValueError, match='autoencoder must be a trained'):
        train_configuration(name, data, width=8)


def test_sky_files_name_configurations_and_commands():
    yaml = pytest.importorskip('yaml')
    for file, chips in (('gpu', 'H200:8'), ('tpu', 'tpu-v6e-8')):
        task = yaml.safe_load((ROOT / f'sky/{file}.yaml').read_text())
        assert task['resources']['accelerators'] == chips and task['envs']['CONFIG'] in CONFIGS
        assert 'asyncpatch train --config $CONFIG --images /data' in task['run']
