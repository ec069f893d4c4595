"Where work is sent, what it costs, which weights are used, and the paper's own runs."

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asyncpatch import runs
from asyncpatch.runs import (
    CHIPS,
    Product,
    Record,
    Table,
    chip_hours,
    commands,
    config_hash,
    configured,
    dry_run,
    model,
    models,
    network_of,
    price,
    save_record,
    send,
    train_configured,
    utilisation,
)
from asyncpatch.training import train
from asyncpatch.unet import PAPER_UNETS, UNet
from asyncpatch.weights import load

ROOT = Path(__file__).parent.parent
CONFIGS = {p.stem: json.loads(p.read_text()) for p in sorted((ROOT / 'configs').glob('*.json'))}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    "A smoke scale and shipped weights of its own for each test."
    monkeypatch.setattr(runs, '_scratch', lambda: tmp_path / 'smoke')
    monkeypatch.setattr(runs, 'SHIPPED', tmp_path / 'shipped')
    monkeypatch.delenv('ASYNCPATCH_FROM_SCRATCH', raising=False)
    (tmp_path / 'shipped').mkdir()
    return tmp_path


def trained(folder):
    return sorted(
        p.parent.name.rsplit('-', 2)[0]
        for p in (folder / 'smoke/models').glob('*/weights.safetensors')
    )


# --- sending


def test_two_processes_train_the_same_network_as_one(tmp_path):
    from asyncpatch.data import digits
    from asyncpatch.laws import asyncpatch

    settings = dict(
        net=dict(base=8, classes=10),
        images=digits().train,
        law=asyncpatch,
        steps=3,
        batch=16,
        warmup=1,
        progress=False,
    )
    from functools import partial

    alone = train(tmp_path / 'alone', **settings).net.state_dict()
    send(
        partial(train, tmp_path / 'pair', **settings),
        where='process',
        processes=2,
        folder=tmp_path / 'jobs',
    )
    pair = load(tmp_path / 'pair').net.state_dict()
    assert any(not torch.equal(alone[k], alone[k] * 0) for k in alone)
    assert max((alone[k] - pair[k]).abs().max().item() for k in alone) < 1e-5


def test_a_process_that_dies_is_named_with_its_log(tmp_path):
    with pytest.raises(RuntimeError, match='job .* failed: .*log: '):
        send(os._exit, 3, where='process', folder=tmp_path)


@pytest.mark.parametrize(
    'arguments, said',
    [
        (dict(where='cloud'), 'where must be one of'),
        (dict(processes=2), "several need where='process'"),
        (dict(where='process', nodes=2), 'nodes must be 1'),
        (dict(where='xla', nodes=2), 'must be 1'),
    ],
)
def test_places_that_cannot_be(arguments, said):
    with pytest.raises(ValueError, match=said):
        send(abs, -1, **arguments)


def test_slurm_is_the_same_call(tmp_path, monkeypatch):
    "No cluster here: the parameters that reach submitit are looked at."
    import submitit

    seen = {}

    class Executor:
        def __init__(self, folder, cluster):
            seen.update(cluster=cluster)

        def update_parameters(self, **parameters):
            seen.update(parameters)

        def submit(self, *work):
            return type(
                'Job',
                (),
                dict(
                    job_id=1,
                    paths=type('Paths', (), dict(stderr='log')),
                    results=lambda self: ['done'],
                ),
            )()

    monkeypatch.setattr(submitit, 'AutoExecutor', Executor)
    assert (
        send(
            abs,
            -1,
            where='slurm',
            nodes=2,
            processes=8,
            hours=1.5,
            slurm_partition='gpu',
            folder=tmp_path,
        )
        == 'done'
    )
    assert seen == dict(
        cluster='slurm',
        nodes=2,
        tasks_per_node=8,
        gpus_per_node=8,
        timeout_min=90,
        slurm_partition='gpu',
    )


def test_a_tpu_of_torchtpu_is_made_known_to_accelerate(monkeypatch):
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: True)
    monkeypatch.setattr(
        torch.accelerator,
        'current_accelerator',
        lambda *a, **k: type('Device', (), dict(type='tpu'))(),
    )
    monkeypatch.setenv('ACCELERATE_TORCH_DEVICE', '')
    assert runs.accelerator().type == 'tpu' and os.environ['ACCELERATE_TORCH_DEVICE'] == 'tpu'


