"Metrics and masks where modules, files and other packages meet: published weights from files, bad input, laws on random cases."

import hashlib
import math
import pickle
import warnings

import lpips
import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchvision.models import alexnet

from asyncpatch import metrics
from asyncpatch.conventions import check_known
from asyncpatch.masks import FAMILIES, MASKS, REPAINT, latent_known


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    "A machine without published weights."
    monkeypatch.setenv('ASYNCPATCH_METRICS', str(tmp_path / 'kept'))
    return tmp_path


@pytest.fixture
def publish(empty, monkeypatch):
    "Publish tensors as a network of the given name: a file, and an address with the hash in its name."

    def publish(name, state):
        path = empty / f'{name}.pth'
        torch.save(state, path)
        named = path.with_name(f'{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth')
        path.rename(named)
        monkeypatch.setitem(metrics.PUBLISHED, name, named.as_uri())
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
        set(metrics.published_distances(x, x).values()) == {None}
        and metrics.published_lpips(x, x) is None
    )
    for needs, name in ((metrics.inception, 'inception'), (metrics.lpips_network, 'alex')):
        with pytest.raises(
            FileNotFoundError, match='fetch them once with: asyncpatch fetch'
        ) as error:
            needs()
        assert metrics.how_to_fetch(name) in str(error.value)
    with pytest.raises(ValueError, match="got 'fid'"):
        metrics.fetch('fid')


def test_download_is_checked_converted_and_used(publish):
    state = random_alexnet()
    source = publish('alex', state)
    (kept,) = metrics.fetch('alex')  # from the address
    assert kept.suffix == '.safetensors' and metrics.available('alex')
    for network in (
        metrics.lpips_network(),
        metrics.lpips_network(backbone=source),
        metrics.lpips_network(backbone=kept),
    ):
        assert torch.equal(network.net.state_dict()['slice1.0.weight'], state['features.0.weight'])
    assert metrics.published_lpips(torch.zeros(2, 1, 64, 64), torch.ones(2, 1, 64, 64)).shape == (
        2,
    )


def test_another_file_than_the_published_one_is_refused(publish, tmp_path):
    publish('alex', {'features.0.weight': torch.zeros(3)})
    torch.save({'features.0.weight': torch.ones(3)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='SHA-256 begins with'):
        metrics.fetch('alex', path=tmp_path / 'other.pth')
    assert not metrics.available('alex')
    with pytest.raises(ValueError, match='one name, got 2'):
        metrics.fetch('alex', 'vgg', path=tmp_path / 'other.pth')


def test_failed_download_says_what_to_do(empty, monkeypatch):
    monkeypatch.setitem(metrics.PUBLISHED, 'vgg', (empty / 'nowhere-00000000.pth').as_uri())
    with pytest.raises(OSError, match=r"fetch\('vgg', path="):
        metrics.fetch('vgg')


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
        metrics.read_weights,
        metrics.inception,
        lambda path: metrics.lpips_network(backbone=path),
        lambda path: metrics.fetch('alex', path=path),
    ):
        with pytest.raises(ValueError, match='tensors by name and nothing else'):
            use(tmp_path / 'evil.pth')
    np.save(tmp_path / 'evil.npy', np.array([Program(tmp_path / 'it ran')]), allow_pickle=True)
    with pytest.raises(ValueError, match='arrays mu and sigma'):
        metrics.read_statistics(tmp_path / 'evil.npy')
    assert not (tmp_path / 'it ran').exists()


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(random_alexnet(), tmp_path / 'alex.pth')
    with pytest.raises(ValueError, match="FID's Inception"):
        metrics.inception(tmp_path / 'alex.pth')
    with pytest.raises(ValueError, match="torchvision's weights for 'vgg'"):
        metrics.lpips_network('vgg', tmp_path / 'alex.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='got list'):
        metrics.read_weights(tmp_path / 'list.pth')
    with pytest.raises(FileNotFoundError):
        metrics.read_weights(tmp_path / 'none.pth')


def test_fid_and_kid_are_the_distances_of_inception_features(publish):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = metrics.Inception().blocks.state_dict()
    publish(
        'inception', state | {'fc.weight': torch.zeros(1008, 2048), 'fc.bias': torch.zeros(1008)}
    )
    metrics.fetch('inception')
    x, y = (
        torch.rand(3, 1, 16, 16, generator=seeded(0)) * 2 - 1,
        torch.rand(4, 1, 16, 16, generator=seeded(1)) * 2 - 1,
    )
    found = metrics.published_distances(x, y, batch=2)
    a, b = (metrics.inception()(v).double() for v in (x, y))
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(a), fid_features_to_statistics(b), False
    )['frechet_inception_distance']
    assert found['FID'] == pytest.approx(theirs, rel=1e-3) and found['KID'] == pytest.approx(
        metrics.kernel_distance(a, b).item(), rel=1e-4
    )


