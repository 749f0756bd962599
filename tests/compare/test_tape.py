"""Calls made again from a tape give what the whole model gives; where the tape can't tell, it says so."""

from typing import Any

import pytest
import torch
from torch import nn

from compare.hypotheses.bank import general_variants, variants
from compare.hypotheses.edit import BOUNDARIES, Calls, Edit, Hypothesis
from compare.hypotheses.tape import Tape, UnsureError


class Gated(nn.Module):
    """A recurrent layer, two parts of a product, a residual connection and an attention."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.lstm, self.fc, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 8), nn.Linear(4, 5)
        self.act = nn.ReLU(inplace)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, _ = self.lstm(x)
        gate, up = self.fc(h).chunk(2, -1)
        h = h + self.act(2 * gate) * up
        q, k, v = torch.stack([h, 2 * h, h.tanh()])
        return self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v))


@pytest.fixture(scope="module")
def model() -> Gated:
    torch.manual_seed(0)
    return Gated().double()


X = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def taped(model: nn.Module) -> tuple[Calls, Tape]:
    tape = Tape(drawing=False)
    calls = Calls(model, recording=True, tape=tape)
    with calls:
        model(X)
    return calls, tape


def again(tape: Tape, edit: Edit) -> Any:
    edits = {edit.site.number: [(edit.site.function, edit.replace)]}
    with torch.no_grad():
        (found,) = tape.again(edits, {}, frozenset(), -1)
    return found


def test_every_edit_gives_what_the_whole_model_gives(model: Gated) -> None:
    calls, tape = taped(model)
    checked = 0
    for site in calls.sites[::6]:
        for _, _, _, replace in [*variants(site), *general_variants(site)][::9]:
            if site.function in BOUNDARIES:
                continue
            edit = Edit(site, replace)
            try:
                with Calls(model, [Hypothesis("", "", "", (edit,))]), torch.no_grad():
                    expected = model(X)
                found = again(tape, edit)
            except Exception:  # it does not fit the call, or the tape can't tell
                continue
            assert torch.equal(found, expected), (site.function, site.number)
            checked += not torch.equal(expected, model(X))
    assert checked > 40  # edits that change something


def test_code_that_works_in_place_can_not_be_told(model: Gated) -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = 2 * x
            h += 1
            return h.tanh()

    calls, tape = taped(InPlace())
    with pytest.raises(UnsureError):
        again(tape, Edit(next(site for site in calls.sites if site.function == "tanh"), lambda f, a, k: f(*a, **k)))


def test_a_module_that_works_in_place_is_told(model: Gated) -> None:
    torch.manual_seed(0)
    calls, tape = taped(Gated(inplace=True).double())
    edit = Edit(next(site for site in calls.sites if site.function == "relu"), lambda f, a, k: a[0])
    with Calls(model, [Hypothesis("", "", "", (edit,))]), torch.no_grad():
        expected = model(X)
    assert torch.equal(again(tape, edit), expected)


def test_another_shape_can_not_be_told(model: Gated) -> None:
    calls, tape = taped(model)
    site = next(site for site in calls.sites if site.function == "tanh" and not site.module)
    with pytest.raises(UnsureError):
        again(tape, Edit(site, lambda f, a, k: f(a[0])[:1]))
