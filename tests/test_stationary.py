"Stationary Gaussian textures against dense answers, other schedules, other code, and samplers."

import numpy as np
import pytest
import torch
from scipy import signal
from torch.testing import assert_close

from asyncpatch.denoisers import CountCalls, fact
from asyncpatch.inpainting import native
from asyncpatch.joint import corrupt
from asyncpatch.schedules import SCHEDULES
from asyncpatch.stationary import StationaryGaussian, conjugate_gradients, measured_spectrum, parzen

SIZE, TORUS, REACH = (12, 10), (32, 30), 12


def picture(seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 30, 34, generator=draw, dtype=dtype)
    for axis, steps in ((-1, 3), (-2, 1)):
        for _ in range(steps):
            x = x + x.roll(1, axis)
    return x / x.std()


def law_of(seed=0, **options):
    return StationaryGaussian(measured_spectrum(picture(seed), TORUS, REACH), SIZE, **options)


def field(seed, batch=3):
    draw = torch.Generator().manual_seed(seed)
    t = torch.rand(batch, 1, *SIZE, generator=draw, dtype=torch.float64)
    return torch.where(t < 0.3, 0.0, torch.where(t > 0.9, 1.0, t))


@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('seed', [0, 1])
def test_any_field_and_schedule_agree_with_the_dense_oracle(name, seed):
    law = law_of(seed, mean=0.2, schedule=SCHEDULES[name])
    draw, t = torch.Generator().manual_seed(seed), field(seed)
    z, _ = corrupt(law.sample(3, draw), t, draw, law.schedule)
    assert_close(law(z, t), law.dense()(z, t), atol=1e-6, rtol=0)
    assert_close(law.score(z, t), law.dense().score(z, t), atol=1e-5, rtol=1e-6)


def test_the_spectrum_is_blackman_and_tukeys_by_other_code():
    x = picture(2)
    centred = (x[0] - x.mean()).numpy()
    correlation = signal.correlate(centred, centred, method='direct') / centred.size
    middle = np.array(centred.shape) - 1
    steps = np.arange(1 - REACH, REACH)
    window = parzen(torch.from_numpy(steps).double(), REACH).numpy()
    wider = parzen(torch.from_numpy(steps).double(), REACH + 0.5).numpy()
    assert_close(wider, signal.windows.parzen(2 * REACH + 1)[1:-1], atol=1e-12, rtol=0)
    near = correlation[np.ix_(middle[0] + steps, middle[1] + steps)] * np.outer(window, window)
    angle = np.outer(np.fft.fftfreq(TORUS[0]), steps), np.outer(np.fft.fftfreq(TORUS[1]), steps)
    waves = [np.exp(-2j * np.pi * a) for a in angle]
    wanted = (waves[0] @ near @ waves[1].T).real
    floor = 1e-3 * correlation[tuple(middle)]
    assert_close(
        measured_spectrum(x, TORUS, REACH).numpy(), (wanted + floor) / 1.001, atol=1e-9, rtol=0
    )


def test_draws_have_the_covariance_and_no_memory_of_the_torus():
    law = law_of()
    x = law.sample(6000, torch.Generator().manual_seed(3)).flatten(1)
    cov = law.covariance()
    error = (x.T @ x / len(x) - cov) / (
        (cov.diagonal()[:, None] * cov.diagonal() + cov**2) / 6000
    ) ** 0.5
    assert error.abs().max() < 6 and 0.8 < error.std() < 1.2
    assert_close(cov[0], cov[:, 0])
    far = cov.reshape(*SIZE, *SIZE)[0, 0, -1, -1]
    assert abs(far) < abs(cov[0, 0])


def test_native_sampling_with_it_makes_the_conditional_law():
    law, draw = law_of(), torch.Generator().manual_seed(4)
    known = (torch.arange(SIZE[0]) < 5)[:, None].expand(1, 1, *SIZE)
    x = law.sample(1, draw).expand(300, -1, -1, -1)
    there = law.dense().condition(x[0], known[0])
    missing = ~known.flatten()
    y = native(law, x, known, generator=draw, points=61, stochasticity=1.0).flatten(1)
    assert torch.equal(y[:, ~missing], x.flatten(1)[:, ~missing])
    spread = there.covs[0].diagonal()[missing]
    z = (y.mean(0) - there.means[0])[missing] / (spread / 300) ** 0.5
    assert z.square().mean() < 2
    blind = law.sample(300, draw).flatten(1)[:, missing].mean(0)
    control = (blind - there.means[0][missing]) / (spread / 300) ** 0.5
    assert control.square().mean() > 10
    ratio = y[:, missing].var(0).mean() / spread.mean()
    assert 0.85 < ratio < 1.05


def test_it_says_what_it_knows_and_can_be_wrapped():
    law = law_of()
    assert fact(law, 'channels') == 1 and fact(law, 'size') == SIZE and law.classes == 0
    counted = CountCalls(law)
    counted(law.sample(2), torch.tensor(0.5))
    assert counted.calls == 1 and counted.images == 2
    assert law.to(torch.float32).sample(1).dtype == torch.float32


def test_iterations_that_do_not_end_are_an_error():
    right = torch.ones(1, 4, 4, dtype=torch.float64)
    skew = torch.linspace(1, 2, 16, dtype=torch.float64).view(1, 4, 4)
    found = conjugate_gradients(lambda v: skew * v, lambda v: v, right, 1e-12)
    assert_close(found, right / skew)
    with pytest.raises(RuntimeError, match='within 3 iterations'):
        conjugate_gradients(lambda v: skew * v, lambda v: v, right, 1e-12, most=3)
