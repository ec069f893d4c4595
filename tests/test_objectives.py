"""The chance of a step is drawn for the whole batch and depends on the seed and the step alone."""

from functools import partial

import pytest
import torch

from asyncpatch.autoencoder import Autoencoder
from asyncpatch.data import Images, digits
from asyncpatch.laws import asyncpatch, synchronous
from asyncpatch.monitoring import take_rows
from asyncpatch.objectives import (
    LatentVelocity,
    MaskedVelocity,
    Uncertainty,
    Velocity,
    step_generator,
    training_masks,
)
from asyncpatch.optimisation import learning_rate
from asyncpatch.rival_laws import LAWS
from asyncpatch.training import train
from asyncpatch.unet import UNet

SEEDS = (0, 1, 2**24 - 1, 2**24, 20240501, 19991231, 2**31, 2**32 - 1)
SHORT = dict(
    net=dict(base=4, classes=10), law=asyncpatch, steps=2, batch=8, warmup=1, progress=False
)


def first_number(generator):
    "What a generator says first."
    return torch.randint(2**60, (1,), generator=generator).item()


def test_seeds_of_dates_and_large_ones_are_seeds_like_others(tmp_path):
    numbers = {
        (seed, step, part): first_number(step_generator(seed, step, part))
        for seed in SEEDS
        for step in (0, 1, 999, 2**31)
        for part in (0, 1, 255, 256)
    }
    assert len(set(numbers.values())) == len(numbers)
    plain = torch.Generator().manual_seed(999)
    assert numbers[0, 999, 0] == first_number(plain)  # what the first run's always was
    far = torch.Generator().manual_seed((3 << 40) + 999)  # a CPU looks at 32 bits of a seed
    assert first_number(far) == numbers[0, 999, 0] != numbers[1, 999, 0]
    about = train(tmp_path / 'run', images=digits().train, seed=20240501, **SHORT).about
    assert about['seed'] == 20240501


@pytest.mark.parametrize('seed', [-1, 2**32, 2**70, 1.5, '1', None])
def test_what_is_no_seed_is_refused(tmp_path, seed):
    with pytest.raises((TypeError, ValueError), match='seed must'):
        train(tmp_path / 'run', images=digits().train, seed=seed, **SHORT)
    assert not (tmp_path / 'run').exists()


class Lazy:
    "A source that says its classes only when it is asked for images."

    def __init__(self, label):
        self.x, self.classes_of = digits().train.x, label

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return Images(self.x[index], self.classes_of(index))


@pytest.mark.parametrize('wrong', [10, 255, -2])
def test_a_class_that_the_network_does_not_have_is_refused(tmp_path, wrong):
    x = digits().train.x
    plain = Images(x, torch.full((len(x),), wrong))
    late = Lazy(lambda index: torch.where(index % 7 == 3, wrong, 0))
    for name, images in dict(plain=plain, late=late).items():
        with pytest.raises(ValueError, match=f'label must be from -1 to 9 .*, got {wrong}'):
            train(tmp_path / name, images=images, **{**SHORT, 'steps': 20})
    no_class = Images(x, torch.full((len(x),), -1))
    train(tmp_path / 'none', images=no_class, **SHORT)
    unconditional = {**SHORT, 'net': dict(base=4)}
    train(tmp_path / 'unconditional', images=plain, **unconditional)


def small_coder():
    torch.manual_seed(0)
    return Autoencoder(channels=1, base=4, multipliers=(1, 2), blocks=1, codes=8).eval()


OBJECTIVES = dict(
    velocity=lambda: (UNet(base=4, classes=10), Velocity(asyncpatch)),
    patchwise=lambda: (UNet(base=4, classes=10), Velocity(partial(asyncpatch, scales=[2]))),
    synchronous=lambda: (UNet(base=4, classes=10), Velocity(synchronous)),
    masked=lambda: (
        UNet(base=4, classes=10, condition=2),
        MaskedVelocity(synchronous, masks=training_masks(12, 8, 8), condition_dropout=0.3),
    ),
    head=lambda: (
        UNet(base=4, classes=10, condition=1, outputs=1),
        Uncertainty(UNet(base=4, classes=10), asyncpatch),
    ),
    latent=lambda: (
        UNet(base=4, classes=10, channels=3),
        LatentVelocity(asyncpatch, autoencoder=small_coder()),
    ),
)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_a_batch_in_parts_has_the_mean_loss_of_the_whole(name):
    net, objective = OBJECTIVES[name]()
    batch = digits().train[torch.arange(12)]
    drawn = objective.draw(batch.x.shape, step_generator(0, 5))
    whole = objective.loss(net, batch.x, batch.label, **drawn)[0]
    parts = []
    for k in range(3):
        rows = slice(4 * k, 4 * k + 4)
        chance = {key: take_rows(value, 'cpu', rows) for key, value in drawn.items()}
        parts.append(objective.loss(net, batch.x[rows], batch.label[rows], **chance)[0])
    assert abs(torch.stack(parts).mean() - whole) < 1e-5 * abs(whole)
    again = objective.draw(batch.x.shape, step_generator(0, 6))
    other = objective.loss(net, batch.x, batch.label, **again)[0]
    assert abs(other - whole) > 1e-5 * abs(whole)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_an_objective_says_what_its_network_is_for(name):
    net, objective = OBJECTIVES[name]()
    facts = objective.facts((1, 8, 8))
    side = 4 if name == 'latent' else 8
    assert facts['size'] == [side, side]
    assert (facts['value_range'] is None) == (name == 'latent') == ('autoencoder' in facts)


@pytest.mark.parametrize('law', LAWS)
def test_every_law_trains(law, tmp_path):
    objective = Velocity(LAWS[law])
    batch = digits().train[torch.arange(4)]
    loss, _ = objective(UNet(base=4, classes=10), batch.x, batch.label, step_generator(0, 0))
    assert torch.isfinite(loss) and loss.requires_grad


def test_the_rate_of_a_longer_run():
    "Before the old end as ever; then up and down again, between `floor` and `lr`."
    for floor in (0.0, 0.02, 1.0):
        rate = partial(learning_rate, lr=2.0, warmup=10, floor=floor)
        short = [rate(step, 100) for step in range(100)]
        long = [rate(step, 400, ends=[100, 200]) for step in range(400)]
        assert long[:100] == short
        for begun, end in ((100, 200), (200, 400)):
            part = long[begun:end]
            assert max(part) <= 2.0 and part.index(max(part)) <= (end - begun) // 10
            assert part[-1] - 2 * floor < 0.01 and part[0] < max(part) or floor == 1
    assert long == [rate(step, 400) for step in range(400)]
