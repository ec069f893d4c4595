"UNets of diffusers: the images of their own pipelines, and the same weights with many clocks."

import copy
import math
import sys
from functools import partial

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip('diffusers')

from asyncpatch import spatial  # noqa: E402
from asyncpatch.data import digits  # noqa: E402
from asyncpatch.denoisers import Denoiser  # noqa: E402
from asyncpatch.diffusers_unets import (  # noqa: E402
    DiffusersUNet,
    IndexedSchedule,
    from_diffusers,
    many_clocks,
    scheduler_times,
)
from asyncpatch.inpainting import native  # noqa: E402
from asyncpatch.laws import asyncpatch as asyncpatch_law  # noqa: E402
from asyncpatch.objectives import Velocity  # noqa: E402
from asyncpatch.samplers import ancestral_step, ddim_step, euler_step, sample  # noqa: E402
from asyncpatch.training import fit  # noqa: E402
from asyncpatch.weights import load  # noqa: E402


def unet(seed=0, **changes):
    "A small UNet whose last layers say something."
    torch.manual_seed(seed)
    settings = dict(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
        up_block_types=('AttnUpBlock2D', 'UpBlock2D'),
    )
    return diffusers.UNet2DModel(**{**settings, **changes}).eval()


SHAPES = {
    'plain': {},
    'three levels': dict(
        block_out_channels=(8, 8, 16),
        down_block_types=('DownBlock2D', 'DownBlock2D', 'AttnDownBlock2D'),
        up_block_types=('AttnUpBlock2D', 'UpBlock2D', 'UpBlock2D'),
        layers_per_block=2,
    ),
    'classes': dict(num_class_embeds=5),
    'classes as numbers': dict(class_embed_type='timestep', num_class_embeds=5),
    'scale and shift': dict(resnet_time_scale_shift='scale_shift'),
    'scale, shift, classes': dict(resnet_time_scale_shift='scale_shift', num_class_embeds=5),
    'sines first': dict(flip_sin_to_cos=False, freq_shift=1),
    'residual resampling': dict(downsample_type='resnet', upsample_type='resnet'),
    'learned times': dict(time_embedding_type='learned', num_train_timesteps=1000),
    'no attention': dict(
        down_block_types=('DownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'UpBlock2D'),
        add_attention=False,
    ),
    'no middle': dict(mid_block_type=None),
    'skips of StyleGAN': dict(
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 32),
        norm_num_groups=None,
        down_block_types=('SkipDownBlock2D', 'AttnSkipDownBlock2D'),
        up_block_types=('AttnSkipUpBlock2D', 'SkipUpBlock2D'),
        center_input_sample=True,
    ),
    'centred, wide padding': dict(
        center_input_sample=True, downsample_padding=0, mid_block_scale_factor=math.sqrt(2)
    ),
}


def question(net, n=3, seed=1, side=8):
    "Noisy images, and classes where the network takes them."
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, net.config.in_channels, side, side, generator=draw)
    has = net.class_embedding is not None
    return z, (torch.arange(n) % 5 if has else None)


@pytest.mark.parametrize('shape', SHAPES)
def test_a_constant_map_is_the_original(shape):
    net = unet(**SHAPES[shape])
    before = copy.deepcopy(net.state_dict())
    many = many_clocks(net)
    z, label = question(net)
    with torch.no_grad():
        for k in (0, 17, 999):
            wanted = net(z, k, label).sample
            size = wanted.abs().max()
            for index in (k, torch.full((3,), float(k)), torch.full((3, 1, 8, 8), float(k))):
                assert (many(z, index, label) - wanted).abs().max() < 2e-5 * max(1, size)
        apart = torch.tensor([0.0, 40.0, 999.0])
        wanted = net(z, apart.long(), label).sample
        found = many(z, apart.view(3, 1, 1, 1).expand(3, 1, 8, 8), label)
        assert (found - wanted).abs().max() < 2e-5 * max(1, wanted.abs().max())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    names = {k.removeprefix('unet.'): v for k, v in many.state_dict().items()}
    assert names.keys() == before.keys()


