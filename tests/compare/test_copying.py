"""Copies of torch models that hold computed tensors."""

import copy

import pytest
import torch
from torch import nn

from compare.legs.copying import copied


class Keeping(nn.Module):
    """A weight that is computed before each call, and maps of the last call that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.utils.weight_norm(nn.Linear(5, 3))
        self.maps: dict[str, list[torch.Tensor]] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.fc(x).softmax(-1)
        self.maps["last"] = [weights]
        return weights


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_computed_tensors_are_copied_as_values() -> None:
    model, x = Keeping(), torch.randn(4, 5)
    before = model(x)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    other = copied(model)
    assert model.maps["last"][0] is before
    assert torch.equal(other.get_submodule("fc")(x).softmax(-1), before)
    with torch.no_grad():
        other.get_parameter("fc.weight_g").mul_(2)
    assert not torch.equal(other(x), before)
    assert torch.equal(model(x), before)