XLA = """
from asyncpatch.data import digits
from asyncpatch.laws import asyncpatch
from asyncpatch.training import train
from asyncpatch.runs import send
from functools import partial
import sys
work = partial(train, sys.argv[1], dict(base=8, classes=10), digits().train, asyncpatch, steps=3, batch=16, warmup=1, progress=False)
if __name__ == '__main__':
    print(type(send(work, where='xla', folder=sys.argv[1] + '-jobs')).__name__)
"""


@pytest.mark.skipif(
    not (importlib.util.find_spec('torch_xla') or os.environ.get('ASYNCPATCH_XLA_PYTHON')),
    reason='needs torch_xla: pip install asyncpatch[xla], or ASYNCPATCH_XLA_PYTHON, a python that has it',
)
def test_xla_on_a_cpu_trains_to_the_same_network(tmp_path):
    from asyncpatch.data import digits
    from asyncpatch.laws import asyncpatch

    python = os.environ.get('ASYNCPATCH_XLA_PYTHON', sys.executable)
    (tmp_path / 'job.py').write_text(XLA)
    done = subprocess.run(
        [python, '-W', 'ignore', str(tmp_path / 'job.py'), str(tmp_path / 'xla')],
        env={**os.environ, 'PJRT_DEVICE': 'CPU', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours = train(
        tmp_path / 'cpu',
        dict(base=8, classes=10),
        digits().train,
        asyncpatch,
        steps=3,
        batch=16,
        warmup=1,
        progress=False,
    ).net.state_dict()
    theirs = load(tmp_path / 'xla').net.state_dict()
    assert max((ours[k] - theirs[k]).abs().max().item() for k in ours) < 1e-4


# --- prices


def test_hours_follow_from_a_measured_record_where_there_is_one(tmp_path, monkeypatch):
    (tmp_path / 'nbs').mkdir()
    (tmp_path / 'settings.ini').touch()
    monkeypatch.setattr(runs, 'checkout', lambda: tmp_path)
    assert utilisation('H200') == (CHIPS['H200'].assumed, 'assumed') and 'assumed' in price(1e18)
    save_record(
        Record(
            'utilisation',
            'c',
            None,
            'imagenet64',
            'full',
            {},
            config_hash({}),
            dict(utilisation={'60M': 0.2, '620M': 0.5}),
            device='NVIDIA H200',
            made='2027-01-01T00:00:00',
        ),
        tmp_path / 'figures/imagenet64',
    )
    assert (
        utilisation('H200') == (0.5, 'measured 2027-01-01')
        and utilisation('TPU v6e')[1] == 'assumed'
    )
    assert np.isclose(chip_hours(989.5e12 * 0.5 * 3600, 'H200'), 1.0)
    with pytest.raises(ValueError, match='chip must be one of'):
        utilisation('abacus')


def test_heavy_work_is_priced_and_the_shipped_record_taken(tmp_path, monkeypatch, capsys):
    if runs.accelerator() is not None:
        pytest.skip('needs a machine without an accelerator')
    for folder in ('nbs', 'runs'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'settings.ini').touch()
    monkeypatch.setattr(runs, 'checkout', lambda: tmp_path)
    made = []
    product = lambda work: Product(
        'heavy',
        'c',
        lambda scale, part: dict(n=1),
        lambda config: made.append(1) or dict(x=1),
        lambda record: Table(['x'], [['1']]),
        work=lambda config: work,
    )
    assert product(1e18).make('leaves', 'full') is None and not made
    assert 'No record of it ships yet' in capsys.readouterr().err
    record = product(1e10).make('leaves', 'full')  # light work is simply done, and ships
    assert made == [1] and record.data == dict(x=1)
    for file in (tmp_path / 'runs').rglob('heavy.json'):
        file.unlink()
    assert product(1e18).make('leaves', 'full').made == record.made and made == [1]
    assert 'assumed' in capsys.readouterr().err


# --- models


def test_shipped_weights_stand_for_other_laws_only(folders, monkeypatch):
    made = model('smoke', 'perlin', progress=False)
    weights = next((folders / 'smoke/models').glob('perlin-0-*'))
    for name in ('perlin', 'asyncpatch'):
        (folders / f'shipped/smoke-{name}-0.safetensors').write_bytes(
            (weights / 'weights.safetensors').read_bytes()
        )
    for file in weights.iterdir():
        file.unlink() if file.is_file() else None
    assert model('smoke', 'perlin').about == made.about and trained(folders) == []
    models('smoke', [('perlin', 0), ('asyncpatch', 0)])
    assert trained(folders) == ['asyncpatch'], 'AsyncPatch is always trained, perlin ships'
    monkeypatch.setenv('ASYNCPATCH_FROM_SCRATCH', '1')
    model('smoke', 'perlin', progress=False)
    assert trained(folders) == ['asyncpatch', 'perlin']


def test_shipped_weights_of_another_recipe_are_refused(folders, capsys):
    model('smoke', 'perlin', progress=False, steps=3)
    weights = next((folders / 'smoke/models').glob('perlin-0-*')) / 'weights.safetensors'
    (folders / 'shipped/smoke-perlin-0.safetensors').write_bytes(weights.read_bytes())
    assert model('smoke', 'perlin', progress=False).about['steps'] == 4
    assert 'another recipe (steps 3 instead of 4)' in capsys.readouterr().err


def test_models_side_by_side_build_on_one_foundation(folders, monkeypatch):
    monkeypatch.setenv('ASYNCPATCH_RUNS', str(folders))
    monkeypatch.setattr(runs, 'runs_folder', lambda scale: folders / scale)
    found = models('smoke', [('latent-asyncpatch', 0), ('latent-synchronous', 0)])
    autoencoder = load(next((folders / 'smoke/models').glob('autoencoder-0-*')))
    assert {d.about['autoencoder']['fingerprint'] for d in found.values()} == {
        runs.describe(autoencoder)['fingerprint']
    }


# --- the paper's own runs


@pytest.mark.parametrize('name', CONFIGS)
def test_configuration_dry_run(name):
    run = configured(name)
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
    assert all(p.device.type == 'meta' for p in network_of(run).parameters())
    assert f'{name}.json' in commands(run).markdown() and 'assumed' in commands(run).markdown()
    assert set(run.said.values()) == {'paper', 'toolbox', 'ours'}


@pytest.mark.parametrize('name', [n for n in CONFIGS if CONFIGS[n]['kind'] == 'unet'])
def test_configurations_have_the_networks_of_the_page(name):
    with torch.device('meta'):
        ours, page = (
            UNet(**net).config
            for net in (configured(name).settings['net'], PAPER_UNETS[name.split('-')[-1].upper()])
        )
    assert {k: v for k, v in ours.items() if k != 'classes'} == {
        k: v for k, v in page.items() if k != 'classes'
    }
    assert ours['size'] == configured(name).size


@pytest.mark.parametrize(
    'content, said',
    [
        ('{', 'JSONDecodeError'),
        ('{"paper": {}}', 'KeyError'),
        (
            '{"fills": "", "kind": "unet", "data": "x", "size": 8, "paper": {"net": {"base": 8}}, "toolbox": {"net": {"base": 16}}, "ours": {}}',
            'net.base is said by paper and by toolbox',
        ),
        (
            '{"fills": "", "kind": "unet", "data": "x", "size": 8, "paper": {"net": {"bass": 8}}, "toolbox": {}, "ours": {}}',
            'bass',
        ),
    ],
)
def test_bad_configurations(tmp_path, content, said):
    (tmp_path / 'bad.json').write_text(content)
    with pytest.raises(ValueError, match=said):
        configured(tmp_path / 'bad.json')


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
    found = train_configured(
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
    train_configured(
        CONFIGS[name]['autoencoder'],
        data,
        width=8,
        steps=1,
        batch=2,
        folder=tmp_path / 'autoencoder',
        progress=False,
    )
    found = train_configured(
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
        train_configured(name, data, width=8)


def test_sky_files_name_configurations_and_commands():
    yaml = pytest.importorskip('yaml')
    for file, chips in (('gpu', 'H200:8'), ('tpu', 'tpu-v6e-8')):
        task = yaml.safe_load((ROOT / f'sky/{file}.yaml').read_text())
        assert task['resources']['accelerators'] == chips and task['envs']['CONFIG'] in CONFIGS
        assert 'asyncpatch train --config configs/$CONFIG.json --images /data' in task['run']
