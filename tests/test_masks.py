"Masks where modules meet: laws of every family, and masks that do not fit."

import pytest
import torch

from asyncpatch.conventions import check_known
from asyncpatch.masks import FAMILIES, MASKS, REPAINT, latent_known, random_pixels


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('name', list(FAMILIES))
def test_every_family_fits_is_seeded_and_does_not_depend_on_its_company(name):
    draw, x = FAMILIES[name], torch.zeros(5, 3, 12, 20)
    known = check_known(draw(5, 12, 20, seeded(3)), x, both=True)
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
        (torch.ones(1, 8, 8, dtype=torch.bool), ValueError, 'shape'),
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
        check_known(bad, torch.zeros(2, 3, 8, 8), both=True)


def test_the_random_pixels_of_rad():
    "Missing are ceil((N - 1) q / 100) of N pixels for a q from 90 to 95, and nothing else."
    known = random_pixels(500, 16, 16, seeded(0))
    missing = (~known).sum((1, 2, 3)).unique().tolist()
    assert missing == [-(-255 * q // 100) for q in range(90, 96)]


@pytest.mark.parametrize(
    'n, height, width, says', [(0, 8, 8, 'n'), (1, 1, 8, 'height'), (1, 8, 1, 'width')]
)
def test_an_error_names_the_argument(n, height, width, says):
    for draw in FAMILIES.values():
        with pytest.raises(ValueError, match=f'{says} must be at least'):
            draw(n, height, width)
