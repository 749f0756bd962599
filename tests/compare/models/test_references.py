"""Every model: the NumPy reference against PyTorch, and its gradients against central differences, in float64."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from compare.models import numpy_models, torch_models
from compare.models.numpy_models import NumpyModel

Array = NDArray[np.float64]
# Sums of at most 784 products of order one, in two orders: a few times 1e-15, kept apart from any mistake by far.
ALLOWED = 1e-12


class Case(NamedTuple):
    """One model on both legs, an input shape, and how many dropout calls it makes."""

    make_torch: Callable[[], nn.Module]
    make_numpy: Callable[[dict[str, Array]], NumpyModel]
    shape: tuple[int, ...]
    dropouts: int = 0
    batch_norm: bool = False


def mlp(*sizes: int, **options: Any) -> Case:
    hidden = len(sizes) - 2
    return Case(
        lambda: torch_models.MLP(sizes, **options),
        lambda state: numpy_models.MLP(state, sizes, **options),
        (7, sizes[0]),
        hidden if options.get("dropout") else 0,
        options.get("norm") == "batch",
    )


def gated(gate: Any) -> Case:
    return Case(
        lambda: torch_models.AdaptiveWidthLinear(6, 4, 13, gate=gate, ramp=3.0),
        lambda state: numpy_models.AdaptiveWidthLinear(state, gate=gate, ramp=3.0),
        (7, 6),
    )


CASES: dict[str, Case] = {
    "A1": Case(lambda: torch_models.TorchModel(3, 5, 2), numpy_models.DiyModel, (7, 3)),
    "A1, one sample": Case(lambda: torch_models.TorchModel(3, 5, 2), numpy_models.DiyModel, (3,)),
    "A2": Case(lambda: torch_models.TorchModelWithActivation(3, 5, 2), numpy_models.DiyModelWithActivation, (7, 3)),
    "A3": Case(torch_models.MNISTClassifier, numpy_models.MNISTClassifier, (3, 1, 28, 28), 2),
    "A4": Case(lambda: torch_models.Regressor(8), numpy_models.Regressor, (7, 8)),
    "A5": Case(lambda: torch_models.SparseLinear(8, 5), numpy_models.SparseLinear, (7, 8)),
    "A6": Case(lambda: torch_models.LowRankLinear(8, 5, 3), numpy_models.LowRankLinear, (7, 8)),
    "A7, hard": gated("hard"),
    "A7, straight_through": gated("straight_through"),
    "A7, soft": gated("soft"),
    "MLP, one layer": mlp(4, 3),
    "MLP, all options, layer norm": mlp(4, 6, 6, 3, activation="gelu", norm="layer", residual=True, dropout=0.3),
    "MLP, all options, batch norm": mlp(4, 6, 6, 3, activation="elu", norm="batch", residual=True, dropout=0.3),
    "MLP, softmax": mlp(4, 6, 3, activation="softplus", output="softmax"),
}


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def randomised(case: Case, seed: int = 0) -> nn.Module:
    """The PyTorch model with nothing at zero or one: biases, unit scales and running statistics hide mistakes."""
    torch.manual_seed(seed)
    model = case.make_torch()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2.0)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.5)
    return model.eval()


def state_of(model: nn.Module) -> dict[str, Array]:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def draw(case: Case, outputs: tuple[int, ...] | None = None) -> Array:
    return np.random.default_rng(3 if outputs is None else 4).normal(size=case.shape if outputs is None else outputs)


def disagreements(case: Case, model: nn.Module, numpy_model: NumpyModel, **run: Any) -> dict[str, float]:
    """Largest difference of the output and of each gradient; infinite where one leg has none or the shapes differ."""
    inputs = torch.tensor(draw(case), requires_grad=True)
    outputs = model(inputs)
    cotangent = torch.tensor(draw(case, tuple(outputs.shape)))
    outputs.backward(cotangent)
    numpy_outputs, cache = numpy_model.forward(inputs.detach().numpy(), **run)
    numpy_dx, numpy_gradients = numpy_model.backward(cotangent.numpy(), cache)
    pairs: dict[str, tuple[Any, Any]] = {
        "outputs": (outputs.detach(), numpy_outputs),
        "inputs": (inputs.grad, numpy_dx),
    }
    pairs |= {name: (parameter.grad, numpy_gradients.get(name)) for name, parameter in model.named_parameters()}
    unknown = set(numpy_gradients) - {name for name, _ in model.named_parameters()}
    return {name: distance(*pair) for name, pair in pairs.items()} | dict.fromkeys(unknown, np.inf)


def distance(a: torch.Tensor | None, b: Array | None) -> float:
    if a is None or b is None:
        return 0.0 if a is None and b is None else np.inf
    return float(np.abs(a.numpy() - b).max()) if tuple(a.shape) == b.shape else np.inf


@pytest.mark.parametrize("name", CASES)
def test_numpy_agrees_with_torch(name: str) -> None:
    case = CASES[name]
    model = randomised(case)
    found = disagreements(case, model, case.make_numpy(state_of(model)))
    assert {n: d for n, d in found.items() if not d <= ALLOWED} == {}


def dropout_of(model: nn.Module) -> nn.Dropout:
    (dropout,) = (module for module in model.modules() if isinstance(module, nn.Dropout))
    return dropout


class Recorder:
    """Replaces a model's dropout by masks that it draws itself and keeps."""

    def __init__(self, model: nn.Module) -> None:
        self.masks: list[NDArray[np.bool_]] = []
        dropout_of(model).register_forward_hook(self.hook)

    def hook(self, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        assert isinstance(module, nn.Dropout)
        mask = torch.rand_like(inputs[0]) > module.p
        self.masks.append(mask.numpy())
        return inputs[0] * mask / (1 - module.p)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.dropouts or case.batch_norm])
