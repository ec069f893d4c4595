"Distances against other packages, and laws on random cases."

import math

import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from asyncpatch import distances, features


def seeded(seed):
    return torch.Generator().manual_seed(seed)



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
    assert distances.frechet_distance(a, b, per_feature=0).item() == pytest.approx(
        theirs, rel=1e-4 if singular else 1e-10
    )
    both = min(n, m)
    theirs = kid_features_to_metric(
        a[:both], b[:both], kid_subsets=1, kid_subset_size=both, verbose=False
    )['kernel_inception_distance_mean']
    assert distances.kernel_distance(a[:both], b[:both]).item() == pytest.approx(theirs, rel=1e-9)


def test_too_few_samples_for_a_covariance():
    a = torch.zeros(30, 10)
    with pytest.raises(ValueError, match='5 images per feature, got 30 images for 10 features'):
        distances.frechet_distance(a, a)
    for distance in (distances.frechet_distance, distances.kernel_distance, distances.sliced_wasserstein):
        with pytest.raises(ValueError, match='at least two images'):
            distance(a[:1], a)
        with pytest.raises(ValueError, match='must be finite, got 300 values'):
            distance(a, a * math.nan)


@pytest.mark.parametrize(
    'measure',
    [
        distances.mean_error,
        distances.psnr,
        lambda x, y, where=None: distances.ssim(x, y, where=where),
        lambda x, y, where=None: features.paired_feature_distance(
            features.digits_features().layers, x, y, where
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
