"""Laws that tie the low-rank oracle to the dense one, to samplers and to inpainting."""

import inspect
import math

import pytest
import torch

from asyncpatch.conventions import generators
from asyncpatch.inpainting import native
from asyncpatch.joint import GaussianMixture, corrupt
from asyncpatch.lowrank import LowRankMixture
from asyncpatch.samplers import sample
from asyncpatch.schedules import cosine
from asyncpatch.spatial import synchronous_maps


def mixture(components=4, shape=(1, 4, 4), rank=2, seed=0, dtype=torch.float64, **more):
    "Random components in two classes."
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(shape)
    draw = torch.randn(components, size, rank + 2, generator=generator, dtype=torch.float64)
    means = 1.5 * draw[..., 0].reshape(components, *shape)
    remainder = 0.02 + 0.1 * draw[..., 1] ** 2
    weights = torch.full((components,), 1 / components)
    labels = torch.arange(components) % 2
    return LowRankMixture(weights, means, draw[..., 2:], remainder, labels, **more).to(dtype)


def test_everything_the_dense_oracle_has():
    "One interface: every public name, and every argument in the same place."
    for name in (n for n in dir(GaussianMixture) if not n.startswith('_')):
        assert hasattr(LowRankMixture, name)
        member = getattr(GaussianMixture, name)
        if callable(member):
            theirs = list(inspect.signature(member).parameters)
            ours = list(inspect.signature(getattr(LowRankMixture, name)).parameters)
            assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('shape', [(3,), (5, 2), (3, 2, 2)])
@pytest.mark.parametrize('rank', [1, 3])
def test_equal_to_dense_on_other_mixtures(seed, shape, rank):
    "Samples of any shape, any rank, some coordinates constant."
    law = mixture(5, shape, rank, seed)
    moving = torch.arange(math.prod(shape)) % 3 > 0
    law = law._with(
        factors=law.factors * moving[:, None],
        remainder=law.remainder * moving,
        means=law.means.where(moving, 0.25),
    )
    dense, generator = law.dense(), torch.Generator().manual_seed(seed)
    t = torch.rand(12, *shape, generator=generator, dtype=torch.float64)
    z, _ = corrupt(law.sample(12, generator), t, generator)
    for label in (None, torch.arange(12) % 3 - 1):
        torch.testing.assert_close(law(z, t, label), dense(z, t, label), atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(law.log_prob(z, t, label), dense.log_prob(z, t, label))
        torch.testing.assert_close(law.score(z, t, label), dense.score(z, t, label))


def test_rank_above_the_dimension():
    "More factors than coordinates are one law among others."
    law = mixture(2, (3,), 7)
    z = torch.randn(4, 3, dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64)
    torch.testing.assert_close(law(z, t), law.dense()(z, t))


def test_rows_do_not_depend_on_their_company():
    "A row alone, and the row among others of other classes and fields."
    law, generator = mixture(), torch.Generator().manual_seed(1)
    t = torch.rand(9, 1, 4, 4, generator=generator, dtype=torch.float64)
    z = torch.randn(9, 1, 4, 4, generator=generator, dtype=torch.float64)
    label = torch.tensor([0, 1, -1] * 3)
    whole = law(z, t, label)
    for i in range(9):
        alone = law(z[i : i + 1], t[i : i + 1], label[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i])


def test_empty_batch():
    law = mixture()
    nothing, t = torch.zeros(0, 1, 4, 4, dtype=torch.float64), torch.tensor(0.5)
    assert law(nothing, t).shape == (0, 1, 4, 4) and law.score(nothing, t).shape == (0, 1, 4, 4)
    assert law.log_prob(nothing, t).shape == (0,) and law.sample(0).shape == (0, 1, 4, 4)


def test_native_fills_follow_the_conditional_law():
    "Mean and variance of fills against the oracle's own; the unconditional law does not pass."
    law = mixture(2)
    label, known = 0, torch.arange(16).view(1, 1, 4, 4) % 2 > 0
    truth = law.sample(1, torch.Generator().manual_seed(3), label=label)
    n = 2_000
    classes = torch.full((n,), label)
    z = native(
        law, truth.expand(n, 1, 4, 4), known, classes, torch.Generator().manual_seed(4), points=80
    )
    exact = law.condition(truth[0], known[0], label)
    missing = ~known.flatten()

    def far(other):
        variance = other.cov.diagonal()[missing]
        off = (z.flatten(1)[:, missing].mean(0) - other.mean.flatten()[missing]) / (
            variance / n
        ) ** 0.5
        ratio = z.flatten(1)[:, missing].var(0) / variance
        return off.abs().max() / n**0.5, (ratio - 1).abs().max()

    shift, ratio = far(exact)
    assert shift < 0.15 and ratio < 0.2
    assert far(law)[0] > 0.3
    assert torch.equal(z[:, known[0]], truth.expand(n, 1, 4, 4)[:, known[0]])


def test_its_own_schedule_and_precision():
    "Runs follow a cosine oracle's schedule; float32 stays within rounding of float64."
    law = mixture(2, schedule=cosine)
    maps = synchronous_maps(60)
    run = [
        sample(one, maps, (8, 1, 4, 4), generator=generators(range(8)), schedule=cosine)
        for one in (law.to(torch.float32), law)
    ]
    assert (run[0] - run[1]).abs().max() < 1e-2
    assert law.to(torch.float32).dtype == torch.float32 and law.schedule is cosine


@pytest.mark.parametrize('label', [5, -2, torch.tensor([0, 9, 0])])
def test_labels_that_do_not_exist(label):
    law = mixture()
    z = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    for call in (
        lambda: law(z, torch.tensor(0.5), label),
        lambda: law.log_prob(z, None, label),
        lambda: law.sample(3, label=label),
    ):
        with pytest.raises(ValueError, match='label must'):
            call()


def test_a_precision_in_which_nothing_is_factorised_is_refused():
    law = mixture()
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        with pytest.raises(TypeError, match=f'dtype must be torch.float32 or .*64, got {dtype}'):
            law.to(dtype)
    assert law.half().dtype == torch.float32 and law.eval() is law
    assert law.half().labels is not None and law.to(dtype=torch.float32).labels is not None
    z = law.sample(8, torch.Generator().manual_seed(0))
    t = torch.full((8, 1, 1, 1), 0.5, dtype=torch.float64)
    torch.testing.assert_close(law.half()(z, t), law(z, t), atol=1e-4, rtol=1e-4)
