"""The network against a plain one of the same weights, and what a compiler and a second derivative make of it."""
import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from asyncpatch.timesteps import asyncpatch, distinct_times, tabulated, td_paint
from asyncpatch.unet import FiLM, RMSNorm, UNet


class PlainFiLM(FiLM):
    "An MLP's last layer at every pixel, as a 1x1 convolution."
    def forward(self, h, e, index=None):
        assert index is None
        maps = e.permute(0, 3, 1, 2)
        scale, shift = (F.conv2d(maps, layer.weight[..., None, None], layer.bias).permute(0, 2, 3, 1) for layer in (self.scale, self.shift))
        return h*scale + shift


class PlainNorm(RMSNorm):
    def forward(self, x): return x/(x.square().mean(-1, keepdim=True) + 1e-5).sqrt()*(1 if self.gain is None else self.gain)


def plain(net):
    "The same weights, with FiLM at every pixel and autograd's own gradient of the norm."
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, FiLM): module.__class__ = PlainFiLM
        if isinstance(module, RMSNorm): module.__class__ = PlainNorm
    return net


def awake(**config):
    torch.manual_seed(0)
    net = UNet(base=16, classes=10, **config).double()
    for p in net.parameters(): p.data += .1*torch.randn_like(p)
    return net


@pytest.mark.parametrize('reduction', ('average', 'nearest'))
@pytest.mark.parametrize('config', (dict(), dict(multipliers=(1, 2, 2), blocks=(1, 1, 1), attention=(1, 2), resampling='residual', rope=True, condition=2, outputs=3)))
def test_tables_fields_and_a_plain_network_agree(config, reduction):
    "In float64, so that only a difference in kind could be seen: outputs and all gradients."
    net = awake(reduction=reduction, **config)
    reference = plain(net)
    z, label = torch.randn(4, 1, 16, 16, dtype=torch.float64), torch.tensor([-1, 3, 0, 9])
    condition = torch.randn(4, 2, 16, 16, dtype=torch.float64) if config else None
    for law in (partial(asyncpatch, scales=(2, 4, 8)), td_paint, partial(asyncpatch, scales=(8, 16)), asyncpatch):
        field = law(4, 16, 16, generator=torch.Generator().manual_seed(1)).double()
        tables = [distinct_times(field), distinct_times(field, 2)]
        if tabulated(law): tables.append(tabulated(law)(4, 16, 16, generator=torch.Generator().manual_seed(1)))
        want = torch.autograd.grad(reference(z, field, label, condition).square().sum(), list(reference.parameters()))
        for t in (field, *(table._replace(values=table.values.double()) for table in tables)):
            answer = net(z, t, label, condition)
            torch.testing.assert_close(answer, reference(z, field, label, condition), rtol=0, atol=1e-9)
            got = torch.autograd.grad(answer.square().sum(), list(net.parameters()))
            assert sum((a - b).square().sum() for a, b in zip(got, want)) < 1e-20*sum(b.square().sum() for b in want)


def test_a_wrong_table_is_seen():
    "The control: rows exchanged between two pixels change the answer."
    net = awake()
    table = tabulated(partial(asyncpatch, scales=(4, 8)))(2, 8, 8)
    z = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    swapped = table._replace(index=table.index.flip(-1))
    assert (net(z, table._replace(values=table.values.double())) - net(z, swapped._replace(values=table.values.double()))).abs().max() > 1e-3


def test_norm_has_two_derivatives_and_batches():
    norm = RMSNorm(5).double()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x) and torch.autograd.gradgradcheck(norm, x)
    single = torch.func.vmap(torch.func.grad(lambda row: norm(row).sin().sum()))(x.detach())
    torch.testing.assert_close(single, torch.autograd.grad(norm(x).sin().sum(), x)[0])


def test_one_graph_with_gradients_for_all_draws():
    net = UNet(base=8, classes=3, resampling='residual')
    graphs = []
    def count(graph, inputs): graphs.append(graph); return graph.forward
    torch.compiler.reset()
    step = torch.compile(lambda z, t, label: net(z, t, label).square().sum(), backend=count, fullgraph=True, dynamic=False)
    law = tabulated(partial(asyncpatch, scales=(2, 4, 8)))
    for seed in range(4): step(torch.randn(3, 1, 8, 8), law(3, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.tensor([0, -1, 2])).backward()
    assert len(graphs) == 1 and all(p.grad is not None for p in net.first.parameters())


@pytest.mark.parametrize('config, given, message', (
    (dict(), dict(condition=torch.zeros(2, 1, 8, 8)), 'condition must be None'),
    (dict(condition=1), dict(), r'condition must be \(2, 1, 8, 8\), got None'),
    (dict(), dict(t=torch.zeros(2, 1, 4, 8)), r't must be \(B, 1, H, W\)'),
    (dict(), dict(t=distinct_times(torch.zeros(1, 1, 8, 8))), 't must be a table'),
))
def test_what_does_not_fit_is_named(config, given, message):
    with pytest.raises(ValueError, match=message): UNet(**config)(torch.zeros(2, 1, 8, 8), **{'t': torch.zeros(2, 1, 1, 1), **given})
    with pytest.raises(ValueError, match='resampling'): UNet(resampling='bilinear')
    with pytest.raises(ValueError, match='as many as levels'): UNet(dropout=(0., .1, .1))
