"Make the textures that ship, from scikit-image and from Debian's package supertuxkart-data."

import sys
from pathlib import Path

import skimage.data
from PIL import Image

OUT = Path(__file__).parents[1] / 'asyncpatch' / 'stock' / 'textures'
SIDE = {  # pixels on a side of what ships
    'brick': 256,
    'grass': 256,
    'gravel': 256,
    'leaves': 192,
    'ice': 256,
    'sand': 256,
    'granite': 128,
    'slate': 192,
    'lichen': 192,
    'cliff': 192,
    'ceramic': 128,
    'stones': 160,
    'wall': 192,
    'planks': 192,
    'paving': 192,
}
REPEATED = {'leaves', 'granite', 'slate', 'lichen', 'cliff', 'ceramic', 'stones', 'paving'}
GAME = {  # files of supertuxkart-data 1.4 below usr/share/games/supertuxkart/data
    'leaves': 'tracks/black_forest/forest_floor.jpg',
    'ice': 'tracks/ancient_colosseum_labyrinth/Ice03_col.jpg',
    'sand': 'tracks/sandtrack/sand.png',
    'granite': 'textures/Tizeta_grey1.png',
    'slate': 'textures/blackrock.jpg',
    'lichen': 'tracks/black_forest/rock_gray.jpg',
    'cliff': 'textures/rockMountain.jpg',
    'ceramic': 'textures/ceramic.jpg',
    'stones': 'textures/rockwall.jpg',
    'wall': 'tracks/ancient_colosseum_labyrinth/3td_BrickOldRound_01.jpg',
    'planks': 'textures/wood_planks1.jpg',
    'paving': 'textures/hacienda_ground.jpg',
}


def picture(name: str, game: Path) -> Image.Image:
    "A texture as its source has it, once where it is shown two times two."
    if name not in GAME:
        return Image.fromarray(getattr(skimage.data, name)())
    found = Image.open(game / GAME[name]).convert('RGB')
    width, height = found.size
    return found.crop((0, 0, width // 2, height // 2)) if name in REPEATED else found


def main(game: str):
    "Read every texture, reduce it, and write it as a JPEG file."
    OUT.mkdir(exist_ok=True)
    for name, side in SIDE.items():
        small = picture(name, Path(game)).resize((side, side), Image.LANCZOS)
        small.save(OUT / f'{name}.jpg', quality=90, subsampling=0, optimize=True)


if __name__ == '__main__':
    main(sys.argv[1])
