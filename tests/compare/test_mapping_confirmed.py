"""Only agreement confirms a mapping: right ports under any names pass, and no proposal hides a mistake."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import compare
from compare.checks.parameters import check_parameters, count_parameters
from compare.conversion import convert
from compare.legs.flax_function import flax_function
from compare.mapping.proposal import propose_mapping
from compare.result import UsageError

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")

Array = jax.Array


class TorchPair(nn.Module):
    """Two layers of one shape, one after the other."""

    def __init__(self, first: str = "fc1", second: str = "fc2") -> None:
        super().__init__()
        self.names = (first, second)
        for name in self.names:
            setattr(self, name, nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = (getattr(self, name) for name in self.names)
        return second(torch.tanh(first(x)))


class FlaxPair(nnx.Module):
    def __init__(self, first: str, second: str) -> None:
        self.names = (first, second)
        for name in sorted(self.names):
            setattr(self, name, nnx.Linear(4, 4, rngs=nnx.Rngs(0)))

    def __call__(self, x: Array) -> Array:
        first, second = (getattr(self, name) for name in self.names)
        return second(jnp.tanh(first(x)))


@pytest.mark.parametrize(
    ("ours", "theirs", "right"),
    [
        (("fc1", "fc2"), ("fc1", "fc2"), True),
        (("fc1", "fc2"), ("fc2", "fc1"), False),  # the names tell that they are used in the wrong order
        (("fc1", "fc2"), ("dense2", "dense1"), False),
        (("down", "up"), ("z", "a"), True),  # the names tell nothing, and the order of execution does
    ],
)
def test_names_win_and_order_stands_in(
    seeded: Any, rows: Any, ours: tuple[str, str], theirs: tuple[str, str], right: bool
) -> None:
    report = compare.check(seeded(lambda: TorchPair(*ours)), FlaxPair(*theirs), rows(3, 4))
    assert report.status == ("passed" if right else "failed"), report.text()


class TorchBare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shift, self.slope = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.slope + self.shift


class FlaxBare(nnx.Module):
    def __init__(self, extra: float = 0.0) -> None:
        self.extra = extra
        self.u, self.v = nnx.Param(jnp.zeros(4)), nnx.Param(jnp.zeros(4))

    def __call__(self, x: Array) -> Array:
        return x * self.u[...] + self.v[...] + self.extra * x


def test_agreement_decides_or_the_mapping_is_ambiguous(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    report = compare.check(TorchBare(), FlaxBare(), rows(3, 4))
    assert report.passed, report.text()
    found = {row["torch"]: (row["flax"], row["found"]) for row in report.mapping}
    assert found == {"slope": ("u", "confirmed by agreement"), "shift": ("v", "confirmed by agreement")}
    # All ways were tried, and the port is wrong with every one of them.
    wrong = compare.check(TorchBare(), FlaxBare(extra=0.1), rows(3, 4))
    assert wrong.status == "failed"
    assert "agree with none of them; the nearest is taken" in wrong.check("weights").detail
    assert {row["torch"]: row["flax"] for row in wrong.mapping} == {"slope": "u", "shift": "v"}
    monkeypatch.setattr("compare.settling._MOST_WAYS", 1)
    unclear = compare.check(TorchBare(), FlaxBare(extra=0.1), rows(3, 4))
    assert unclear.status == "inconclusive"
    assert "ambiguous mapping" in unclear.check("weights").detail
    assert "slope -> u" in unclear.check("weights").detail
    told = compare.check(TorchBare(), FlaxBare(extra=0.1), rows(3, 4), mapping={"slope": "u"})
    assert told.status == "failed"


class TorchKeyBias(nn.Module):
    """Softmax does not see what is added to all scores of a row; ``unused`` it does not see at all."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.fc, self.q, self.k = nn.Linear(5, 3, bias=bias), nn.Linear(5, 6, bias=False), nn.Linear(5, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2), dim=-1) @ self.fc(x)


class FlaxKeyBias(nnx.Module):
    def __init__(self, bias: bool = True) -> None:
        rngs = nnx.Rngs(0)
        self.fc = nnx.Linear(5, 3, use_bias=bias, rngs=rngs)
        self.q, self.k = (nnx.Linear(5, 6, use_bias=False, rngs=rngs) for _ in range(2))

    def __call__(self, x: Array) -> Array:
        return jax.nn.softmax(self.q(x) @ self.k(x).swapaxes(-1, -2), axis=-1) @ self.fc(x)


