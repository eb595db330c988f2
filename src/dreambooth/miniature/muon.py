"""Muon: an optimizer for convolutions and matrices that takes half as many steps as AdamW.

The update of a weight matrix is the momentum of its gradient, with all singular values made about 1
(Keller Jordan et al., kellerjordan.github.io/posts/muon). torch.optim.Muon accepts matrices only,
and Lightning's automatic optimization accepts one optimizer only, so this one combines Muon and
AdamW and flattens convolutions.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

HAS_FAST_BF16 = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, AdamW for the `others`.

    `matrices`: weights of two or more dimensions, of which the first is that of the outputs. All
    weights decay by the factor 1 - lr * weight_decay in each step.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        adam_lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "lr": lr, "update": "muon"},
            {"params": list(others), "lr": adam_lr, "update": "adamw"},
        ]
        super().__init__(groups, {"weight_decay": weight_decay})
        self.momentum, self.betas = momentum, betas

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            compute_update = self._muon if group["update"] == "muon" else self._adamw
            for weight in group["params"]:
                if weight.grad is not None:
                    update = compute_update(weight.grad, self.state[weight])
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(group["lr"] * update)
        return loss

    def _muon(self, grad: Tensor, state: dict[str, Any]) -> Tensor:
        mean = state.setdefault("mean", torch.zeros_like(grad))
        mean.lerp_(grad, 1 - self.momentum)
        momentum = grad.lerp(mean, self.momentum).flatten(1)  # Nesterov's momentum
        rows, columns = momentum.shape
        return orthogonalized(momentum).reshape(grad.shape) * max(1, rows / columns) ** 0.5

    def _adamw(self, grad: Tensor, state: dict[str, Any]) -> Tensor:
        mean = state.setdefault("mean", torch.zeros_like(grad))
        square = state.setdefault("square", torch.zeros_like(grad))
        state["step"] = state.get("step", 0) + 1
        mean.lerp_(grad, 1 - self.betas[0])
        square.lerp_(grad.square(), 1 - self.betas[1])
        m, v = (
            average / (1 - beta ** state["step"])
            for average, beta in zip((mean, square), self.betas, strict=True)
        )
        return m / (v.sqrt() + 1e-8)


def orthogonalized(matrix: Tensor, num_iterations: int = 5) -> Tensor:
    """Return U S' V^T for the (n, m) matrix U S V^T, with singular values S' of about 0.7..1.2.

    Newton-Schulz iterations of a quintic polynomial with the coefficients of Muon.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    if HAS_FAST_BF16:
        x = x.bfloat16()
    for _ in range(num_iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)
