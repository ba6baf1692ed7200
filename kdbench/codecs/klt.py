"""The Karhunen-Loeve transform of image blocks, and activations that leave it linear."""

import torch
from compressai.layers import GDN
from torch import Tensor

GDN_GAMMA = 1e-3
KERNEL_NOISE = 0.02  # share of the default initialisation kept where nothing is known better
RELU_LIFT = 3.0


def blocks(h: Tensor, side: int = 2) -> Tensor:
    """(B, C, H, W) -> (B H/s W/s, s^2 C): the non-overlapping s x s blocks, channel-major."""
    b, c, height, width = h.shape
    h = h.reshape(b, c, height // side, side, width // side, side)
    return h.permute(0, 2, 4, 1, 3, 5).reshape(-1, c * side**2)


def basis(rows: Tensor, n: int) -> Tensor:
    """The `n` leading KLT vectors (n, d) of `rows` (any, d), largest entries positive.

    The sign rule makes two starts on the same photos agree, whatever the LAPACK.
    """
    _, vectors = torch.linalg.eigh((rows.T @ rows / len(rows)).double())
    leading = vectors.flip(1)[:, :n].T
    signs = leading.gather(1, leading.abs().argmax(1, keepdim=True)).sign()
    signed: Tensor = leading * signs
    return signed.float()


def coefficients(h: Tensor, side: int, n: int) -> Tensor:
    """(B, C, H, W) -> (B, n, H / s, W / s): the leading coefficients of the s x s blocks."""
    b, _, height, width = h.shape
    rows = blocks(h, side)
    found = rows @ basis(rows, n).T
    return found.reshape(b, height // side, width // side, -1).permute(0, 3, 1, 2)


@torch.no_grad()
def make_linear(gdn: GDN) -> None:
    """Sets `gdn` to nearly the identity, in place."""
    gamma = GDN_GAMMA * torch.eye(gdn.gamma.shape[0])
    gdn.gamma.copy_(gdn.gamma_reparam.init(gamma))
