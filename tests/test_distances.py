"Distances against other packages, and laws on random cases."

import math
import warnings

import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from asyncpatch import distances, features, pixel_errors


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def optional(name):
    return pytest.importorskip(name, reason=f'{name} is compared with where it is installed')


# sets


def by_torch_fidelity(a, b):
    "Fréchet distance, and kernel distance over all pairs."
    FD = fid_statistics_to_metric(
        fid_features_to_statistics(a), fid_features_to_statistics(b), False
    )
    n = min(len(a), len(b))
    KD = kid_features_to_metric(a[:n], b[:n], kid_subsets=1, kid_subset_size=n, verbose=False)
    return FD['frechet_inception_distance'], KD['kernel_inception_distance_mean']


@pytest.mark.parametrize('n, m, dims', [(50, 60, 3), (200, 150, 30), (20, 25, 40)])
def test_frechet_and_kernel_agree_with_torch_fidelity(n, m, dims):
    g = seeded(n)
    a = torch.randn(n, dims, generator=g).double()
    b = torch.randn(m, dims, generator=g).double() * 1.3 + 0.2
    FD, KD = by_torch_fidelity(a, b)
    # torch-fidelity takes roots of eigenvalues, which are zero up to rounding where n <= dims
    rel = 1e-4 if min(n, m) <= dims else 1e-10
    assert distances.frechet_distance(a, b, per_feature=0).item() == pytest.approx(FD, rel=rel)
    both = min(n, m)
    assert distances.kernel_distance(a[:both], b[:both]).item() == pytest.approx(KD, rel=1e-9)


def test_sets_of_random_images_agree_with_torchmetrics():
    "The same formulas on the same features, the pixels of random images, in torchmetrics' code."
    fid = optional('torchmetrics.image.fid')
    kid = optional('torchmetrics.image.kid')
    g = seeded(30)
    x, y = torch.rand(90, 12, generator=g).double(), torch.rand(70, 12, generator=g).double() ** 2
    theirs = fid._compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()).item()
    assert distances.frechet_distance(x, y).item() == pytest.approx(theirs, rel=1e-6)
    theirs = kid.poly_mmd(x[:70], y).item()
    assert distances.kernel_distance(x[:70], y).item() == pytest.approx(theirs, rel=1e-9)


# pairs


@pytest.mark.parametrize('channels, size', [(1, (8, 8)), (3, (20, 31))])
def test_psnr_and_ssim_of_random_images_agree_with_scikit_image(channels, size):
    metrics = optional('skimage.metrics')
    x, y = (torch.rand(5, channels, *size, generator=seeded(s)).double() * 2 - 1 for s in (1, 2))
    y = (x + 0.4 * y).clamp(-1, 1)
    for i in range(5):
        pair = x[i].numpy(), y[i].numpy()
        expected = metrics.peak_signal_noise_ratio(*pair, data_range=2)
        assert pixel_errors.psnr(x, y)[i].item() == pytest.approx(expected, rel=1e-9)
        options = dict(win_size=7, data_range=2, use_sample_covariance=False, channel_axis=0)
        expected = metrics.structural_similarity(*pair, **options)
        assert pixel_errors.ssim(x, y)[i].item() == pytest.approx(expected, rel=1e-9)


def test_psnr_of_random_images_agrees_with_torchmetrics():
    functional = optional('torchmetrics.functional.image')
    x, y = (torch.rand(5, 3, 20, 31, generator=seeded(s)).double() * 2 - 1 for s in (3, 4))
    options = dict(data_range=2.0, reduction='none', dim=(1, 2, 3))
    expected = functional.peak_signal_noise_ratio(x, y, **options)
    torch.testing.assert_close(
        pixel_errors.psnr(x, y), expected, rtol=1e-6, atol=0
    )  # theirs is single
    assert not torch.allclose(pixel_errors.psnr(x, y), expected + 0.01)


