"""The network against a plain one of the same weights, and what a compiler and a second derivative
make of it."""

import copy
import math
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from asyncpatch.laws import asyncpatch, synchronous
from asyncpatch.rival_laws import td_paint
from asyncpatch.tables import ask_by_table, distinct_times, prepare_network, table_of
from asyncpatch.unet import PAPER_UNETS, FiLM, RMSNorm, UNet, count_parameters


class PlainFiLM(FiLM):
    "An MLP's last layer at every pixel, as a 1x1 convolution."

    def forward(self, h, e):
        scale, shift = (
            F.conv2d(e.permute(0, 3, 1, 2), self.both.weight[..., None, None], self.both.bias)
            .permute(0, 2, 3, 1)
            .chunk(2, -1)
        )
        return h * scale + shift


class PlainNorm(RMSNorm):
    def forward(self, x):
        return (
            x
            / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            * (1 if self.gain is None else self.gain)
        )


def plain(net):
    "The same weights, with FiLM at every pixel and autograd's own gradient of the norm."
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, FiLM):
            module.__class__ = PlainFiLM
        if isinstance(module, RMSNorm):
            module.__class__ = PlainNorm
    return net


def awake(**config):
    torch.manual_seed(0)
    net = UNet(base=16, classes=10, **config).double()
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net


@pytest.mark.parametrize('reduction', ('average', 'nearest'))
@pytest.mark.parametrize(
    'config',
    (
        dict(),
        dict(
            multipliers=(1, 2, 2),
            blocks=(1, 1, 1),
            attention=(1, 2),
            resampling='residual',
            rope=True,
            condition=2,
            outputs=3,
        ),
    ),
)
def test_tables_fields_and_a_plain_network_agree(config, reduction, height=8, width=16):
    "In float64, so that only a difference in kind could be seen: outputs and all gradients."
    net = awake(reduction=reduction, **config)
    reference = plain(net)
    z, label = torch.randn(4, 1, height, width, dtype=torch.float64), torch.tensor([-1, 3, 0, 9])
    condition = torch.randn(4, 2, height, width, dtype=torch.float64) if config else None
    for law in (
        partial(asyncpatch, scales=(2, 4, 8)),
        td_paint,
        partial(asyncpatch, scales=(4, 8)),
        asyncpatch,
        lambda n, h, w, generator: torch.rand(n, 1, h, w, generator=generator),
    ):
        field = law(4, height, width, generator=torch.Generator().manual_seed(1)).double()
        tables = [distinct_times(field), distinct_times(field, 2)]
        ways = [net, prepare_network(net, law)]
        ways += [partial(ask_by_table, net)] * len(tables)
        want = torch.autograd.grad(
            reference(z, field, label, condition).square().sum(), list(reference.parameters())
        )
        for way, t in zip(ways, (field, field, *tables)):
            answer = way(z, t, label, condition)
            torch.testing.assert_close(
                answer, reference(z, field, label, condition), rtol=0, atol=1e-9
            )
            got = torch.autograd.grad(answer.square().sum(), list(net.parameters()))
            assert sum((a - b).square().sum() for a, b in zip(got, want)) < 1e-20 * sum(
                b.square().sum() for b in want
            )


def test_a_wrong_table_is_seen():
    "The control: rows exchanged between two pixels change the answer."
    net = awake()
    law = partial(asyncpatch, scales=(4, 8))
    table = table_of(law)(law(2, 8, 8).double())
    z = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    swapped = table._replace(index=table.index.flip(-1))
    difference = ask_by_table(net, z, table) - ask_by_table(net, z, swapped)
    assert difference.abs().max() > 1e-3


def counted(channels, base, multipliers, blocks, middle, attention, classes, head_width, **_):
    """Parameters of Table 6's networks by arithmetic: convolutions 9ab + b, projections ab + b,
    gains, embeddings."""
    w, e = [base * m for m in multipliers], base
    conv, linear = lambda a, b: 9 * a * b + b, lambda a, b: a * b + b
    block = lambda a, b: (
        a + conv(a, b) + 2 * linear(e, b) + conv(b, b) + (linear(a, b) if a != b else 0)
    )
    attend = lambda c: c + linear(c, 3 * c) + linear(c, c) + c // head_width
    total = (
        2 * linear(e, e)
        + classes * e
        + conv(channels, base)
        + base
        + conv(base, channels)
        + middle * (block(w[-1], w[-1]) + attend(w[-1]))
    )
    for i, width in enumerate(w):
        entering, below = w[max(i - 1, 0)], w[min(i + 1, len(w) - 1)]
        down = [entering, *[width] * (blocks[i] - 1)]
        up = [below + width, *[2 * width] * (blocks[i] - 1), width + entering]
        total += sum(block(a, width) for a in down + up) + (
            len(down + up) * attend(width) if i in attention else 0
        )
        if i:
            total += (
                2 * block(entering, entering)
                if entering == width
                else block(entering, entering) + block(width, width)
            )
    return total


