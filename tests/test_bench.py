"What `make bench` says has changed since its record before."

import sys
from pathlib import Path

import pytest

pytest.importorskip('scipy')
sys.path.insert(0, str(Path(__file__).parent.parent / 'benchmarks'))


def row(ratio, low, high):
    return dict(ratio=ratio, low=low, high=high)


@pytest.mark.parametrize(
    ('now', 'which'),
    [
        (row(1.3, 1.25, 1.35), ['slower']),
        (row(0.8, 0.75, 0.85), ['faster']),
        (row(1.3, 0.9, 1.7), []),  # the intervals meet
        (row(1.08, 1.07, 1.09), []),  # less than a tenth
    ],
)
def test_a_change_is_marked_where_it_is_large_and_sure(now, which):
    from bench import changes

    old = dict(laws=dict(fields=dict(perlin=row(1.0, 0.95, 1.05))))
    new = dict(laws=dict(fields=dict(perlin=now, new=row(9, 9, 9))), growth=dict(curve={8: 1.0}))
    assert [change['which'] for change in changes(new, old)] == which