def test_numpy_agrees_with_torch_in_training(name: str) -> None:
    case = CASES[name]
    model = randomised(case)
    numpy_model = case.make_numpy(state_of(model))
    masks = Recorder(model.train()).masks
    model(torch.tensor(draw(case)))  # a first pass draws masks, which the second is made to repeat
    model.load_state_dict({n: torch.tensor(a) for n, a in numpy_model.state.items()}, strict=False)
    replay = iter(list(masks))
    dropout_of(model)._forward_hooks.clear()
    dropout_of(model).register_forward_hook(lambda m, x, y: x[0] * torch.tensor(next(replay)) / (1 - m.p))
    run: dict[str, Any] = {"masks": masks} | ({"train": True} if case.batch_norm else {})
    found = disagreements(case, model, numpy_model, **run)
    assert len(masks) == case.dropouts
    assert {n: d for n, d in found.items() if not d <= ALLOWED} == {}


def test_batch_norm_keeps_the_running_statistics_that_torch_keeps() -> None:
    case = CASES["MLP, all options, batch norm"]
    model = randomised(case)
    numpy_model = case.make_numpy(state_of(model))
    keep = [np.ones((7, 6), bool)] * 2
    dropout_of(model).p = 0.0
    model.train()(torch.tensor(draw(case)))
    numpy_model.rate = 0.0  # type: ignore[attr-defined]
    _, cache = numpy_model.forward(draw(case), masks=keep, train=True)  # type: ignore[call-arg]
    after = {n: a for n, a in state_of(model).items() if ".running_" in n}
    assert after.keys() == cache["buffers"].keys()
    for name, array in after.items():
        np.testing.assert_allclose(cache["buffers"][name], array, rtol=0, atol=ALLOWED)
        assert np.abs(numpy_model.state[name] - array).max() > 0.01  # they did move, and the model itself did not


