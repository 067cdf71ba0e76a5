import pytest
import torch
from torch import nn

from alm_plugin.models.recurrent import run


@pytest.fixture
def gru():
    torch.manual_seed(0)
    return nn.GRU(5, 7, batch_first=True).double()


def test_it_is_torchs_gru(gru):
    x, before = torch.randn(3, 11, 5).double(), torch.randn(3, 7).double()
    torch.testing.assert_close(run(gru, x, before), gru(x, before.unsqueeze(0))[0], rtol=0, atol=1e-13)


def test_its_gradients_are_torchs(gru):
    x, before = torch.randn(3, 11, 5).double().requires_grad_(), torch.randn(3, 7).double().requires_grad_()
    towards = torch.randn(3, 11, 7).double()
    inputs = [x, before, *gru.parameters()]
    ours = torch.autograd.grad((run(gru, x, before) * towards).sum(), inputs)
    theirs = torch.autograd.grad((gru(x, before.unsqueeze(0))[0] * towards).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0.1
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