# LPIPS


@pytest.fixture
def network(tmp_path):
    torch.save(random_alexnet(), tmp_path / 'alex.pth')
    return metrics.lpips_network(backbone=tmp_path / 'alex.pth')


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
        metrics.lpips_distance(network, 2 * x - 1, 2 * y - 1), right, rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(
        metrics.lpips_of_unit_range(network, 2 * x - 1, 2 * y - 1), as_in_rad, rtol=1e-5, atol=1e-7
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
        metrics.lpips_distance(network, filled, x, hole)
        > metrics.lpips_distance(network, filled, x)
    ).all()
    assert (
        torch.equal(metrics.lpips_distance(network, x, x, hole), torch.zeros(2))
        and not network.spatial
    )
    smallest = metrics.LPIPS_SMALLEST['alex']
    metrics.lpips_distance(network, x[..., :smallest, :smallest], y[..., :smallest, :smallest])
    with pytest.raises(ValueError, match=f'at least {smallest} pixels'):
        metrics.lpips_distance(network, x[..., : smallest - 1], y[..., : smallest - 1])
    with pytest.raises(ValueError, match='equal shapes'):
        metrics.lpips_distance(network, x, y[:1])


@pytest.mark.parametrize('net', list(metrics.LPIPS_SMALLEST))
def test_smallest_image_of_each_network(net):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        package, smallest = (
            lpips.LPIPS(net=net, pnet_rand=True, verbose=False),
            metrics.LPIPS_SMALLEST[net],
        )
        assert (
            package(*torch.rand(2, 1, 3, smallest, smallest, generator=seeded(6))).isfinite().all()
        )
        with pytest.raises(RuntimeError):
            package(*torch.rand(2, 1, 3, smallest - 1, smallest - 1, generator=seeded(6)))


# distances


@pytest.mark.parametrize('n, m, dims', [(50, 60, 3), (200, 150, 30), (20, 25, 40)])
def test_frechet_and_kernel_agree_with_torch_fidelity(n, m, dims):
    g = seeded(n)
    a, b = (
        torch.randn(n, dims, generator=g).double(),
        torch.randn(m, dims, generator=g).double() * 1.3 + 0.2,
    )
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(a), fid_features_to_statistics(b), False
    )['frechet_inception_distance']
    singular = (
        min(n, m) <= dims
    )  # torch-fidelity then takes roots of eigenvalues that are zero up to rounding
    assert metrics.frechet_distance(a, b, per_feature=0).item() == pytest.approx(
        theirs, rel=1e-4 if singular else 1e-10
    )
    both = min(n, m)
    theirs = kid_features_to_metric(
        a[:both], b[:both], kid_subsets=1, kid_subset_size=both, verbose=False
    )['kernel_inception_distance_mean']
    assert metrics.kernel_distance(a[:both], b[:both]).item() == pytest.approx(theirs, rel=1e-9)


def test_too_few_samples_for_a_covariance():
    a = torch.zeros(30, 10)
    with pytest.raises(ValueError, match='5 images per feature, got 30 images for 10 features'):
        metrics.frechet_distance(a, a)
    for distance in (metrics.frechet_distance, metrics.kernel_distance, metrics.sliced_wasserstein):
        with pytest.raises(ValueError, match='at least two images'):
            distance(a[:1], a)
        with pytest.raises(ValueError, match='must be finite, got 300 values'):
            distance(a, a * math.nan)