@pytest.mark.parametrize("name", CASES)
def test_numpy_gradients_are_derivatives(name: str) -> None:
    """Along a random direction in each array, the outputs change as the gradient says."""
    case = CASES[name]
    state = state_of(randomised(case))
    # A straight-through gate is flat almost everywhere: that its gradient is not its derivative is what it is for.
    expected = {"selector"} if name == "A7, straight_through" else set()
    assert gradient_faults(case, case.make_numpy, state) == expected


STEP = 1e-6


def gradient_faults(case: Case, make: Callable[[dict[str, Array]], NumpyModel], state: dict[str, Array]) -> set[str]:
    """Names of the arrays whose gradient is not the central difference along a random direction."""
    inputs, model = draw(case), make(state)
    outputs, cache = model.forward(inputs)
    cotangent = draw(case, outputs.shape)
    dx, gradients = model.backward(cotangent, cache)
    faults = set()
    for name, array in (model.parameters | {"inputs": inputs}).items():
        direction = np.random.default_rng(5).normal(size=array.shape)
        values = []
        for sign in (1, -1):
            moved = {**state, "inputs": inputs, name: array + sign * STEP * direction}
            x = moved.pop("inputs")
            values.append((make(moved).forward(x)[0] * cotangent).sum())
        measured = (values[0] - values[1]) / (2 * STEP)
        gradient = dx if name == "inputs" else gradients.get(name, np.zeros_like(array))
        # Rounding of sums of order 10² is 1e-14, divided by the step 1e-8; relative to a slope of order 1 to 10².
        if not abs(measured - (gradient * direction).sum()) <= 1e-6 * max(1.0, abs(measured)):
            faults.add(name)
    return faults


def tampered(make: Callable[[dict[str, Array]], NumpyModel], name: str, mistake: str) -> Callable[..., NumpyModel]:
    """A factory of the same model with one mistake in the gradient of ``name``."""

    def build(state: dict[str, Array]) -> NumpyModel:
        model = make(state)
        right = model.backward

        def backward(cotangents: Any, cache: Any) -> tuple[Array, dict[str, Array]]:
            dx, gradients = right(cotangents, cache)
            if mistake == "a sign":
                gradients[name] = -gradients[name]
            else:
                del gradients[name]
            return dx, gradients

        model.backward = backward  # type: ignore[method-assign]
        return model

    return build


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mistake", ["a sign", "left out"])
def test_twin_a_wrong_gradient_is_seen_by_both_tests(name: str, mistake: str) -> None:
    case = CASES[name]
    model = randomised(case)
    state = state_of(model)
    surrogate = {"selector"} if name in ("A7, hard", "A7, straight_through") else set()
    alive = [n for n, _ in model.named_parameters() if n not in surrogate]
    for parameter in [alive[0], alive[-1]]:
        wrong = tampered(case.make_numpy, parameter, mistake)
        assert gradient_faults(case, wrong, state) - surrogate == {parameter}
        model.zero_grad()
        found = disagreements(case, model, wrong(state))
        assert {n for n, d in found.items() if not d <= ALLOWED} == {parameter}


def test_the_dead_selector_has_no_gradient_on_either_leg() -> None:
    case = CASES["A7, hard"]
    model = randomised(case)
    assert isinstance(model, torch_models.AdaptiveWidthLinear)
    outputs = model(torch.tensor(draw(case)))
    outputs.sum().backward()
    active = int(torch.sigmoid(model.selector.detach()).item() * 13)
    assert outputs.shape == (7, active)
    assert 0 < active < 13
    assert model.selector.grad is None
    _, gradients = case.make_numpy(state_of(model)).backward(np.ones((7, active)), case_cache(case, model))
    assert gradients.keys() == {"weight"}
    assert not gradients["weight"][active:].any()


def case_cache(case: Case, model: nn.Module) -> Any:
    return case.make_numpy(state_of(model)).forward(draw(case))[1]


