"Where work is sent and what it costs."

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from asyncpatch import compute, products, records
from asyncpatch.compute import CHIPS, accelerator, chip_hours, price, utilisation
from asyncpatch.data import digits
from asyncpatch.dispatch import send
from asyncpatch.laws import asyncpatch as asyncpatch_law
from asyncpatch.products import Product
from asyncpatch.records import Record, Table, config_hash, save_record
from asyncpatch.training import train
from asyncpatch.weights import load

ROOT = Path(__file__).parent.parent


SMALL = dict(
    net=dict(base=8, classes=10),
    images=digits().train,
    law=asyncpatch_law,
    steps=3,
    batch=16,
    warmup=1,
    progress=False,
)

# --- sending


def test_two_processes_train_the_same_network_as_one(tmp_path):
    alone = train(tmp_path / 'alone', **SMALL).net.state_dict()
    send(
        partial(train, tmp_path / 'pair', **SMALL),
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
        (dict(where='tpu', nodes=2), 'nodes must be 1'),
    ],
)
def test_places_that_cannot_be(arguments, said):
    with pytest.raises(ValueError, match=said):
        send(abs, -1, **arguments)


def test_the_launcher_of_torchtpu_with_a_stand_in_on_a_cpu(tmp_path, monkeypatch):
    "Two processes train as one does; what TorchTPU is told beforehand is looked at."
    from types import ModuleType

    told, tpu = [], ModuleType('torch.tpu')
    tpu.distributed = ModuleType('torch.tpu.distributed')
    tpu.distributed.set_tpu_launch_env = lambda **given: told.append(given)
    monkeypatch.setitem(sys.modules, 'torch_tpu', ModuleType('torch_tpu'))
    monkeypatch.setattr(torch, 'tpu', tpu, raising=False)
    for name in ('MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    alone = train(tmp_path / 'alone', **SMALL).net.state_dict()
    work = partial(train, tmp_path / 'pair', **SMALL)
    send(work, where='tpu', processes=2, folder=tmp_path / 'jobs')
    assert told == [dict(nproc_per_node=2)]
    pair = load(tmp_path / 'pair')
    assert max((alone[k] - v).abs().max() for k, v in pair.net.state_dict().items()) < 1e-5
    assert not list((tmp_path / 'jobs').iterdir())
    for name in ('MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)


def test_torchtpu_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch_tpu', None)
    with pytest.raises(ModuleNotFoundError, match=r'asyncpatch\[tpu\]'):
        send(abs, -1, where='tpu', folder=tmp_path)


TRAINS = """
import sys, torch
from asyncpatch.data import digits
from asyncpatch.laws import asyncpatch
from asyncpatch.training import train
train(sys.argv[1], dict(base=8, classes=10), digits().train, asyncpatch, steps=3, batch=16,
      warmup=1, progress=False)
"""


@pytest.mark.parametrize('seen', [True, False])
def test_torchrun_on_a_cpu(tmp_path, seen):
    "Two processes make one run; where accelerate cannot see the other, each refuses by name."
    script = tmp_path / 'job.py'
    hidden = '' if seen else "import os\nfor k in ('RANK', 'LOCAL_RANK'): os.environ.pop(k)\n"
    blind = '' if seen else BLIND
    script.write_text(hidden + blind + TRAINS)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    here = {**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'}
    here['PYTHONPATH'] = str(ROOT)
    ran = subprocess.run(
        [*command, str(script), str(tmp_path / 'run')], env=here, capture_output=True, text=True
    )
    if seen:
        assert ran.returncode == 0, ran.stderr[-2000:]
        alone = train(tmp_path / 'alone', **SMALL).net.state_dict()
        pair = load(tmp_path / 'run')
        assert max((alone[k] - v).abs().max() for k, v in pair.net.state_dict().items()) < 1e-5
        assert pair.about.get('processes') == 2
    else:
        assert (
            ran.returncode != 0 and 'WORLD_SIZE is 2, but this process sees no other' in ran.stderr
        )
        assert not (tmp_path / 'run' / 'weights.safetensors').exists()


# accelerate on a device that it does not know, as a TPU of TorchTPU's: one process
BLIND = """
import accelerate.state as state
from accelerate.utils import DistributedType
state.PartialState._prepare_backend = lambda *given, **more: (None, DistributedType.NO)
"""


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
    assert accelerator().type == 'tpu' and os.environ['ACCELERATE_TORCH_DEVICE'] == 'tpu'


XLA = """
from asyncpatch.data import digits
from asyncpatch.laws import asyncpatch
from asyncpatch.training import train
from asyncpatch.dispatch import send
from functools import partial
import sys
work = partial(train, sys.argv[1], dict(base=8, classes=10), digits().train,
               asyncpatch, steps=3, batch=16, warmup=1, progress=False)
if __name__ == '__main__':
    print(type(send(work, where='xla', folder=sys.argv[1] + '-jobs')).__name__)
"""


@pytest.mark.skipif(
    not (importlib.util.find_spec('torch_xla') or os.environ.get('ASYNCPATCH_XLA_PYTHON')),
    reason='needs torch_xla: pip install asyncpatch[xla], '
    'or ASYNCPATCH_XLA_PYTHON, a python that has it',
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
    monkeypatch.setattr(compute, 'checkout', lambda: tmp_path)
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
    if accelerator() is not None:
        pytest.skip('needs a machine without an accelerator')
    for folder in ('nbs', 'runs'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'settings.ini').touch()
    for module in (records, products):
        monkeypatch.setattr(module, 'checkout', lambda: tmp_path)
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