@pytest.mark.parametrize(
    'measure',
    [
        metrics.mean_error,
        metrics.psnr,
        lambda x, y, where=None: metrics.ssim(x, y, where=where),
        lambda x, y, where=None: metrics.paired_feature_distance(
            metrics.digits_features().layers, x, y, where
        ),
    ],
    ids=['error', 'psnr', 'ssim', 'features'],
)
def test_the_whole_image_is_a_region_too(measure):
    x, y = (
        torch.rand(4, 1, 8, 8, generator=seeded(7)) * 2 - 1,
        torch.rand(4, 1, 8, 8, generator=seeded(8)) * 2 - 1,
    )
    everywhere = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    torch.testing.assert_close(measure(x, y, where=everywhere), measure(x, y))
    with pytest.raises(ValueError, match='where must hold a pixel'):
        measure(x, y, where=~everywhere)
    other = torch.where(everywhere.tril(-1), y, x)  # equal on the upper triangle
    assert (measure(other, x, where=everywhere.tril(-1)) != measure(other, x)).all()


# textures


def test_texture_scores_on_random_fields():
    g = seeded(9)
    field = torch.randn(1, 3, 40, 40, generator=g)
    piece = field[..., 5:35, 4:34]
    assert (
        metrics.copy_rate(piece, field).item() == 1
        and metrics.copy_rate(torch.randn(1, 3, 30, 30, generator=g), field).item() < 0.02
    )
    assert (
        metrics.patch_distance(piece, piece, generator=seeded(0)).abs().max() == 0
        and metrics.spectrum_distance(piece, piece) == 0
    )
    white = torch.stack(
        [metrics.spectrum_distance(*torch.randn(2, 1, 1, 64, 64, generator=g)) for _ in range(20)]
    )
    brown = metrics.spectrum_distance(
        torch.randn(1, 1, 64, 64, generator=g).cumsum(2).cumsum(3),
        torch.randn(1, 1, 64, 64, generator=g),
    )
    assert brown > 3 * white.max()
    louder = metrics.spectrum_distance(2 * piece, piece)
    torch.testing.assert_close(louder, torch.full((1,), 20 * math.log10(2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('factor', [2, 4])
def test_power_is_parsevals(factor):
    "Bands hold the mean power: white noise of variance v has v in every band, at every size."
    x = factor * torch.randn(50, 1, 48, 64, generator=seeded(10))
    bands = metrics.band_power(x).mean(0)
    assert (bands / factor**2 - 1).abs().max() < 0.25 and abs(
        bands[4:].mean() / factor**2 - 1
    ) < 0.03


# masks


@pytest.mark.parametrize('name', list(FAMILIES))
def test_every_family_fits_is_seeded_and_does_not_depend_on_its_company(name):
    draw, x = FAMILIES[name], torch.zeros(5, 3, 12, 20)
    known = check_known(draw(5, 12, 20, seeded(3)), x)
    assert torch.equal(known, draw(5, 12, 20, seeded(3)))
    alone = torch.cat([draw(1, 12, 20, [seeded(s)]) for s in range(3)])
    assert torch.equal(draw(3, 12, 20, [seeded(s) for s in range(3)]), alone)
    with pytest.raises(ValueError, match='at least'):
        draw(1, 1, 8, seeded(0))


def test_the_sets_of_the_sources():
    assert (
        list(MASKS) == ['extrema', 'square', 'thin', 'wide']
        and len(REPAINT) == 6
        and set(REPAINT.values()) < set(FAMILIES.values())
    )


def test_latent_mask_by_brute_force():
    known = torch.rand(20, 1, 12, 8, generator=seeded(11)) < 0.9
    latent = latent_known(known, 4)
    for n in range(20):
        for i in range(3):
            for j in range(2):
                assert latent[n, 0, i, j] == known[n, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].all()


@pytest.mark.parametrize(
    'bad, error, says',
    [
        (torch.ones(2, 1, 8, 9, dtype=torch.bool), ValueError, r'got \(2, 1, 8, 9\)'),
        (torch.ones(3, 1, 8, 8, dtype=torch.bool), ValueError, r'2 or 1, 1, 8, 8'),
        (torch.ones(8, 8, dtype=torch.bool), ValueError, 'shape'),
        (torch.ones(1, 1, 8, 8, dtype=torch.uint8), TypeError, 'torch.uint8'),
        (None, TypeError, 'NoneType'),
        (
            torch.ones(1, 1, 8, 8, dtype=torch.bool),
            ValueError,
            'missing pixel in every mask, got 1 of 1',
        ),
        (
            torch.zeros(2, 1, 8, 8, dtype=torch.bool),
            ValueError,
            'known pixel in every mask, got 2 of 2',
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(bad, error, says):
    with pytest.raises(error, match=says):
        check_known(bad, torch.zeros(2, 3, 8, 8))