@pytest.mark.parametrize("name", ["A1", "A3", "MLP, all options, batch norm"])
def test_all_faults_of_a_state_are_listed_at_once(name: str) -> None:
    case = CASES[name]
    state = state_of(randomised(case))
    weight = [n for n in state if state[n].ndim == 2][-1]
    bias = next(n for n in state if n.endswith("bias"))
    state[weight] = state[weight].T
    del state[bias]
    state["surplus"] = np.zeros(3)
    with pytest.raises(ValueError) as caught:
        case.make_numpy(state)
    text = str(caught.value)
    assert f"{bias}: missing" in text
    assert "surplus: unexpected" in text
    assert f"{weight}: expected shape" in text
    assert "looks transposed" in text
    assert len(text.splitlines()) == 4  # and nothing else is blamed


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_state_with_a_fault_is_accepted(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (m, n) in enumerate(itertools.pairwise(sizes)):
        shapes |= {f"layers.{i}.weight": (n, m), f"layers.{i}.bias": (n,)}
    state = {name: np.ones(shape) for name, shape in shapes.items()}
    assert numpy_models.MLP(state, sizes).forward(np.ones((2, sizes[0])))[0].shape == (2, sizes[-1])
    name = data.draw(st.sampled_from(sorted(state)))
    fault = data.draw(st.sampled_from(["missing", "one more row", "one axis more"]))
    if fault == "missing":
        del state[name]
    else:
        old = state[name]
        state[name] = np.concatenate([old, old[:1]]) if fault == "one more row" else old[None]
    with pytest.raises(ValueError, match=name):
        numpy_models.MLP(state, sizes)


def test_the_state_is_copied() -> None:
    state = state_of(randomised(CASES["A1"]))
    model = numpy_models.DiyModel(state)
    before = model.forward(np.ones(3))[0]
    state["layer1.weight"] += 1.0
    np.testing.assert_array_equal(model.forward(np.ones(3))[0], before)


def test_bad_calls_are_refused_in_words() -> None:
    diy = numpy_models.DiyModel(state_of(torch_models.TorchModel(3, 5, 2)))
    with pytest.raises(ValueError, match=r"layer1: expected input of shape \(\.\.\., 3\), found \(2, 4\)"):
        diy.forward(np.ones((2, 4)))
    with pytest.raises(ValueError, match="expected none or one for each of 0 dropout calls, found 1"):
        diy.forward(np.ones(3), masks=[np.ones(3, bool)])
    mnist = numpy_models.MNISTClassifier(state_of(torch_models.MNISTClassifier()))
    with pytest.raises(ValueError, match="2 dropout calls, found 1"):
        mnist.forward(np.ones((2, 784)), masks=[np.ones((2, 512), bool)])
    sparse = state_of(torch_models.SparseLinear(4, 3)) | {"mask": np.full((3, 4), 0.5)}
    with pytest.raises(ValueError, match="mask: expected only False and True"):
        numpy_models.SparseLinear(sparse)


def test_parameters_leave_out_the_buffers() -> None:
    for case in CASES.values():
        model = case.make_torch()
        expected = {name: parameter.numel() for name, parameter in model.named_parameters()}
        assert {n: a.size for n, a in case.make_numpy(state_of(model)).parameters.items()} == expected


def test_log_softmax_survives_logits_of_ten_thousand() -> None:
    """A naive log(softmax) would be -inf, and exp alone would overflow."""
    case = CASES["A3"]
    model = randomised(case)
    assert isinstance(model, torch_models.MNISTClassifier)
    with torch.no_grad():
        model.fc3.bias.copy_(torch.tensor([1e4, -1e4] + [0.0] * 8))
    found = disagreements(case, model, case.make_numpy(state_of(model)))
    assert {n: d for n, d in found.items() if not d <= 1e-10} == {}  # outputs of 2e4 are rounded at 4e-12
    outputs, _ = case.make_numpy(state_of(model)).forward(draw(case))
    assert np.isfinite(outputs).all()
    assert outputs.min() < -1.9e4
