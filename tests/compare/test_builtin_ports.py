"""Every built-in port passes, with counts that agree and float64 errors far below 1e-10."""

import dataclasses
import functools
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import compare
from compare.ports import CONSISTENCY_INPUT, PORTS
from compare.report.table import row, table
from compare.structure import flatten


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def report_of(name: str) -> compare.Report:
    return compare.check(dataclasses.replace(PORTS[name](), name=name))


@pytest.mark.parametrize("name", PORTS)
def test_a_built_in_port_passes(name: str) -> None:
    report = report_of(name)
    assert report.passed, report.text()
    numbers = report.numbers
    assert numbers["output_error"]["float64"] < 1e-10
    assert numbers["gradient_error"]["float64"] < 1e-10
    # float32 keeps seven digits; the worst-conditioned of these nets lose two more in a gradient.
    assert numbers["output_error"]["float32"] < 1e-5
    assert numbers["gradient_error"]["float32"] < 1e-4
    counts = {leg: count for leg, count in numbers["parameters"].items() if count is not None}
    assert {"torch", "flax", "numpy"} <= set(counts)
    assert len(set(counts.values())) == 1
    assert set(row(report)) >= {"name", "passed", "parameters", "output_error", "gradient_error"}


SINGLE = [name for name in PORTS if name[:2] in {"A2", "A4", "A5", "A6", "A7", "A8"}]


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_sample_passes_as_a_batch_does(name: str) -> None:
    """A1 is in the table as one sample too. That one sample leaves some units at rest says nothing about the port."""
    port = PORTS[name]()
    report = compare.check(dataclasses.replace(port, inputs=port.inputs[0]))
    assert {c.name for c in report.checks if c.status not in ("passed", "noted")} <= {"adequacy"}, report.text()
    assert report.numbers["output_error"]["float64"] < 1e-10
    assert {leaf.path for leaf in report.check("gradients").leaves} >= {"input args.0", "input args.0 (NumPy)"}


def test_a_wrong_single_sample_is_caught() -> None:
    port = PORTS["A6 LowRankLinear"]()
    slip = (lambda y: y, lambda y: y[::-1])
    report = compare.check(dataclasses.replace(port, inputs=port.inputs[0], outputs=slip, numpy_model=None))
    assert report.check("outputs").status == "failed"


def test_a_single_image_is_a_batch_of_one() -> None:
    """A3 flattens all axes but the first, on every leg."""
    port = PORTS["A3 MNISTClassifier"]()
    flax_model = port.flax_model
    compare.convert(port.torch_model, flax_model)
    images = port.inputs[:1]
    with torch.no_grad():
        expected = port.torch_model.eval()(torch.as_tensor(images)).numpy()
    flax_model.eval()
    found = port.numpy_model(given(port)).forward(images.astype(np.float64))[0]
    assert found.shape == expected.shape == (1, 10)
    # float32: log-probabilities of about 2 from sums of 784 products; in NumPy with float64.
    np.testing.assert_allclose(np.asarray(flax_model(images)), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(np.asarray(flax_model(images[:, ::-1])) - expected).max() > 1e-2


def test_numpy_judges_too() -> None:
    leaves = {leaf.path for leaf in report_of("A2 TorchModelWithActivation").check("gradients").leaves}
    assert {"layer1.weight", "layer1.weight (NumPy)", "input args.0", "input args.0 (NumPy)"} <= leaves


def test_the_consistency_script_s_input_is_the_article_s() -> None:
    assert CONSISTENCY_INPUT.tolist() == [[3.1, 1.3, 1.2], [2.1, 1.3, 13.0]]
    assert PORTS["A1 TorchModel"]().inputs is CONSISTENCY_INPUT
    assert PORTS["A1 TorchModel, one sample"]().inputs.shape == (3,)
    assert report_of("A1 TorchModel").numbers["parameters"] == {"torch": 32, "flax": 32, "numpy": 32, "formula": 32}


def test_the_hard_selector_is_dead_on_every_leg_and_the_trainable_ones_are_not() -> None:
    hard = report_of("A7 AdaptiveWidthLinear, hard")
    assert hard.numbers["gradient_flow"]["selector"] == {"torch": "none", "flax": "none", "numpy": "none"}
    assert hard.check("adequacy").status == "noted"
    assert "dead on every leg: selector" in hard.check("adequacy").detail
    assert "selector takes no gradient on any leg" in hard.check("gradients").detail
    for gate in ("straight-through", "soft"):
        flow = report_of(f"A7 AdaptiveWidthLinear, {gate}").numbers["gradient_flow"]["selector"]
        assert set(flow.values()) == {"non-zero"}


def test_training_mode_replays_dropout_and_notes_the_biased_variance() -> None:
    assert report_of("A3 MNISTClassifier, training").settings["mode"] == "train"
    assert report_of("MLP, batch norm, training").check("statistics").status == "noted"


def test_a_wrong_formula_fails_the_parameters() -> None:
    report = compare.check(dataclasses.replace(PORTS["A1 TorchModel"](), formula=31))
    assert report.check("parameters").status == "failed"
    assert report.check("parameters").detail == "parameter counts differ: torch 32, flax 32, numpy 32, formula 31"


def test_a_wrong_numpy_reference_fails_and_is_named() -> None:
    port = PORTS["A2 TorchModelWithActivation"]()

    class Slipped(type(port.numpy_model(given(port)))):  # type: ignore[misc]
        def backward(self, cotangents: np.ndarray, cache: object) -> object:
            dx, gradients = super().backward(cotangents, cache)
            return dx, {**gradients, "layer1.bias": 2 * gradients["layer1.bias"]}

    report = compare.check(dataclasses.replace(port, numpy_model=Slipped))
    assert report.check("outputs").status == "passed"
    assert [leaf.path for leaf in report.check("gradients").leaves if not leaf.agrees] == ["layer1.bias (NumPy)"]


def given(port: compare.Port) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in port.torch_model.state_dict().items()}


def test_a_numpy_reference_that_does_not_run_is_an_error_not_a_verdict() -> None:
    class Broken:
        def forward(self, inputs: np.ndarray) -> object:
            raise RuntimeError("on purpose")

    report = compare.check(dataclasses.replace(PORTS["A1 TorchModel"](), numpy_model=Broken(), formula=None))
    assert report.status == "error"
    assert "the NumPy reference does not run" in report.text()


def test_a_port_that_fails_shows_in_the_table_and_in_its_text() -> None:
    port = PORTS["A1 TorchModel"]()
    wrong = dataclasses.replace(port, name="wrong", mapping={"layer1.bias": ("layer1.bias", lambda b: 1.01 * b)})
    report = compare.check(wrong)
    text = table([report_of("A1 TorchModel"), report])
    assert "1 of 2 passed" in text
    assert "FAIL outputs" in text
    with pytest.raises(AssertionError, match="FAIL outputs"):
        compare.assert_port(wrong)
    compare.assert_port(port)


def test_the_json_of_a_report_is_strict_and_complete(tmp_path: object) -> None:
    report = report_of("A7 AdaptiveWidthLinear, hard")
    values = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert values["passed"] is True
    assert [check["name"] for check in values["checks"]] == [check.name for check in report.checks]
    assert values["numbers"]["parameters"]["torch"] == 113


def test_inputs_are_flattened_by_path() -> None:
    assert list(flatten({"a": (np.ones(1), None, "text"), "b": [np.zeros(2)]})) == ["a.0", "b.0"]
    assert list(flatten(np.ones(3))) == [""]