@pytest.mark.parametrize('shape', ['plain', 'three levels', 'scale, shift, classes'])
def test_two_times_in_a_map(shape):
    "Both halves matter, images do not mix, and the two times are not the times' mean."
    net = unet(**SHAPES[shape])
    many = many_clocks(net)
    z, label = question(net)
    two = torch.full((3, 1, 8, 8), 900.0)
    two[:, :, :, 4:] = 20.0
    with torch.no_grad():
        found = many(z, two, label)
        for k in (900, 20, 460):
            assert (found - many(z, k, label)).abs().max() > 1e-3
        other = two.clone()
        other[1] = 500.0
        changed = many(z, other, label)
        assert torch.allclose(changed[[0, 2]], found[[0, 2]], atol=1e-5)
        assert (changed[1] - found[1]).abs().max() > 1e-3
        for i in range(3):
            one = many(z[i : i + 1], two[i : i + 1], None if label is None else label[i : i + 1])
            assert torch.allclose(one, found[i : i + 1], atol=1e-5)


def test_the_map_acts_where_it_says_where_nothing_mixes():
    "Without attention and levels the time of a far pixel is not seen."
    net = unet(
        block_out_channels=(8,),
        down_block_types=('DownBlock2D',),
        up_block_types=('UpBlock2D',),
        mid_block_type=None,
        sample_size=32,
    )
    for part in net.modules():  # group norms mix all pixels: away with them
        for name, child in part.named_children():
            if isinstance(child, torch.nn.GroupNorm):
                setattr(part, name, torch.nn.Identity())
    many = many_clocks(net)
    z, _ = question(net, side=32)
    flat = torch.full((3, 1, 32, 32), 300.0)
    spot = flat.clone()
    spot[:, :, 3, 4] = 800.0
    with torch.no_grad():
        moved = (many(z, spot) - many(z, flat)).abs().amax((0, 1)) > 1e-4
    assert moved[3, 4] and not moved[20:].any() and not moved[:, 20:].any()


def test_gradients_reach_every_weight_and_the_times():
    net = many_clocks(unet(num_class_embeds=5)).double()
    index = (999 * torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))).double()
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    net(z, index, torch.tensor([1, 2])).square().sum().backward()
    untouched = [k for k, p in net.named_parameters() if p.grad is None]
    assert not untouched
    assert net.unet.class_embedding.weight.grad[[1, 2]].abs().sum() > 0
    assert net.unet.class_embedding.weight.grad[[0, 3, 4]].abs().sum() == 0
    copied = copy.deepcopy(net)  # as the average of the weights is
    with torch.no_grad():
        wanted = net(z, index, torch.tensor([1, 2]))
        for p in net.parameters():
            p.zero_()
        assert torch.equal(copied(z, index, torch.tensor([1, 2])), wanted)


def schedulers():
    "Unclipped ones keep signal to the end: an untrained network divided by a small alpha is huge."
    ddpm, ddim, mild = diffusers.DDPMScheduler, diffusers.DDIMScheduler, dict(beta_end=0.004)
    yield 'DDPM', ddpm()
    yield 'DDPM, unclipped', ddpm(clip_sample=False, **mild)
    yield 'DDPM, cosine', ddpm(beta_schedule='squaredcos_cap_v2')
    yield 'DDPM of x0', ddpm(prediction_type='sample', clip_sample_range=0.7)
    yield 'DDPM of v', ddpm(prediction_type='v_prediction', timestep_spacing='trailing')
    yield 'DDIM', ddim(clip_sample=False, **mild)
    yield 'DDIM to the first step', ddim(set_alpha_to_one=False, steps_offset=1)
    yield (
        'DDIM of v',
        ddim(
            prediction_type='v_prediction',
            timestep_spacing='trailing',
            rescale_betas_zero_snr=True,
            clip_sample=False,
        ),
    )


