"Which weights are used, and what is trained."

import pytest
import torch

from asyncpatch import records, zoo
from asyncpatch.recipes import GPU_BUDGET, RECIPES, dataset
from asyncpatch.run_folders import describe
from asyncpatch.unet import UNet, count_parameters
from asyncpatch.weights import load
from asyncpatch.zoo import model, models, training_setup


@pytest.fixture
def folders(tmp_path, monkeypatch):
    "A smoke scale and shipped weights of its own for each test."
    monkeypatch.setattr(records, '_scratch', lambda: tmp_path / 'smoke')
    monkeypatch.setattr(zoo, 'SHIPPED', tmp_path / 'shipped')
    monkeypatch.delenv('ASYNCPATCH_FROM_SCRATCH', raising=False)
    (tmp_path / 'shipped').mkdir()
    return tmp_path


def trained(folder):
    return sorted(
        p.parent.name.rsplit('-', 2)[0]
        for p in (folder / 'smoke/models').glob('*/weights.safetensors')
    )


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
    monkeypatch.setattr(zoo, 'runs_folder', lambda scale: folders / scale)
    found = models('smoke', [('latent-asyncpatch', 0), ('latent-synchronous', 0)])
    autoencoder = load(next((folders / 'smoke/models').glob('autoencoder-0-*')))
    assert {d.about['autoencoder']['fingerprint'] for d in found.values()} == {
        describe(autoencoder)['fingerprint']
    }


# --- recipes


def test_baseline_and_asyncpatch_differ_by_their_law_alone():
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