@pytest.mark.parametrize('name, said', (('60M', 66.6e6), ('620M', 615.6e6)))
def test_parameters_of_the_papers_networks(name, said):
    with torch.device('meta'):
        net = UNet(**PAPER_UNETS[name])
    assert (
        count_parameters(net) == counted(**PAPER_UNETS[name])
        and abs(counted(**PAPER_UNETS[name]) / said - 1) < 1e-3
    )


def test_the_papers_networks_are_built_in_a_second():
    """Both, in a new process, where PyTorch has still to load what it needs for the meta device;
    processor time, for the machine may be busy."""
    work = """
import time
from asyncpatch.unet import PAPER_UNETS, UNet, count_parameters
import torch
began = time.process_time()
with torch.device('meta'): nets = [UNet(**config) for config in PAPER_UNETS.values()]
took = time.process_time() - began
assert all(p.device.type == 'meta' for net in nets for p in net.parameters())
print(took)"""
    took = float(
        subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', work], capture_output=True, text=True, check=True
        ).stdout
    )
    assert took < 1, took


def test_attention_starts_where_its_pixels_say():
    net = UNet(multipliers=(1, 1, 1, 1), blocks=(1, 1, 1, 1), attention=(2, 3), size=64)
    first = lambda attention: attention.log_scale.exp().unique().tolist()
    for level, pixels in ((2, 16 * 16), (3, 8 * 8)):
        for block, attention in (*net.down[level], *net.up[level]):
            assert first(attention) == pytest.approx([math.log2(pixels**2 - pixels)])
    assert first(net.middle[0][1]) == pytest.approx([math.log2(64**2 - 64)]) and first(
        UNet().middle[0][1]
    ) == pytest.approx([8.0])


def test_norm_has_two_derivatives_and_batches():
    norm = RMSNorm(5).double()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x) and torch.autograd.gradgradcheck(norm, x)
    single = torch.func.vmap(torch.func.grad(lambda row: norm(row).sin().sum()))(x.detach())
    torch.testing.assert_close(single, torch.autograd.grad(norm(x).sin().sum(), x)[0])


def test_one_graph_with_gradients_for_all_draws():
    net = UNet(base=8, classes=3, resampling='residual')
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    law = partial(asyncpatch, scales=(2, 4, 8))
    by_tables = prepare_network(net, law)
    step = torch.compile(
        lambda z, t, label: by_tables(z, t, label).square().sum(),
        backend=count,
        fullgraph=True,
        dynamic=False,
    )
    for seed in range(4):
        step(
            torch.randn(3, 1, 8, 8),
            law(3, 8, 8, generator=torch.Generator().manual_seed(seed)),
            torch.tensor([0, -1, 2]),
        ).backward()
    assert len(graphs) == 1 and all(p.grad is not None for p in net.first.parameters())


@pytest.mark.parametrize(
    'config, given, message',
    (
        (dict(), dict(condition=torch.zeros(2, 1, 8, 8)), 'condition must be None'),
        (dict(condition=1), dict(), r'condition must be \(2, 1, 8, 8\), got None'),
        (dict(), dict(t=torch.zeros(2, 1, 4, 8)), r't must be \(B, 1, H, W\)'),
    ),
)
def test_what_does_not_fit_is_named(config, given, message):
    with pytest.raises(ValueError, match=message):
        UNet(**config)(torch.zeros(2, 1, 8, 8), **{'t': torch.zeros(2, 1, 1, 1), **given})
    with pytest.raises(ValueError, match='t must be a table'):
        ask_by_table(UNet(), torch.zeros(2, 1, 8, 8), distinct_times(torch.zeros(1, 1, 8, 8)))
    with pytest.raises(ValueError, match='resampling'):
        UNet(resampling='bilinear')
    with pytest.raises(ValueError, match='as many as levels'):
        UNet(dropout=(0.0, 0.1, 0.1))


@pytest.mark.parametrize('rope', (False, True))
def test_no_images_are_no_images(rope):
    "An empty batch, by fields, by one time and by tables: nothing, of the right shape."
    net = UNet(multipliers=(1, 2), attention=(0, 1), classes=10, rope=rope)
    z, label = torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long)
    for t in (torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 1, 1)):
        assert net(z, t, label).shape == z.shape
    for law in (synchronous, td_paint, partial(asyncpatch, scales=(4, 8))):
        by_tables = prepare_network(net, law)
        assert by_tables is not net
        assert by_tables(z, torch.zeros(0, 1, 8, 8), label).shape == z.shape
