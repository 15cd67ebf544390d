"""An optimizer's state from another device, the average of all weights at once, cuDNN's switch."""

import copy

import pytest
import torch

from ttt.training.device import copied_ahead, fixed_shapes, read_together
from ttt.training.optim import WeightAverage, load_state


def adamw(**options):
    torch.manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW([{"name": "all", "params": [weights]}], lr=0.1, **options)
    return weights, optimizer


def step(weights, optimizer):
    weights.grad = weights.detach() ** 2
    optimizer.step()


@pytest.mark.parametrize("written, read", [(True, None), (None, True)])
def test_a_state_written_by_other_kernels_goes_on_with_the_optimizers_own(written, read):
    """A checkpoint of a GPU, whose AdamW is fused, on a CPU, and the other way round."""
    weights, optimizer = adamw(fused=written)
    step(weights, optimizer)
    stored = copy.deepcopy(optimizer.state_dict())
    other, continued = adamw(fused=read)
    with torch.no_grad():
        other.copy_(weights)
    load_state(continued, stored)
    assert stored["param_groups"][0]["fused"] is written
    assert continued.param_groups[0]["fused"] is read
    for each in ((weights, optimizer), (other, continued)):
        step(*each)
    torch.testing.assert_close(other, weights)
    assert int(continued.state[other]["step"]) == 2


def test_the_average_is_each_tensors_own():
    tensors = {"a": torch.randn(4), "n": torch.tensor([3]), "b": torch.randn(2, 2)}
    average = WeightAverage(tensors, 0.9)
    expected = {name: tensor.clone() for name, tensor in average.weights.items()}
    moved = {"a": torch.randn(4), "n": torch.tensor([5]), "b": torch.randn(2, 2)}
    average.update(moved)
    for name in ("a", "b"):
        assert torch.equal(average.weights[name], expected[name].lerp_(moved[name], 1 - 0.9))
    assert torch.equal(average.weights["n"], torch.tensor([3]))


def test_numbers_are_read_as_they_are():
    values = [torch.tensor(0.1), torch.tensor(float("inf")), torch.tensor(3.0, requires_grad=True)]
    assert read_together(values) == [float(torch.tensor(0.1)), float("inf"), 3.0]


def test_on_a_cpu_nothing_is_copied():
    tensor = torch.zeros(3)
    assert copied_ahead(tensor, torch.device("cpu")) is tensor


def test_the_search_for_fast_convolutions_ends_with_the_block():
    before = torch.backends.cudnn.benchmark
    with fixed_shapes():
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before
