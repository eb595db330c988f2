"""Muon: orthogonal updates for matrices, AdamW for the rest."""

import pytest
import torch
from torch import nn

from dreambooth.miniature.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (12, 12)])
def test_an_orthogonalized_matrix_keeps_its_singular_vectors_and_has_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalized(matrix)
    assert result.shape == matrix.shape
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.25
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (u.T @ result @ v.T).diagonal().min() > 0.6  # the singular vectors stay


def test_a_step_of_matrices_is_orthogonal_and_a_step_of_the_others_is_that_of_adamw():
    torch.manual_seed(0)
    conv = nn.Parameter(torch.randn(4, 3, 3, 3))
    bias = nn.Parameter(torch.randn(4))
    before, twin = conv.detach().clone(), nn.Parameter(bias.detach().clone())
    optimizer = Muon([conv], [bias], lr=0.01, adam_lr=0.003, weight_decay=0.1)
    adamw = torch.optim.AdamW([twin], lr=0.003, weight_decay=0.1)
    conv.grad, bias.grad, twin.grad = torch.randn(4, 3, 3, 3), torch.ones(4), torch.ones(4)
    optimizer.step()
    adamw.step()
    torch.testing.assert_close(bias, twin)
    moved = (before * (1 - 0.01 * 0.1) - conv.detach()).flatten(1) / 0.01
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_training_resumes_exactly_from_the_state_dict():
    def steps(optimizer, weight, count):
        for _ in range(count):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()

    straight, first = (nn.Parameter(torch.eye(3) + 1) for _ in range(2))
    whole = Muon([straight], [], lr=0.1, adam_lr=0.1, weight_decay=0)
    steps(whole, straight, 4)
    part = Muon([first], [], lr=0.1, adam_lr=0.1, weight_decay=0)
    steps(part, first, 2)
    second = nn.Parameter(first.detach().clone())
    rest = Muon([second], [], lr=0.1, adam_lr=0.1, weight_decay=0)
    rest.load_state_dict(part.state_dict())
    steps(rest, second, 2)
    assert torch.equal(second, straight)
