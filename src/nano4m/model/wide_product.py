"""Matrix products of half-precision matrices whose result is not rounded to half precision."""

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def wide_product(states: Tensor, weight_VD: Tensor) -> Tensor:
    """Return ``states @ weight.T``, (..., V), summed and returned in float32 at least.

    A bf16 product is rounded to 8 bits: a score of 31 is off by up to 0.06. On a CUDA device the
    matrix units multiply half-precision matrices and return float32. Elsewhere no kernel does, so
    both are converted: two to three times the time of the product on a CPU with bf16 instructions
    (docs/PERFORMANCE.md). Products of float32 and float64 matrices are computed as they are; under
    autocast they are rounded as autocast does.

    Args:
        states: (..., D).
        weight_VD: Of the same type, on the same device.
    """
    if states.dtype not in HALF:
        product = F.linear(states, weight_VD)
        return product.to(torch.promote_types(product.dtype, torch.float32))
    # The product with another output type has no gradient; those who need one take the other way.
    if states.is_cuda and not (torch.is_grad_enabled() and _has_gradient(states, weight_VD)):
        flat = states.reshape(-1, states.shape[-1])
        product = torch.mm(flat, weight_VD.t(), out_dtype=torch.float32)
        return product.view(*states.shape[:-1], len(weight_VD))
    return F.linear(states.float(), weight_VD.float())


def _has_gradient(*tensors: Tensor) -> bool:
    return any(t.requires_grad for t in tensors)
