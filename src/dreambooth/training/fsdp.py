"""FSDP: weights, gradients and optimizer states of a training, split over the devices of a run."""

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
    """Each device has a part of all parameters, and the whole of a block only while it computes it.

    Of FSDP2, which is torch's. A checkpoint is one file, written by the first process. ValueError
    for one device.
    """

    def __init__(self) -> None:
        if num_ranks() == 1:
            raise ValueError("trainer.strategy=fsdp splits a model: give trainer.devices=2 or more")
        super().__init__(num_ranks(), tensor_parallel_size=1, save_distributed_checkpoint=False)

    def split(self, stage: Stage) -> None:
        """The stage's denoiser becomes a copy in parts. The whole one waits on the CPU."""
        self.whole = stage.denoiser.cpu()
        stage.denoiser = copy.deepcopy(self.whole)
        for parameter in stage.denoiser.parameters():
            parameter.data = parameter.data.contiguous()  # channels last is not split
        mesh = self.device_mesh["data_parallel"]
        for child in stage.denoiser.children():
            for block in child if isinstance(child, nn.ModuleList) else [child]:
                if any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh)
        fully_shard(stage.denoiser, mesh=mesh)

    def join(self, stage: Stage) -> None:
        """The whole one again, with the weights of the parts; one weight after the other."""
        weights = self.whole.state_dict()
        for name, value in stage.denoiser.state_dict().items():
            weights[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)
        stage.denoiser = self.whole

    def teardown(self) -> None:
        super().teardown()
        # What comes next needs the memory: another stage's training, or the whole model, to draw.
        self.optimizers, self.lr_scheduler_configs = [], []
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
