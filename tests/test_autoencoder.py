"""The autoencoder where a notebook cannot go: processes, reduced precision, a file and back."""

import socket

import torch
import torch.multiprocessing as multiprocessing
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from asyncpatch.autoencoder import Autoencoder, autoencoder_loss
from asyncpatch.codebook import Codebook

SMALL = dict(base=8, multipliers=(1, 2), blocks=1, codes=32, latent=2)


def left(n, height, width, generator=None):
    return (torch.arange(width) < width // 2).expand(n, 1, height, width)


def one_process(rank, port, folder):
    distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2
    )
    z = torch.load(f'{folder}/z.pt')
    book = Codebook(8, 2, decay=0.5)
    for step in range(4):
        mine = z[step, rank::2]
        book.update(
            mine, book(mine), torch.ones(len(mine)), torch.Generator().manual_seed(10 * step + rank)
        )
    torch.manual_seed(0)
    net = DistributedDataParallel(Autoencoder(**SMALL))
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
    autoencoder_loss(net, x, generator=torch.Generator().manual_seed(rank), law=left)[0].backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.save(
        dict(
            book.state_dict(),
            gradient=gradient,
            **{f'net.{k}': v for k, v in net.module.codebook.state_dict().items()},
        ),
        f'{folder}/{rank}.pt',
    )
    distributed.destroy_process_group()


def test_two_processes_have_one_codebook(tmp_path):
    z = torch.randn(4, 64, 2, generator=torch.Generator().manual_seed(0))
    torch.save(z, tmp_path / 'z.pt')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    multiprocessing.spawn(one_process, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    alone = Codebook(8, 2, decay=0.5)
    for batch in z:
        alone.update(batch, alone(batch), torch.ones(len(batch)))
    assert torch.allclose(
        first['moments'], alone.moments, atol=1e-6
    )  # sums over both halves are sums over all


def test_half_precision_changes_little():
    torch.manual_seed(0)
    net = Autoencoder(**SMALL)
    x = torch.rand(4, 3, 16, 16)
    for _ in range(2):
        autoencoder_loss(net, x, generator=torch.Generator().manual_seed(0), law=left)[0]
    net.eval()
    exact, _ = autoencoder_loss(net, x, generator=torch.Generator().manual_seed(0), law=left)
    with torch.autocast('cpu', torch.bfloat16):
        rough, _ = autoencoder_loss(net, x, generator=torch.Generator().manual_seed(0), law=left)
    assert abs(exact - rough) < 0.03 * exact


def test_the_loss_is_that_of_its_parts_and_holes_are_free():
    torch.manual_seed(0)
    net, x = Autoencoder(**SMALL).eval(), torch.rand(4, 3, 16, 16)
    made = net(x)
    loss, parts = autoencoder_loss(
        net, x, generator=torch.Generator().manual_seed(0), law=left, commitment=0.5
    )
    masked = net(x, left(4, 16, 16))
    by_hand = ((made.image - x).abs().sum() + (masked.image - x)[..., :8].abs().sum()) / (
        1.5 * x.numel()
    )
    assert torch.allclose(parts['l1'], by_hand, atol=1e-6) and torch.allclose(
        loss, by_hand + 0.5 * parts['commitment'], atol=1e-6
    )


def test_gradient_passes_straight_through_the_codes():
    torch.manual_seed(0)
    net, x = Autoencoder(**SMALL).eval(), torch.rand(2, 3, 8, 8)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    net.codebook.code.normal_()
    seen = []
    net.decoder.register_forward_pre_hook(
        lambda module, args: (args[0].retain_grad(), seen.append(args[0]))[0]
    )
    made = net(x)
    made.latents.retain_grad()
    made.image.square().sum().backward()
    assert torch.equal(made.latents.grad, seen[0].grad) and seen[0].grad.abs().max() > 0
