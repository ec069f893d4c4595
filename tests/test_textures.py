"Textures that ship: source and licence, no repetition, regions and crops apart."

import pytest
import torch
from torch.testing import assert_close

from asyncpatch.fashion import STOCK
from asyncpatch.recipes import CachedImages, dataset
from asyncpatch.textures import (
    TEXTURE_CLASSES,
    TEXTURES,
    load_texture,
    texture_crops,
    texture_region,
)


def test_every_texture_has_its_file_its_source_and_a_licence():
    readme = (STOCK / 'README.md').read_text()
    files = sorted(path.stem for path in (STOCK / 'textures').glob('*.jpg'))
    assert files == sorted(kind.name for kind in TEXTURES)
    for kind in TEXTURES:
        line = next(line for line in readme.splitlines() if line.startswith(f'| {kind.name}.jpg'))
        assert line.rstrip(' |').endswith(kind.licence)
        assert kind.licence in ('CC0', 'public domain') and kind.credit


def test_colour_and_grey_agree():
    weights = torch.tensor([0.2126, 0.7152, 0.0722]).view(3, 1, 1)
    for kind in TEXTURES:
        grey, colour = load_texture(kind.name), load_texture(kind.name, colour=True)
        whole = (colour.abs() < 1).all(0)  # where nothing was cut off
        assert_close((weights * colour).sum(0)[whole], grey[0][whole], atol=1e-5, rtol=0)


@pytest.mark.parametrize('colour', [False, True])
def test_crops_are_the_same_cached_and_one_by_one(colour):
    source = texture_crops(16, count=20, colour=colour)
    cached = CachedImages(source, at_once=64)
    assert len(cached) == len(source) == 20 * len(TEXTURE_CLASSES)
    index = torch.tensor([3, 100, 239])
    assert_close(cached[index].x, source[index].x, atol=1 / 255, rtol=0)
    assert cached.credit == source.credit and cached.classes == TEXTURE_CLASSES


def test_the_recipes_data_are_these_crops():
    index = torch.tensor([5, 24])
    assert torch.equal(dataset('textures')[index].x, texture_crops(32)[index].x)
    assert dataset('textures-colour')[index].x.shape == (2, 3, 32, 32)


def test_zooms_and_mirror_images_come_up_equally_often():
    # a crop of a ramp tells its place, its zoom and its mirroring
    source = texture_crops(32).sources[TEXTURE_CLASSES.index('brick')]
    first = source.first.tolist() + [source.pixels.shape[1]]
    number = torch.arange(first[-1], dtype=torch.float32)[None]
    ramp = type(source)(**{**vars(source), 'pixels': number, 'count': 3000})
    x = ramp[torch.arange(3000)].x[:, 0, 0]
    zoom = torch.bucketize(
        x[:, 0].contiguous(), torch.tensor(first[1:-1], dtype=torch.float32), right=True
    )
    counts = torch.bincount(zoom, minlength=3)
    assert (counts - 1000).abs().max() < 5 * (3000 * 2 / 9) ** 0.5
    mirrored = (x[:, 0] > x[:, 1]).sum()
    assert abs(mirrored - 1500) < 5 * (3000 / 4) ** 0.5


def test_a_region_is_cut_before_it_is_reduced():
    for zoom in (0.75, 0.5):
        left = texture_region('gravel', 'train', zoom)
        alone = torch.nn.functional.interpolate(
            load_texture('gravel')[None, :, :, :160],
            left.shape[1:],
            mode='bilinear',
            antialias=True,
        )
        assert torch.equal(left, alone[0])
