"The picture on the landing page: one image cut into patches, each with the noise of its own time."

import math
import random

COLOURS = [(17, 22, 42), (61, 79, 143), (159, 178, 242), (255, 226, 178), (255, 180, 84)]
WIDTH, HEIGHT, PATCH, PIXEL = 80, 20, 5, 10


def colour(value):
    "A shade between night and sunrise for a value in [0, 1]."
    place = min(max(value, 0), 1) * (len(COLOURS) - 1)
    low = min(int(place), len(COLOURS) - 2)
    return '#%02x%02x%02x' % tuple(
        round(a + (place - low) * (b - a)) for a, b in zip(COLOURS[low], COLOURS[low + 1])
    )


def clean(x, y):
    "The image: a sun over hills, with values in [0, 1]."
    sun = math.exp(-((x - 22) ** 2 + (y - 7) ** 2) / 30)
    hills = y > 14 + 2.2 * math.sin(x / 7) + 1.3 * math.sin(x / 3.1 + 1)
    return 0.12 + 0.06 * math.sin(x / 2) if hills else 0.3 + 0.028 * y + 0.62 * sun


def picture():
    """The banner as SVG: rectified flow, x_t = (1 - t) x + t noise, with one t per patch, larger
    towards the right."""
    draw = random.Random(2606)
    times = {
        (i, j): min(max(i * PATCH / WIDTH * 1.25 - 0.25 + draw.uniform(-0.22, 0.22), 0), 1)
        for i in range(WIDTH // PATCH)
        for j in range(HEIGHT // PATCH)
    }
    cells = []
    for y in range(HEIGHT):
        for x in range(WIDTH):
            t = times[x // PATCH, y // PATCH]
            shade = colour((1 - t) * clean(x, y) + t * draw.gauss(0.45, 0.25))
            cells.append(
                f'<path fill="{shade}" d="M{x * PIXEL} {y * PIXEL}h{PIXEL}v{PIXEL}h-{PIXEL}z"/>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * PIXEL} {HEIGHT * PIXEL}" shape-rendering="crispEdges" '
        f'preserveAspectRatio="xMidYMid slice">{"".join(cells)}</svg>\n'
    )
