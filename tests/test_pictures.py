"Pictures and masks of users: one reading for both, over formats, modes and orientations."

import io
import os
import stat
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from asyncpatch.data import to_uint8
from asyncpatch.pictures import WRITTEN, read_mask, read_picture, write_picture


def noise(seed, *shape):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def hole(seed, height=20, width=28):
    "A box somewhere, true inside."
    rng = np.random.RandomState(seed)
    top, left = rng.randint(1, height - 8), rng.randint(1, width - 8)
    inside = np.zeros((height, width), bool)
    inside[top : top + rng.randint(2, 7), left : left + rng.randint(2, 7)] = True
    return inside


def as_bytes(inside):
    return inside.astype(np.uint8) * 255


def constant(inside, value):
    return np.full(inside.shape, value, np.uint8)


def palette(inside, *colours):
    image = Image.fromarray(inside.astype(np.uint8), 'L').convert('P')
    image.putdata(inside.astype(np.uint8).ravel().tolist())
    image.putpalette([number for colour in colours for number in colour])
    return image


FORMS = {
    'bytes': lambda m: Image.fromarray(as_bytes(m)),
    'bits': lambda m: Image.fromarray(as_bytes(m)).convert('1'),
    'zero and one': lambda m: Image.fromarray(m.astype(np.uint8)),
    'zero and 128': lambda m: Image.fromarray(m.astype(np.uint8) * 128),
    'sixteen bits': lambda m: Image.fromarray(m.astype(np.uint16) * 65535),
    'sixteen, 0 and 1': lambda m: Image.fromarray(m.astype(np.uint16)),
    'sixteen, grey': lambda m: Image.fromarray(
        np.where(m, 60000, noise(1, *m.shape).astype(np.uint16) * 90).astype(np.uint16)
    ),
    'colour': lambda m: Image.fromarray(as_bytes(m)).convert('RGB'),
    'red on black': lambda m: Image.fromarray(
        np.dstack([as_bytes(m), constant(m, 0), constant(m, 0)])
    ),
    'palette': lambda m: palette(m, (0, 0, 0), (255, 255, 255)),
    'palette, reversed': lambda m: palette(~m, (255, 255, 255), (0, 0, 0)),
    'palette of labels': lambda m: palette(m, (0, 0, 0), (128, 0, 0)),
    'opaque': lambda m: Image.fromarray(np.dstack([as_bytes(m)] * 3 + [constant(m, 255)])),
    'grey, opaque': lambda m: Image.fromarray(np.dstack([as_bytes(m), constant(m, 255)])),
    'white paint': lambda m: Image.fromarray(np.dstack([as_bytes(m)] * 4)),
    'cut from a picture': lambda m: Image.fromarray(
        np.dstack([noise(2, *m.shape, 3), as_bytes(~m)])
    ),
    'cut from black': lambda m: Image.fromarray(np.dstack([constant(m, 0)] * 3 + [as_bytes(~m)])),
}


def turned(image, orientation):
    "The same picture stored on its side, with the tag that sets it upright."
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions, inverted
    exif = Image.Exif()
    exif[274] = orientation
    stored = image if orientation == 1 else image.transpose(Image.Transpose(back[orientation]))
    file = io.BytesIO()
    stored.save(file, 'PNG', exif=exif)
    file.seek(0)
    return file


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_mask_is_the_same_in_every_form_and_orientation(form, orientation):
    "With the negative control that the opposite sign gives the opposite mask."
    inside = hole(orientation)
    file = turned(FORMS[form](inside), orientation)
    upright = ImageOps.exif_transpose(Image.open(file))
    assert upright.size == (28, 20)
    mask = read_mask(file, (20, 28), name='m')
    assert (mask.known[0, 0].numpy() == ~inside).all(), mask.notes
    assert f'{inside.mean():.1%} of the picture is missing' in mask.notes[-1]
    opposite = read_mask(file, (20, 28), white='known')
    assert (opposite.known[0, 0].numpy() == inside).all()


@pytest.mark.parametrize('orientation', range(1, 9))
def test_picture_and_mask_turn_together(orientation):
    pixels, inside = noise(3, 20, 28, 3), hole(3)
    picture = read_picture(turned(Image.fromarray(pixels), orientation))
    assert (to_uint8(picture.x)[0].permute(1, 2, 0).numpy() == pixels).all()
    mask = read_mask(turned(Image.fromarray(as_bytes(inside)), orientation), like=picture)
    assert (mask.known[0, 0].numpy() == ~inside).all()


@pytest.mark.parametrize('longest', [5, 7, 14, 20, 27, 28, 40])
def test_a_mask_shrinks_with_its_picture(longest):
    "A known pixel has taken in nothing of the hole: another hole leaves all known pixels alone."
    pixels, inside = noise(4, 20, 28, 3), hole(4)
    other = pixels.copy()
    other[inside] = 255 - other[inside]
    x, y = (read_picture(Image.fromarray(p), longest=longest) for p in (pixels, other))
    known = read_mask(as_bytes(inside), like=x).known
    assert known.shape[-2:] == x.x.shape[-2:] and max(known.shape) <= max(longest, 1)
    assert torch.equal((x.x * known), (y.x * known))
    assert not known.all()


