"""Models, groups of samples and steps that decide on the device, for several tests; no tests."""

import torch

from conftest import small_config
from nano4m.compute.distributed import DistributedContext
from nano4m.model.fourm import FourM
from nano4m.training.batch_sampler import MASKS
from nano4m.training.batches import masked_batches
from nano4m.training.device_step import DeviceStep

CPU = DistributedContext(torch.device("cpu"))
MODELS = {
    "default": {},
    "rope": {"positions": "rope1d", "mlp": "swiglu", "qk_norm": True},
    "rope2d": {"positions": "rope2d"},
    "tied": {"tied": True},
    "shared": {
        "tables": "shared", "register_token": False, "context": "positioned",
        "positions": "sincos1d",
    },
    "shared, tied, capped": {"tables": "shared", "tied": True, "logit_soft_cap": 5.0},
    "computed twice": {"checkpointing": True},
}  # fmt: skip


def model_of(choices, table, seed=0):
    """Return a model whose heads already say something."""
    model = FourM(small_config(choices).model, table.modalities)
    model.init_weights(torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for head in model.heads:
            head.weight.normal_(0, 0.1, generator=draw)
    return model


def groups_of(table, seed, masking=None, rows=32):
    """Return a batch of the table in groups, and the masking that drew them."""
    masking = masking or small_config().masking
    return masked_batches(table, table.rows("train")[:rows], masking, seed, MASKS, 0), masking


def step_of(model, dtype=torch.float32, optimizers=(), **engine):
    """Return a step that decides on the device."""
    progress_state = {"scale": 2.0**12 if dtype == torch.float16 else 1.0, "good": 0, "skipped": 0}
    return DeviceStep(model, dtype, optimizers, 1.0, progress_state, **engine)


def plant_infinity(step, number):
    """Make the gradients of the ``number``-th step infinite."""
    add, seen = step._add_gradients, []

    def planted(batch, is_first):
        add(batch, is_first)
        seen.append(1)
        if len(seen) == number:
            step.update.gradients[0].fill_(float("inf"))

    step._add_gradients = planted
