"Published networks from files and downloads: missing, damaged, hostile or of another kind."

import hashlib
import pickle
import warnings

import lpips
import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchvision.models import alexnet

from asyncpatch import distances, published


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    "A machine without published weights."
    monkeypatch.setenv('ASYNCPATCH_METRICS', str(tmp_path / 'kept'))
    return tmp_path


@pytest.fixture
def publish(empty, monkeypatch):
    "Publish tensors as a network: a file, and an address with the hash in its name."

    def publish(name, state):
        path = empty / f'{name}.pth'
        torch.save(state, path)
        named = path.with_name(f'{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth')
        path.rename(named)
        monkeypatch.setitem(published.PUBLISHED, name, named.as_uri())
        return named

    return publish


def random_alexnet(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            k: v for k, v in alexnet(weights=None).state_dict().items() if k.startswith('features.')
        }


# what is missing, and how it comes


def test_missing_weights_leave_cells_empty_and_name_the_command(empty):
    x = torch.zeros(4, 3, 64, 64)
    assert (
        set(published.published_distances(x, x).values()) == {None}
        and published.published_lpips(x, x) is None
    )
    for needs, name in ((published.inception, 'inception'), (published.lpips_network, 'alex')):
        with pytest.raises(
            FileNotFoundError, match='fetch them once with: asyncpatch fetch'
        ) as error:
            needs()
        assert published.fetch_hint(name) in str(error.value)
    with pytest.raises(ValueError, match="got 'fid'"):
        published.fetch('fid')


def test_download_is_checked_converted_and_used(publish):
    state = random_alexnet()
    source = publish('alex', state)
    (kept,) = published.fetch('alex')  # from the address
    assert kept.suffix == '.safetensors' and published.available('alex')
    for network in (
        published.lpips_network(),
        published.lpips_network(backbone=source),
        published.lpips_network(backbone=kept),
    ):
        assert torch.equal(network.net.state_dict()['slice1.0.weight'], state['features.0.weight'])
    assert published.published_lpips(torch.zeros(2, 1, 64, 64), torch.ones(2, 1, 64, 64)).shape == (
        2,
    )


def test_another_file_than_the_published_one_is_refused(publish, tmp_path):
    publish('alex', {'features.0.weight': torch.zeros(3)})
    torch.save({'features.0.weight': torch.ones(3)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='SHA-256 begins with'):
        published.fetch('alex', path=tmp_path / 'other.pth')
    assert not published.available('alex')
    with pytest.raises(ValueError, match='one name, got 2'):
        published.fetch('alex', 'vgg', path=tmp_path / 'other.pth')


def test_failed_download_says_what_to_do(empty, monkeypatch):
    monkeypatch.setitem(published.PUBLISHED, 'vgg', (empty / 'nowhere-00000000.pth').as_uri())
    with pytest.raises(OSError, match=r"fetch\('vgg', path="):
        published.fetch('vgg')


class Program:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), 'w'))


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize(
    'write',
    [
        lambda bad, path: path.write_bytes(pickle.dumps({'features.0.weight': bad})),
        lambda bad, path: torch.save({'features.0.weight': bad}, path),
    ],
    ids=['pickle', 'torch'],
)
def test_a_pickle_that_is_a_program_is_not_run(tmp_path, write):
    write(Program(tmp_path / 'it ran'), tmp_path / 'evil.pth')
    for use in (
        published.read_weights,
        published.inception,
        lambda path: published.lpips_network(backbone=path),
        lambda path: published.fetch('alex', path=path),
    ):
        with pytest.raises(ValueError, match='tensors by name and nothing else'):
            use(tmp_path / 'evil.pth')
    np.save(tmp_path / 'evil.npy', np.array([Program(tmp_path / 'it ran')]), allow_pickle=True)
    with pytest.raises(ValueError, match='arrays mu and sigma'):
        distances.read_statistics(tmp_path / 'evil.npy')
    assert not (tmp_path / 'it ran').exists()


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(random_alexnet(), tmp_path / 'alex.pth')
    with pytest.raises(ValueError, match="FID's Inception"):
        published.inception(tmp_path / 'alex.pth')
    with pytest.raises(ValueError, match="torchvision's weights for 'vgg'"):
        published.lpips_network('vgg', tmp_path / 'alex.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='got list'):
        published.read_weights(tmp_path / 'list.pth')
    with pytest.raises(FileNotFoundError):
        published.read_weights(tmp_path / 'none.pth')


def test_fid_and_kid_are_the_distances_of_inception_features(publish):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = published.Inception().blocks.state_dict()
    publish(
        'inception', state | {'fc.weight': torch.zeros(1008, 2048), 'fc.bias': torch.zeros(1008)}
    )
    published.fetch('inception')
    x, y = (
        torch.rand(3, 1, 16, 16, generator=seeded(0)) * 2 - 1,
        torch.rand(4, 1, 16, 16, generator=seeded(1)) * 2 - 1,
    )
    found = published.published_distances(x, y, batch=2)
    a, b = (published.inception()(v).double() for v in (x, y))
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(a), fid_features_to_statistics(b), False
    )['frechet_inception_distance']
    assert found['FID'] == pytest.approx(theirs, rel=1e-3) and found['KID'] == pytest.approx(
        distances.kernel_distance(a, b).item(), rel=1e-4
    )


