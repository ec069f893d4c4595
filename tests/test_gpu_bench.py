"The bench of the 60M network, with tiny settings on one core, and what prices read of it."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncpatch import compute
from asyncpatch.compute import network_operations
from asyncpatch.configurations import read_configuration
from asyncpatch.records import config_hash, load_record

ROOT = Path(__file__).parent.parent


def call(script, *arguments):
    "A script in a process of its own, as on the device machine."
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith('ASYNCPATCH')},
        'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1',
    }
    done = subprocess.run(
        [sys.executable, ROOT / 'benchmarks' / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_bench_writes_what_prices_read(tmp_path, monkeypatch):
    call('gpu.py', '--tiny', '--out', tmp_path / 'figures/leaves')
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
    monkeypatch.setattr(compute, 'checkout', lambda: tmp_path)
    assert compute.utilisation('H200') == (0.4, 'assumed')
    content['device'], content['data']['utilisation'] = 'NVIDIA H200', {'60M': 0.31, '620M': 0.2}
    (tmp_path / 'figures/leaves/utilisation.json').write_text(json.dumps(content))
    assert compute.utilisation('H200') == (0.31, f"measured {record.made[:10]}")


def test_the_bench_is_the_product_of_the_page_of_hours():
    cells = [
        ''.join(c['source'])
        for c in json.loads((ROOT / 'nbs/results/380_hours.ipynb').read_text())['cells']
        if c['cell_type'] == 'code'
    ]
    names = {
        'read_configuration': read_configuration,
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
            "import sys; sys.path.insert(0, 'benchmarks'); from gpu import *; "
            "print(config_hash(shipping_config()))",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert said.stdout.strip() == config_hash(names['config_utilisation']('leaves', 'full')), (
        said.stderr
    )