@pytest.mark.parametrize(
    'values, says',
    [
        (np.arange(4).repeat(7)[None].repeat(20, 0).astype(np.uint8), 'brighter than 127.5'),
        (np.arange(256).reshape(16, 16).repeat(2, 0)[:20, :].astype(np.uint16), 'size|brighter'),
        (np.full((20, 28), 1, np.uint8), 'from 1 to 1'),
        (np.full((20, 28), 2.0, np.float32), 'values from 0 to 1'),
        (np.zeros((20, 27), np.uint8), 'have the size of the picture, 28 x 20'),
        (np.zeros((28, 20), np.uint8), 'have the size of the picture, 28 x 20'),
        (np.zeros((10, 14), np.uint8), 'have the size of the picture, 28 x 20'),
        (np.zeros((20, 28, 3, 2), np.uint8), 'cannot be read as an image'),
        (np.array([['a']]), 'cannot be read as an image'),
    ],
)
def test_what_is_no_mask_is_refused_by_its_name(values, says):
    with pytest.raises(ValueError, match='known .*|known:') as error:
        read_mask(values, (20, 28), name='known')
    assert any(word in str(error.value) for word in says.split('|'))


MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'CMYK', 'YCbCr', 'HSV', 'I;16')


@pytest.mark.parametrize('mode', MODES)
def test_every_mode_gives_one_picture_in_range(mode):
    "Of the colours that the mode can hold, and without a note where all is opaque."
    colour = Image.fromarray(noise(5, 12, 9, 3))
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(colour.convert('L')).astype(np.uint16) * 257)
    else:
        image = colour.convert('RGBA').convert('RGBa') if mode == 'RGBa' else colour.convert(mode)
    picture = read_picture(image)
    assert picture.alpha is None and picture.notes == ()
    assert picture.x.shape[1] == (1 if mode in ('1', 'L', 'LA', 'I;16') else 3)
    assert picture.x.min() >= -1 and picture.x.max() <= 1
    if mode not in ('1', 'P', 'PA'):
        grey = read_picture(image, channels=1).x
        assert (grey - read_picture(colour, channels=1).x).abs().mean() < 0.03


@pytest.mark.parametrize('suffix', list(WRITTEN))
@pytest.mark.parametrize('channels', [1, 3])
def test_what_is_written_is_read_back(tmp_path, suffix, channels):
    x = torch.from_numpy(noise(6, 1, channels, 14, 17)).float() / 127.5 - 1
    file = write_picture(tmp_path / f'p{suffix}', x)
    kinds = {'.png': 'PNG', '.webp': 'WEBP', '.bmp': 'BMP'} | {'.tif': 'TIFF', '.tiff': 'TIFF'}
    assert Image.open(file).format == kinds.get(suffix, 'JPEG')
    again = read_picture(file, channels=channels).x
    if 'jp' in suffix:
        assert 0 < (again - x).abs().mean() < 0.1
    else:
        assert torch.equal(again, x)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


def test_transparency_is_kept_or_said_to_be_lost(tmp_path):
    x = torch.from_numpy(noise(7, 3, 9, 9)).float() / 127.5 - 1
    alpha = torch.from_numpy(noise(8, 1, 9, 9)).float() / 255
    for suffix in ('.png', '.webp', '.tif'):
        again = read_picture(write_picture(tmp_path / f'a{suffix}', x, alpha))
        assert torch.equal(again.alpha[0], alpha) and 'laid on white' in again.notes[0]
        assert (again.x[0] - (alpha * x + 1 - alpha)).abs().max() < 0.02
    for suffix in ('.jpg', '.bmp'):
        with pytest.warns(UserWarning, match='no transparency'):
            write_picture(tmp_path / f'a{suffix}', x, alpha)


def test_nothing_is_written_where_something_is_wrong(tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    x = torch.zeros(1, 8, 8)
    for name in ('pipe.png', 'x.gif', 'x', 'x.PnG.txt', '/dev/null'):
        with pytest.raises(ValueError, match='file must'):
            write_picture(tmp_path / name, x)
    for wrong in (torch.zeros(2, 8, 8), torch.zeros(2, 1, 8, 8), torch.zeros(8, 8), x * torch.nan):
        with pytest.raises(ValueError, match='x must'):
            write_picture(tmp_path / 'x.png', wrong)
    with pytest.raises(TypeError, match='x must'):
        write_picture(tmp_path / 'x.png', x.long())
    assert [path.name for path in tmp_path.iterdir()] == ['pipe.png']
    assert stat.S_ISFIFO((tmp_path / 'pipe.png').stat().st_mode)


def png_that_claims(width, height):
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(bytes(1000))), (b'IEND', b'')]
    parts = [
        struct.pack('>I', len(c)) + n + c + struct.pack('>I', zlib.crc32(n + c)) for n, c in chunks
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


@pytest.mark.parametrize('size', [(2**31 - 1, 2**31 - 1), (2**20, 2**20), (20_000, 10_000)])
def test_a_header_that_claims_too_much_is_refused_at_once(size):
    with pytest.raises(ValueError, match='cannot be read as an image'):
        read_picture(io.BytesIO(png_that_claims(*size)))


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM'])
def test_damaged_files_give_a_picture_or_a_clear_error(kind):
    "60 mutations of a true file: cut, and bytes changed. Nothing else than ValueError comes out."
    true = io.BytesIO()
    Image.fromarray(noise(9, 16, 16, 3)).save(true, kind)
    true, refused = true.getvalue(), 0
    for seed in range(60):
        rng = np.random.RandomState(seed)
        content = bytearray(true[: rng.randint(1, len(true))] if seed % 2 else true)
        for place in rng.randint(0, len(content), rng.randint(0, 6)):
            content[place] = rng.randint(256)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                x = read_picture(io.BytesIO(bytes(content)), name='p').x
                assert x.min() >= -1 and x.max() <= 1
            except ValueError as error:
                assert str(error).startswith('p')
                refused += 1
    assert refused > 5


def test_several_pictures_in_a_file_are_reported():
    file = io.BytesIO()
    frames = [Image.fromarray(noise(seed, 8, 8)) for seed in range(3)]
    frames[0].save(file, 'GIF', save_all=True, append_images=frames[1:])
    file.seek(0)
    assert 'has 3 pictures: the first is read' in read_picture(file).notes[0]