def test_a_missing_parameter_fails_if_it_has_influence(seeded: Any, rows: Any) -> None:
    x = rows(2, 4, 5)
    right = compare.check(seeded(TorchKeyBias), FlaxKeyBias(), x)
    assert right.check("weights").status == "noted", right.text()
    assert "without influence: k.bias" in right.check("weights").detail
    assert right.check("parameters").status == "passed"
    wrong = compare.check(seeded(TorchKeyBias), FlaxKeyBias(bias=False), x)
    assert wrong.check("weights").status == wrong.check("parameters").status == "failed"
    assert [leaf.path for leaf in wrong.check("weights").leaves] == ["fc.bias"]
    assert wrong.check("outputs").status == "failed"  # it ran all the same


class TorchSquare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class FlaxSquare(nnx.Module):
    def __init__(self) -> None:
        self.proj = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        return self.proj(x)


def test_a_pair_given_by_name_is_turned_by_agreement(rows: Any) -> None:
    report = compare.check(TorchSquare(), FlaxSquare(), rows(3, 4), mapping={"weight": "proj.kernel"})
    assert report.passed, report.text()
    assert report.mapping == [{"torch": "weight", "flax": "proj.kernel", "transform": "as it is", "found": "given"}]


class TorchGated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


class FlaxGated(nnx.Module):
    def __init__(self) -> None:
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)))
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        return self.head(self.rnn(x))


def test_merged_biases_are_counted_once(seeded: Any) -> None:
    model, function = seeded(TorchGated), flax_function(FlaxGated(), "eval")
    mapping = propose_mapping(model, function.shapes, kinds=function.kinds)
    counts = count_parameters(model, function, None, None)
    assert check_parameters(counts, mapping, model, function).detail == "torch 138 (154 raw), flax 138"
    model.head.bias = None
    counts = count_parameters(model, function, None, None)
    wrong = check_parameters(counts, propose_mapping(model, function.shapes), model, function)
    assert wrong.status == "failed"


def test_convert_merges_and_parts_biases(seeded: Any, rows: Any) -> None:
    model, back, port = seeded(TorchGated), TorchGated(), FlaxGated()
    convert(model, port)
    x = rows(2, 5, 3)
    expected = model(torch.from_numpy(x)).detach().numpy()
    # float32, five steps with sums of at most eight products
    np.testing.assert_allclose(port(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    mapping = convert(port, back)
    assert mapping.zeroed == ("rnn.bias_ih_l0",)
    np.testing.assert_allclose(back(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    model.rnn.weight_ih_l0.data = model.rnn.weight_ih_l0.data.roll(4, 0)  # gates in another order are another net
    assert not np.allclose(model(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-2)


def test_tied_arrays_that_differ_are_no_torch_weights() -> None:
    class TorchTied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
            self.head.weight = self.embed.weight

    class Untied(nnx.Module):
        def __init__(self) -> None:
            self.embed, self.head = (
                nnx.Embed(7, 3, rngs=nnx.Rngs(0)),
                nnx.Linear(3, 7, use_bias=False, rngs=nnx.Rngs(1)),
            )

    model, port = TorchTied(), Untied()
    with pytest.raises(UsageError, match="one array in torch"):
        convert(port, model)
    convert(model, port)
    assert np.array_equal(port.embed.embedding[...], port.head.kernel[...].T)
    convert(port, model)


def test_the_command_line_shows_the_mapping_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from compare.cli import main
    from compare.weight_files import write_weights

    (tmp_path / "pair_of_nets.py").write_text(
        "import torch\nfrom flax import nnx\n\n\n"
        "def make_torch():\n    return torch.nn.Sequential(torch.nn.Linear(3, 5))\n\n\n"
        "def make_flax():\n    return nnx.Sequential(nnx.Linear(3, 5, rngs=nnx.Rngs(0)))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_weights("in.safetensors", {"0.weight": torch.ones(5, 3), "0.bias": torch.zeros(5)})
    arguments = ["convert", "in.safetensors", "out.safetensors", "--torch", "pair_of_nets:make_torch"]
    arguments += ["--flax", "pair_of_nets:make_flax", "--to", "flax"]
    codes = []
    for extra in (["--show-mapping"], [], ["--overwrite"]):
        with pytest.raises(SystemExit) as left:
            main([*arguments, *extra])
        codes.append(left.value.code)
        if extra == ["--show-mapping"]:
            text = capsys.readouterr().out
            assert "0.weight  layers.0.kernel  transposed" in text
    assert codes == [0, 2, 0]
    assert "out.safetensors: expected a new file, found one that exists" in capsys.readouterr().err
