"""FSDP: weights, gradients and optimizer states of a training, split over the devices of a run."""

import copy

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from dreambooth.backbones.stage import Stage
from dreambooth.parallel import num_ranks

_PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16}


class Sharded(ModelParallelStrategy):
    """Each device has a part of all parameters, and the whole of a block only while it computes it.

    Of FSDP2, which is torch's. `precision`: 32-true, or bf16-mixed (computes in bfloat16; weights,
    the gradients' sum and the optimizer are float32). A checkpoint is one file, written by the
    first process. ValueError for one device, or another precision.
    """

    def __init__(self, precision: str):
        if num_ranks() == 1:
            raise ValueError("trainer.strategy=fsdp splits a model: give trainer.devices=2 or more")
        if precision not in _PRECISIONS:
            raise ValueError(
                f"trainer.strategy=fsdp has no trainer.precision={precision}: give "
                f"{' or '.join(_PRECISIONS)}"
            )
        super().__init__(num_ranks(), tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.policy = MixedPrecisionPolicy(_PRECISIONS[precision], reduce_dtype=torch.float32)

    def split(self, stage: Stage) -> None:
        """The stage's denoiser becomes a copy in parts. The whole one waits on the CPU."""
        self.whole = stage.denoiser.cpu()
        stage.denoiser = copy.deepcopy(self.whole)
        for parameter in stage.denoiser.parameters():
            parameter.data = parameter.data.contiguous()  # channels last is not split
        lists = [child for child in stage.denoiser.children() if isinstance(child, nn.ModuleList)]
        for part in [*(block for blocks in lists for block in blocks), stage.denoiser]:
            fully_shard(part, mesh=self.device_mesh["data_parallel"], mp_policy=self.policy)

    def join(self, stage: Stage) -> None:
        """The whole one again, with the weights of the parts; one weight after the other."""
        weights = self.whole.state_dict()
        for name, value in stage.denoiser.state_dict().items():
            weights[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)
        stage.denoiser = self.whole

    def teardown(self) -> None:
        super().teardown()
        # Else their states keep the devices' memory from what comes next.
        self.optimizers, self.lr_scheduler_configs = [], []