# LPIPS


@pytest.fixture
def network(tmp_path):
    torch.save(random_alexnet(), tmp_path / 'alex.pth')
    return published.lpips_network(backbone=tmp_path / 'alex.pth')


def test_lpips_is_the_package_with_its_own_heads(network):
    x, y = (
        torch.rand(3, 3, 48, 40, generator=seeded(2)),
        torch.rand(3, 3, 48, 40, generator=seeded(3)),
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        package = lpips.LPIPS(net='alex', pnet_rand=True, verbose=False)
        assert all(
            torch.equal(ours.model[1].weight, theirs.model[1].weight)
            for ours, theirs in zip(network.lins, package.lins)
        )
        package.net.load_state_dict(network.net.state_dict())
        right, as_in_rad = package(x, y, normalize=True).flatten(), package(x, y).flatten()
    torch.testing.assert_close(
        published.lpips_distance(network, 2 * x - 1, 2 * y - 1), right, rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(
        published.lpips_of_unit_range(network, 2 * x - 1, 2 * y - 1),
        as_in_rad,
        rtol=1e-5,
        atol=1e-7,
    )
    assert not torch.allclose(right, as_in_rad, rtol=0.1)


def test_lpips_sees_the_hole_and_refuses_small_images(network):
    x, y = (
        torch.rand(2, 3, 64, 64, generator=seeded(4)) * 2 - 1,
        torch.rand(2, 3, 64, 64, generator=seeded(5)) * 2 - 1,
    )
    hole = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    hole[..., :24] = True
    filled = torch.where(hole, y, x)
    assert (
        published.lpips_distance(network, filled, x, hole)
        > published.lpips_distance(network, filled, x)
    ).all()
    assert (
        torch.equal(published.lpips_distance(network, x, x, hole), torch.zeros(2))
        and not network.spatial
    )
    smallest = published.LPIPS_SMALLEST['alex']
    published.lpips_distance(network, x[..., :smallest, :smallest], y[..., :smallest, :smallest])
    with pytest.raises(ValueError, match=f'at least {smallest} pixels'):
        published.lpips_distance(network, x[..., : smallest - 1], y[..., : smallest - 1])
    with pytest.raises(ValueError, match='equal shapes'):
        published.lpips_distance(network, x, y[:1])


@pytest.mark.parametrize('net', list(published.LPIPS_SMALLEST))
def test_smallest_image_of_each_network(net):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        package, smallest = (
            lpips.LPIPS(net=net, pnet_rand=True, verbose=False),
            published.LPIPS_SMALLEST[net],
        )
        assert (
            package(*torch.rand(2, 1, 3, smallest, smallest, generator=seeded(6))).isfinite().all()
        )
        with pytest.raises(RuntimeError):
            package(*torch.rand(2, 1, 3, smallest - 1, smallest - 1, generator=seeded(6)))