def run(denoiser, scheduler, calls, seed, step):
    "Our sampler from the state in which diffusers starts: unit noise, at whatever index."
    times = scheduler_times(scheduler, calls)
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 1, 8, 8, generator=draw, dtype=torch.float64)
    alpha, sigma = denoiser.schedule(times[0])
    x = noise * (1 - sigma) / alpha if times[0] < 1 else torch.zeros_like(noise)
    draw.manual_seed(seed)
    return sample(denoiser, spatial.synchronous_maps(times), x=x, generator=draw, step=step)


@pytest.mark.parametrize('name,scheduler', list(schedulers()), ids=[n for n, _ in schedulers()])
@pytest.mark.parametrize('noisy', [False, True])
def test_the_same_images_as_their_pipeline(name, scheduler, noisy):
    ddim = name.startswith('DDIM')
    if not ddim and not noisy:
        pytest.skip('DDPM has one variance')
    net, calls = unet().double(), 20
    pipeline = getattr(diffusers, f'{name[:4]}Pipeline')(net, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    options = dict(eta=float(noisy), use_clipped_model_output=True) if ddim else {}
    draw = torch.Generator().manual_seed(3)
    theirs = pipeline(2, draw, num_inference_steps=calls, output_type='np', **options).images
    denoiser = from_diffusers(net, pipeline.scheduler)
    step = ancestral_step if noisy else partial(ddim_step, stochasticity=0.0)

    def apart(version, calls):
        ours = run(version, scheduler, calls, 3, step)
        return np.abs((ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() - theirs).max()

    for version in (denoiser, from_diffusers(many_clocks(net), pipeline.scheduler)):
        assert apart(version, calls) < 2e-4
    assert apart(denoiser, calls - 1) > 1e-3


def test_flow_matching_takes_eulers_steps():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    net = unet().double()
    scheduler.set_timesteps(12)
    theirs = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(4)).double()
    denoiser = from_diffusers(net, scheduler)
    grid = scheduler_times(scheduler, 12)
    assert grid[0] == 1 and grid[-1] == 0 and len(grid) == 13
    z = theirs
    with torch.no_grad():
        for k in scheduler.timesteps:
            theirs = scheduler.step(net(theirs, k).sample, k, theirs).prev_sample
        for t, s in zip(grid[:-1], grid[1:]):
            z, _ = euler_step(denoiser, z, t.view(1, 1, 1, 1), s.view(1, 1, 1, 1))
    assert (z - theirs).abs().max() < 1e-4


def test_known_pixels_are_told_the_first_index():
    schedule = IndexedSchedule(diffusers.DDPMScheduler().alphas_cumprod)
    times = torch.tensor([0.0, 1e-4, 1e-3, 2e-3, 1.0], dtype=torch.float64)
    assert torch.allclose(schedule.index(times), torch.tensor([0, 0, 0, 1, 999.0]).double())
    assert schedule(times)[1][0] == 0 and abs(schedule(times)[1][2].item() - 0.01) < 1e-4


def test_one_clock_refuses_a_map_and_many_clocks_inpaint():
    net, scheduler = unet(), diffusers.DDPMScheduler()
    x = digits().held_out.x[:2]
    known = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    known[..., :4] = True
    inpaint = partial(native, x=x, known=known, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match='one time per image'):
        inpaint(from_diffusers(net, scheduler))
    filled = inpaint(from_diffusers(many_clocks(net), scheduler))
    assert torch.equal(filled[known.expand_as(x)], x[known.expand_as(x)])
    assert filled.abs().max() <= 1 and filled.isfinite().all()


def test_half_precision():
    denoiser = from_diffusers(many_clocks(unet()), diffusers.DDPMScheduler())
    z, _ = question(denoiser.net.unet)
    t = asyncpatch_law(3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = denoiser(z, t)
        rough = denoiser.to(torch.bfloat16)(z, t)
    assert (exact - rough).abs().mean() < 0.1 and rough.dtype == torch.float32


def test_classes_and_what_is_refused():
    scheduler = diffusers.DDPMScheduler()
    net = from_diffusers(unet(num_class_embeds=5), scheduler, no_class=4).net
    assert net.classes == 4
    z, _ = question(net.unet)
    t = torch.full((3, 1, 1, 1), 0.5)
    hidden = torch.tensor([-1, -1, -1])
    assert torch.equal(net(z, t, hidden), net(z, t)) and torch.equal(
        net(z, t), net(z, t, hidden + 5)
    )
    plain = from_diffusers(unet(num_class_embeds=5), scheduler)
    assert plain.classes == 5
    with pytest.raises(ValueError, match='no class for none'):
        plain(z, t)
    refused = [
        (unet(), diffusers.ScoreSdeVeScheduler(), ValueError, 'alphas_cumprod'),
        (unet(), diffusers.DDPMScheduler(thresholding=True), ValueError, 'quantiles'),
        (torch.nn.Linear(1, 1), scheduler, TypeError, 'UNet2DModel'),
    ]
    for given, scheduler, error, words in refused:
        with pytest.raises(error, match=words):
            from_diffusers(given, scheduler)
    with pytest.raises(ValueError, match='time_embedding_type'):
        many_clocks(unet(time_embedding_type='fourier'))


@pytest.mark.parametrize('many', [False, True])
def test_files_bring_back_network_schedule_and_clipping(tmp_path, many):
    net = unet(num_class_embeds=11)
    scheduler = diffusers.DDPMScheduler(beta_schedule='squaredcos_cap_v2')
    made = many_clocks(net) if many else net
    denoiser = from_diffusers(made, scheduler, no_class=10, data='digits')
    again = load(denoiser.save(tmp_path / 'net.safetensors', steps=5))
    assert again.schedule == denoiser.schedule and again.clip == 1.0 and again.prediction == 'eps'
    assert again.net.config == denoiser.net.config and again.about['steps'] == 5
    assert again.data == 'digits' and again.size == (8, 8) and again.classes == 10
    z, _ = question(net)
    t = torch.full((3, 1, 1, 1), 0.3)
    with torch.no_grad():
        assert torch.equal(again(z, t, 3), denoiser(z, t, 3))


def test_a_file_says_that_it_needs_diffusers(tmp_path, monkeypatch):
    denoiser = from_diffusers(many_clocks(unet()), diffusers.DDPMScheduler())
    path = denoiser.save(tmp_path / 'net.safetensors')
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(ModuleNotFoundError, match=r'asyncpatch\[diffusers\]'):
        load(path)


@pytest.mark.parametrize('kind', ['epsilon', 'v_prediction', 'flow'])
def test_our_loop_trains_it(tmp_path, kind):
    if kind == 'flow':
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    else:
        scheduler = diffusers.DDPMScheduler(prediction_type=kind)
    start = from_diffusers(many_clocks(unet()), scheduler)
    objective = Velocity(
        asyncpatch_law, label_dropout=1.0, schedule=start.schedule, prediction=start.prediction
    )
    run = partial(
        fit,
        tmp_path / 'run',
        partial(DiffusersUNet, **start.net.config),
        digits().train,
        objective,
        batch=16,
        progress=False,
        init=start,
    )
    done = run(steps=2)
    assert isinstance(done, Denoiser) and done.prediction == start.prediction
    assert done.schedule == start.schedule and done.net.many
    longer = run(steps=4)
    straight = partial(run)(steps=4)
    assert longer.about['steps'] == 4 and straight.about['steps'] == 4
    moved = [(a - b).abs().max() for a, b in zip(done.net.parameters(), longer.net.parameters())]
    assert max(moved) > 0
