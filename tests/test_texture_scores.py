"Texture scores on random fields, where the right answer is known."

import math

import pytest
import torch

from asyncpatch import texture_scores


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_texture_scores_on_random_fields():
    g = seeded(9)
    field = torch.randn(1, 3, 40, 40, generator=g)
    piece = field[..., 5:35, 4:34]
    assert (
        texture_scores.copy_rate(piece, field).item() == 1
        and texture_scores.copy_rate(torch.randn(1, 3, 30, 30, generator=g), field).item() < 0.02
    )
    assert (
        texture_scores.patch_distance(piece, piece, generator=seeded(0)).abs().max() == 0
        and texture_scores.spectrum_distance(piece, piece) == 0
    )
    white = torch.stack(
        [
            texture_scores.spectrum_distance(*torch.randn(2, 1, 1, 64, 64, generator=g))
            for _ in range(20)
        ]
    )
    brown = texture_scores.spectrum_distance(
        torch.randn(1, 1, 64, 64, generator=g).cumsum(2).cumsum(3),
        torch.randn(1, 1, 64, 64, generator=g),
    )
    assert brown > 3 * white.max()
    louder = texture_scores.spectrum_distance(2 * piece, piece)
    torch.testing.assert_close(louder, torch.full((1,), 20 * math.log10(2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('factor', [2, 4])
def test_power_is_parsevals(factor):
    "Bands hold the mean power: white noise of variance v has v in every band, at every size."
    x = factor * torch.randn(50, 1, 48, 64, generator=seeded(10))
    bands = texture_scores.band_power(x).mean(0)
    assert (bands / factor**2 - 1).abs().max() < 0.25 and abs(
        bands[4:].mean() / factor**2 - 1
    ) < 0.03