def test_ssim_of_random_images_agrees_with_torchmetrics():
    "Theirs mirrors the pictures at their borders, ours leaves out windows that reach beyond."
    functional = optional('torchmetrics.functional.image')
    x, y = (torch.rand(5, 3, 28, 31, generator=seeded(s)).double() * 2 - 1 for s in (5, 6))
    y = (x + 0.4 * y).clamp(-1, 1)
    options = dict(data_range=2.0, reduction='none', gaussian_kernel=False, kernel_size=7)
    expected = functional.structural_similarity_index_measure(x, y, **options)
    mirrored = (torch.nn.functional.pad(v, (3, 3, 3, 3), mode='reflect') for v in (x, y))
    torch.testing.assert_close(pixel_errors.ssim(*mirrored), expected, rtol=1e-6, atol=0)
    assert not torch.allclose(pixel_errors.ssim(x, y), expected, rtol=1e-3)


# what is refused

PAIRED = {
    'error': pixel_errors.mean_error,
    'psnr': pixel_errors.psnr,
    'ssim': pixel_errors.ssim,
    'nearest': pixel_errors.nearest_distance,
    'features': lambda x, y: features.paired_feature_distance(
        features.digits_features().layers, x, y
    ),
}


@pytest.mark.parametrize('name', list(PAIRED))
def test_bytes_are_refused_and_other_precisions_are_counted_in_single(name):
    measure = PAIRED[name]
    x, y = (torch.rand(3, 1, 8, 8, generator=seeded(s)) * 2 - 1 for s in (5, 6))
    levels = ((x + 1) * 127.5).round()
    with pytest.raises(TypeError, match='floating-point'):
        measure(levels.byte(), levels.byte())
    with pytest.raises(TypeError, match='tensor of images'):
        measure(x.numpy(), y)
    with pytest.raises(ValueError, match=r'images, \(B, C, H, W\)'):
        measure(x[0], y[0])
    for dtype in (torch.float16, torch.bfloat16):
        rounded = x.to(dtype).float(), y.to(dtype).float()
        assert torch.equal(measure(x.to(dtype), y.to(dtype)), measure(*rounded))
    assert measure(x[:0], y if name == 'nearest' else y[:0]).shape == (0,)


@pytest.mark.parametrize('name', ['psnr', 'ssim', 'features'])
def test_the_range_of_images_is_checked(name):
    measure = PAIRED[name]
    x, y = (torch.rand(3, 1, 8, 8, generator=seeded(s)) * 2 - 1 for s in (7, 8))
    with pytest.raises(ValueError, match=r'\[0, 255\]'):
        measure(x, (y + 1) * 127.5)
    with pytest.warns(UserWarning, match=r'use 2 \* x - 1'):
        measure((x + 1) / 2, y)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        measure(x, y)
        measure(x + torch.randn(x.shape, generator=seeded(9)), y)  # noise may leave the range


def test_sums_of_many_pixels_do_not_overflow_in_half_precision():
    x = torch.zeros(1, 3, 256, 256, dtype=torch.float16)
    assert pixel_errors.mean_error(x, x + 1).item() == 1
    everywhere = torch.ones(1, 1, 256, 256, dtype=torch.bool)
    assert pixel_errors.psnr(x, x + 1, everywhere).item() == pytest.approx(10 * math.log10(4))


def test_too_few_samples_for_a_covariance():
    a = torch.zeros(30, 10)
    with pytest.raises(ValueError, match='5 images per feature, got 30 images for 10 features'):
        distances.frechet_distance(a, a)
    sets = distances.frechet_distance, distances.kernel_distance, distances.sliced_wasserstein
    for distance in sets:
        with pytest.raises(ValueError, match='at least two images'):
            distance(a[:1], a)
        with pytest.raises(ValueError, match='must be finite, got 300 values'):
            distance(a, a * math.nan)


@pytest.mark.parametrize(
    'measure',
    [
        pixel_errors.mean_error,
        pixel_errors.psnr,
        lambda x, y, where=None: pixel_errors.ssim(x, y, where=where),
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
