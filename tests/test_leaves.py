"The series of colour models and the bench of the 60M network, with tiny settings on one core."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from asyncpatch.compute import network_operations
from asyncpatch.records import config_hash, load_record
from asyncpatch.unet import UNet, count_parameters
from asyncpatch.weights import load
from asyncpatch.zoo import GPU_BUDGET, RECIPES, dataset

ROOT = Path(__file__).parent.parent
RUNS = [
    'leaves64-autoencoder-0',
    'leaves64-latent-asyncpatch-0',
    'leaves-asyncpatch-0',
    'leaves-head-0',
    'leaves-supervised-0',
]


def call(script, *arguments):
    "A script in a process of its own, as on the device machine."
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith('ASYNCPATCH')},
        'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1',
    }
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def series(tmp_path_factory):
    "One of each kind, trained."
    folder = tmp_path_factory.mktemp('series')
    where = ('--smoke', '--out', folder / 'out', '--work', folder / 'work', '--have')
    return folder, where, call('leaves_series.py', *where, '--only', *RUNS)


def test_every_run_leaves_weights_record_and_sheet(series):
    folder, _, _ = series
    for name in RUNS:
        record, found = (
            json.loads((folder / 'out' / f'{name}.json').read_text()),
            load(folder / 'out' / f'{name}.safetensors'),
        )
        assert (
            record['steps'] == 4
            and record['images_seen'] == 4 * record['batch']
            and 'smoke' in record['labelled']
        )
        assert record['utilisation'] == pytest.approx(
            record['images_per_second'] * record['operations_per_image'] / record['matmul_peak']
        )
        assert record['loss'] and set(record['not_yet']) and found.about['steps'] == 4
        assert Image.open(folder / 'out' / f'{name}.png').size[0] > 256
    record = json.loads((folder / 'out/leaves-asyncpatch-0.json').read_text())
    assert {c['step'] for c in record['checkpoints']} == {2, 4} and {
        m for m in record['inpainting']['native']
    } == {'extrema', 'square', 'thin', 'wide'}
    assert (
        len(record['generation']) == 3
        and all('leaves network' in name for name in record['generation'])
        and record['bits']['path_of_one_clock'] > 0
    )


def test_what_is_finished_is_kept_and_the_better_is_not_replaced(series):
    folder, where, _ = series
    out, name = folder / 'out', 'leaves64-autoencoder-0'
    before = (out / f'{name}.safetensors').read_bytes()
    assert f'{name}: finished, kept' in call('leaves_series.py', *where, '--only', name)
    record = json.loads((out / f'{name}.json').read_text())
    (out / f'{name}.json').write_text(json.dumps({**record, 'images_seen': 10**9}))
    assert f'this one is {name}-lesser' in call(
        'leaves_series.py', *where, '--only', name, '--again'
    )
    assert (out / f'{name}.safetensors').read_bytes() == before and (
        out / f'{name}-lesser.safetensors'
    ).is_file()
    (out / f'{name}.json').write_text(json.dumps(record))


def test_only_what_is_better_ships_and_not_too_much(series):
    folder, where, _ = series
    package = folder / 'package'
    package.mkdir(exist_ok=True)
    call('leaves_series.py', *where, '--ship', '--package', package)
    assert sorted(p.stem for p in package.glob('*.safetensors')) == sorted(
        set(RUNS) - {'leaves-head-0', 'leaves-supervised-0'}
    )
    assert 'float16' in (package / 'leaves-asyncpatch-0.md').read_text()
    assert 'kept' in call('leaves_series.py', *where, '--ship', '--package', package)
    with open(package / 'leaves-large.safetensors', 'wb') as f:
        f.truncate(24 * 2**20)
    with pytest.raises(AssertionError, match='MiB of weights are more than 24'):
        call('leaves_series.py', *where, '--ship', '--package', package)


def test_a_dry_run_prices_everything_and_trains_nothing(tmp_path):
    said = call(
        'leaves_series.py',
        '--dry',
        '--out',
        tmp_path / 'out',
        '--have',
        '--work',
        tmp_path / 'work',
    )
    assert (
        said.count('to do') == 20
        and 'h on one H200' in said
        and not (tmp_path / 'out').exists()
        and not (tmp_path / 'work').exists()
    )
    shipped = float(said.split('ships: ')[1].split(' MiB')[0]) + float(
        said.split('other leaves ')[1].split(' MiB')[0]
    )
    assert shipped < 24


def test_baseline_and_asyncpatch_differ_by_their_law_alone():
    from asyncpatch.zoo import training_setup

    ours, theirs = (training_setup('leaves', name) for name in ('asyncpatch', 'synchronous'))
    assert (
        ours.settings == theirs.settings == {**GPU_BUDGET, 'data': 'leaves'}
        and ours.network.keywords == theirs.network.keywords
    )
    with torch.device('meta'):
        assert 4e6 < count_parameters(UNet(**RECIPES['leaves']['net'])) < 1e7
    assert training_setup('leaves64', 'asyncpatch').settings['minutes'] == 4


def test_photographs_have_a_class_of_their_own():
    batch = dataset('leaves and photos')[torch.arange(20)]
    assert (
        (batch.label[1::2] == 10).all()
        and (batch.label[::2] < 10).all()
        and RECIPES['photos']['net']['classes'] == 11
    )


def test_the_bench_writes_what_prices_read(tmp_path, monkeypatch):
    from asyncpatch import runs

    call('gpu_bench.py', '--tiny', '--out', tmp_path / 'figures/leaves')
    record = load_record(tmp_path / 'figures/leaves/utilisation.json')
    case = record.data['cases']['60M, many clocks, not compiled, bf16']
    assert case['of_matrix_product'] == pytest.approx(
        case['images_per_second']
        * network_operations(record.config['networks']['60M']['net'], 8, training=True)
        / record.data['matmul']
    )
    assert (
        record.data['utilisation'] == {}
        and record.data['loss_difference'] < 0.05
        and record.config_hash == config_hash(record.config)
    )
    content = json.loads((tmp_path / 'figures/leaves/utilisation.json').read_text())
    monkeypatch.setattr(runs, 'checkout', lambda: tmp_path)
    assert runs.utilisation('H200') == (0.4, 'assumed')
    content['device'], content['data']['utilisation'] = 'NVIDIA H200', {'60M': 0.31, '620M': 0.2}
    (tmp_path / 'figures/leaves/utilisation.json').write_text(json.dumps(content))
    assert runs.utilisation('H200') == (0.31, f"measured {record.made[:10]}")


def test_the_bench_is_the_product_of_results_38():
    cells = [
        ''.join(c['source'])
        for c in json.loads((ROOT / 'nbs/results/38_compute_and_sizes.ipynb').read_text())['cells']
        if c['cell_type'] == 'code'
    ]
    names = {
        'configured': __import__('asyncpatch.runs', fromlist=['configured']).configured,
        'UNETS': {'620M': 'imagenet64-620m', '60M': 'imagenet64-60m'},
    }
    exec(
        next(c for c in cells if 'def config_utilisation' in c).split('def work_utilisation')[0],
        names,
    )
    said = subprocess.run(
        [
            sys.executable,
            '-c',
            "import sys; sys.path.insert(0, 'tools'); from gpu_bench import *; print(config_hash(shipping_config()))",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert said.stdout.strip() == config_hash(names['config_utilisation']('leaves', 'full')), (
        said.stderr
    )
