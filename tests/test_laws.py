"""Laws of the time field against reference code: one image at a time, in numpy, straight from the
sources' words."""

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from asyncpatch.conventions import generators
from asyncpatch.laws import T_MAX, T_MIN, asyncpatch_cells, look_up
from asyncpatch.rival_laws import (
    LAWS,
    ltg_pixel_density,
    split_mean,
    truncated_gaussian_pixel_density,
)

HEIGHT, WIDTH, SIDES = 6, 10, (1, 2, 4, 8, 16)


def on_patches(draw, side, values):
    "Spread `values(draw, number of patches)` over squares that start in the upper left corner."
    number = (np.arange(HEIGHT) // side)[:, None] * WIDTH + np.arange(WIDTH) // side
    _, patch = np.unique(number, return_inverse=True)
    return np.asarray(values(draw, patch.max() + 1))[patch.reshape(HEIGHT, WIDTH)]


def asyncpatch(draw):
    centre = draw.random()
    delta = min(0.5, centre, 1 - centre)
    return on_patches(
        draw, draw.choice(SIDES), lambda draw, k: draw.uniform(centre - delta, centre + delta, k)
    )


def half_normal(draw, cleanest, std):
    def value():
        t = cleanest + min((1 - cleanest) / 2, std) * abs(draw.normal())
        return t if t <= 1 else draw.uniform(cleanest, 1)

    return on_patches(draw, 2, lambda draw, k: [value() for _ in range(k)])


def shares(draw, mean, d):
    "SRM: halve, share, halve again."
    if d == 1:
        return [mean]
    first, second, a = d // 2, d - d // 2, max(d - 1 - d % 2, 1) ** 1.05
    low, high = max(0, d * mean - second), min(d * mean, first)
    part = low + (high - low) * draw.beta(a, a)
    return shares(draw, part / first, first) + shares(draw, (d * mean - part) / second, second)


def td_paint(draw):
    def values(draw, k):
        t = np.full(k, draw.random())
        t[draw.permutation(k)[: draw.integers(k)]] = 0
        return t

    return on_patches(draw, draw.choice(SIDES, p=np.array([1, 1, 1, 1, 8]) / 12), values)


REFERENCE = {
    'synchronous': lambda draw: np.full((HEIGHT, WIDTH), draw.random()),
    'logit_normal': lambda draw: np.full((HEIGHT, WIDTH), 1 / (1 + np.exp(-draw.normal()))),
    'independent': lambda draw: draw.random((HEIGHT, WIDTH)),
    'patchwise': lambda draw: on_patches(draw, draw.choice(SIDES), lambda draw, k: draw.random(k)),
    'asyncpatch': asyncpatch,
    'ltg': lambda draw: half_normal(draw, 1 - 1 / (1 + np.exp(-0.7 - draw.normal())), 0.6),
    'truncated_gaussian': lambda draw: half_normal(draw, draw.random(), 0.2),
    'mean_beta': lambda draw: on_patches(
        draw, 2, lambda draw, k: draw.permutation(shares(draw, draw.random(), k))
    ),
    'td_paint': td_paint,
}
STATISTICS = {
    'a corner': lambda t: t[:, 0, 0],
    'a pixel': lambda t: t[:, 3, 7],
    'mean': lambda t: t.mean((1, 2)),
    'spread': lambda t: np.ptp(t, (1, 2)),
    'cleanest': lambda t: t.min((1, 2)),
    'to the right': lambda t: t[:, 2, 4] - t[:, 2, 5],
    'below': lambda t: t[:, 3, 3] - t[:, 4, 3],
    'across': lambda t: t[:, 0, 0] - t[:, 5, 9],
    'within': lambda t: t.std((1, 2)),
}


def p_values(ours, reference):
    return [
        stats.ks_2samp(f(ours).round(6), f(reference).round(6), method='asymp').pvalue
        for f in STATISTICS.values()
    ]


@pytest.mark.parametrize('name', REFERENCE)
def test_a_law_is_its_reference(name, n=1500):
    """Nine numbers per image, single pixels, neighbours and the whole; and a rival law with the
    nearest name does not pass."""
    draw = np.random.default_rng(0)
    reference = np.stack([REFERENCE[name](draw) for _ in range(n)])
    drawn = lambda law: (
        LAWS[law](n, HEIGHT, WIDTH, torch.Generator().manual_seed(1), t_min=0, t_max=1)[:, 0]
        .double()
        .numpy()
    )
    assert min(p_values(drawn(name), reference)) > 1e-4
    rival = {
        'synchronous': 'logit_normal',
        'ltg': 'truncated_gaussian',
        'truncated_gaussian': 'ltg',
        'asyncpatch': 'patchwise',
        'patchwise': 'asyncpatch',
    }.get(name, 'synchronous')
    assert min(p_values(drawn(rival), reference)) < 1e-8


def test_what_a_centre_and_a_mean_promise():
    """AsyncPatch: every pixel's expectation given the centre is the centre. SRM: the mean of the
    drawn numbers is the mean."""
    centre, cells, index = asyncpatch_cells(
        40_000, HEIGHT, WIDTH, torch.Generator().manual_seed(2), t_min=0, t_max=1
    )
    off = look_up(cells, index)[:, 0, 2, 7] - centre[:, 0]
    for low in np.arange(0, 1, 0.2):
        some = off[(centre[:, 0] >= low) & (centre[:, 0] < low + 0.2)]
        assert abs(some.mean() / some.std() * len(some) ** 0.5) < 4.5
    for cells in (1, 2, 7, 15, 64):
        mean = torch.rand(500, 1, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(
            split_mean(mean, cells, 1.0, torch.Generator().manual_seed(4)).mean(1), mean[:, 0]
        )


@pytest.mark.parametrize('law', LAWS.values(), ids=LAWS)
def test_every_shape_has_its_fields(law):
    """One pixel, B equal to W, H unequal to W, lines: within the ends, and each image's field its
    own whatever the batch."""
    for n, height, width in ((1, 1, 1), (5, 1, 5), (3, 7, 2), (4, 4, 4), (2, 1, 9), (1, 16, 3)):
        t = law(n, height, width, generators(range(n)))
        assert (
            t.shape == (n, 1, height, width) and T_MIN - 1e-9 <= t.min() and t.max() <= T_MAX + 1e-7
        )
        for i in range(n):
            assert torch.equal(law(1, height, width, generators([i])), t[i : i + 1])


def half_normal_density(t, std, loc=None, scale=None):
    "The density of a pixel's time under Patch Forcing's laws, by adaptive quadrature in pieces."
    x = 1 - t
    normal = lambda u: np.exp(-u * u / 2) / np.sqrt(2 * np.pi)
    sigmoid = lambda y: 1 / (1 + np.exp(-y))

    def integrand(m):
        s = min(m / 2, std)
        step = 2 / s * normal((m - x) / s) + special.erfc(m / s / np.sqrt(2)) / m
        if loc is None or not 0 < m < 1:
            return step * (loc is None)
        return step * normal((special.logit(m) - loc) / scale) / (scale * m * (1 - m))

    places = [x + k * min(x / 2, std) for k in (0.5, 1, 2, 4, 8)] + [2 * std, 3 * std, 6 * std]
    places += [x * 10**k for k in range(13)]
    places += [] if loc is None else [sigmoid(loc + scale * k) for k in np.arange(-9, 9.1, 0.5)]
    edges = sorted({x, 1, *(min(max(place, x), 1) for place in places)})
    parts = [integrate.quad(integrand, a, b, epsrel=1e-9)[0] for a, b in zip(edges, edges[1:])]
    return sum(parts)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('std', [1e-3, 0.2, 0.6])
def test_densities_hold_their_accuracy_in_all_of_their_domain(std):
    """Times near both ends, narrow and wide laws; 100 midpoints gave .4208 for .4028, and .615 for
    1."""
    for t in (1e-4, 0.3, 0.5, 0.9, 0.999):
        time = torch.tensor([t], dtype=torch.float64)
        ours = truncated_gaussian_pixel_density(time, std).item()
        assert ours == pytest.approx(half_normal_density(t, std), rel=1e-6)
        for loc, scale in ((0.7, 1.0), (3.0, 1.0), (-4.0, 0.5), (0.0, 0.05), (0.0, 3.0)):
            ours = ltg_pixel_density(time, loc, scale, std).item()
            assert ours == pytest.approx(
                half_normal_density(t, std, loc, scale), rel=1e-5, abs=1e-9
            )
