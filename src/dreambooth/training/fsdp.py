"""FSDP: weights, gradients and optimizer states are sharded over the devices of a run."""

import copy
import gc

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dreambooth.backbones.stage import Stage
from dreambooth.distributed.ranks import num_ranks


class Sharded(ModelParallelStrategy):
    """FSDP2 (torch's `fully_shard`): each device stores a shard of every parameter, and gathers the
    parameters of a block only to compute this block.

    A checkpoint is one file, written by rank 0. ValueError if there is only one device.
    """

    def __init__(self) -> None:
        if num_ranks() == 1:
            raise ValueError(
                "trainer.strategy=fsdp needs at least two devices: give trainer.devices=2 or more"
            )
        super().__init__(num_ranks(), tensor_parallel_size=1, save_distributed_checkpoint=False)

    def shard(self, stage: Stage) -> None:
        """Replace the stage's denoiser by a sharded copy. The original stays on the CPU."""
        self.unsharded = stage.denoiser.cpu()
        stage.denoiser = copy.deepcopy(self.unsharded)
        for parameter in stage.denoiser.parameters():
            # fully_shard does not support the memory format channels_last.
            parameter.data = parameter.data.contiguous()
        mesh = self.device_mesh["data_parallel"]
        for child in stage.denoiser.children():
            for block in child if isinstance(child, nn.ModuleList) else [child]:
                if any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh)
        fully_shard(stage.denoiser, mesh=mesh)

    def gather(self, stage: Stage) -> None:
        """Put the original denoiser back, with the trained weights, gathered one by one."""
        weights = self.unsharded.state_dict()
        for name, value in stage.denoiser.state_dict().items():
            weights[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)
        stage.denoiser = self.unsharded

    def teardown(self) -> None:
        super().teardown()
        # Free the memory for the next stage's training, or for drawing with the whole model.
        self.optimizers, self.lr_scheduler_configs = [], []
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
