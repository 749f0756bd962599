"""From three awkward tables, and from images, to predictions: train, load_run, predict, export."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fcjax.cli import main
from fcjax.config import UsageError
from fcjax.datasets import load
from fcjax.inspection import inspect_run
from fcjax.models import MLP
from fcjax.prediction import load_run

RNG = np.random.default_rng(0)
QUICK = ["--no-cache", "--devices", "1", "--batch-size", "16", "--hidden", "8", "--dropout", "0"]


def german_houses(rows: int) -> list[str]:
    """Semicolons, decimal commas, an umlaut, gaps and a column that counts the rows; a number to predict."""
    lines = ["id;größe;zimmer;lage;preis"]
    for i in range(rows):
        size, rooms, place = RNG.uniform(30, 150), RNG.choice(["", "1", "2", "3"]), RNG.choice(["Ost", "West"])
        price = 2.5 * size + (40 if place == "Ost" else 0)
        lines.append(f"{i};{size:.1f};{rooms};{place};{price:.2f}".replace(".", ","))
    return lines


def quoted_flowers(rows: int) -> list[str]:
    """Quotes, commas and line breaks inside, a NaN; names of classes to predict."""
    lines = ['"petal, cm",note,"kind"']
    for _ in range(rows):
        kind = str(RNG.choice(["rosa", "tulipa, red"]))
        petal = RNG.normal(2.0 if kind == "rosa" else 4.0, 0.4)
        lines.append(f'{"nan" if RNG.random() < 0.05 else f"{petal:.2f}"},"a ""b""\n{RNG.integers(3)}","{kind}"')
    return lines


def coded_grades(rows: int) -> list[str]:
    """Tabs, whole numbers that are classes, a column that never changes, a code as category."""
    lines = ["grade\tcode\tsame\thours"]
    for _ in range(rows):
        code, hours = RNG.choice([7, 11, 13]), RNG.uniform(0, 10)
        lines.append(f"{1 + int(hours > 5)}\t{code}\tx\t{hours:.3f}")
    return lines


TABLES = {
    "houses": (german_houses, ["--target", "preis"], "regression", "id: left out"),
    "flowers": (quoted_flowers, ["--target", "kind"], "classification", "kind: classification"),
    "grades": (coded_grades, ["--target", "grade", "--categorical", "code"], "classification", "same: left out"),
}


def answers(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", TABLES)
def test_an_awkward_table_from_file_to_predictions(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, flags, task, note = TABLES[name]
    table, run, out = tmp_path / "t.csv", tmp_path / "run", tmp_path / "out.csv"
    table.write_text("\n".join(make(150)) + "\n", encoding="utf-8")
    recipe = [*QUICK, "--epochs", "40", "--learning-rate", "0.02"]
    main(["train", "table", "--file", str(table), *flags, *recipe, "--run-dir", str(run)])
    assert note in capsys.readouterr().out
    assert (run / "preprocessing.json").exists()
    summary = json.loads((run / "summary.json").read_text())
    assert {"validation", "test"} <= summary.keys()

    fresh = make(40)
    new = tmp_path / "new.csv"
    new.write_text("\n".join(fresh) + "\n", encoding="utf-8")
    main(["predict", str(run), "--file", str(new), "--out", str(out)])
    trained = load_run(run)
    assert trained.preprocessing is not None
    assert trained.task == task
    truth = trained.preprocessing.targets(trained.preprocessing.read(new))
    found = [row["prediction"] for row in answers(out)]
    assert len(found) == len(truth) == 40
    if task == "regression":
        error = np.array(found, float) - truth[:, 0]
        assert np.sqrt((error**2).mean()) < 0.25 * truth.std()
        assert np.sqrt((np.roll(error, 1) - truth[:, 0]).var()) > 0.25 * truth.std()
    else:
        right = np.mean([trained.classes[label] == text for label, text in zip(truth, found, strict=True)])
        assert right > 0.85
        assert max(np.mean(truth == k) for k in range(2)) < 0.85  # guessing would not do


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two replicas of a small net on the digits."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    main(["train", "digits", "--model", "mlp", "--seeds", "2", *QUICK, "--epochs", "2", "--run-dir", str(run)])
    return run


def test_a_loaded_run_gives_the_reported_figures(digits: Path) -> None:
    run = load_run(digits)
    test = load("digits").test
    assert isinstance(run.model, MLP)
    each = run.predict_each(test.inputs)
    assert each.shape == (2, len(test), 10)
    accuracy = (each.argmax(axis=2) == test.targets).mean(axis=1)
    reported = json.loads((digits / "summary.json").read_text())["test"]["accuracy"]
    np.testing.assert_allclose(accuracy, reported, rtol=0, atol=1.5 / len(test))  # a tie may fall either way
    np.testing.assert_allclose(run.predict(test.inputs).sum(axis=1), 1.0, atol=1e-5)
    assert run.labels(each[0])[:3] == [str(k) for k in each[0].argmax(axis=1)[:3]]


def test_a_row_alone_gets_the_same_answer(digits: Path) -> None:
    run, images = load_run(digits), load("digits").test.inputs[:37]
    together = run.predict_each(images)
    for row in (0, 36):
        np.testing.assert_array_equal(run.predict_each(images[row : row + 1]), together[:, row : row + 1])
    assert (together[:, :1] != together[:, 36:]).any()  # the twin


def test_images_are_read_from_arrays(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = load("digits").test.inputs[:5]
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "x.npz", inputs=images, other=np.zeros(2))
    for name in ("x.npy", "x.npz"):
        main(["predict", str(digits), "--file", str(tmp_path / name)])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "prediction,probability"
        assert [line.split(",")[0] for line in lines[1:]] == load_run(digits).labels(load_run(digits).predict(images))


def test_export_in_both_layouts(digits: Path, tmp_path: Path) -> None:
    main(["export", str(digits), str(tmp_path / "t.safetensors"), "--replica", "1"])
    main(["export", str(digits), str(tmp_path / "f.safetensors"), "--layout", "flax", "--replica", "1"])
    torch, flax = load_file(tmp_path / "t.safetensors"), load_file(tmp_path / "f.safetensors")
    both = load_file(digits / "weights.safetensors")
    assert sorted(torch) == ["layers.0.bias", "layers.0.weight", "layers.1.bias", "layers.1.weight"]
    for layer in ("layers.0", "layers.1"):
        np.testing.assert_array_equal(torch[f"{layer}.weight"].T, both[f"{layer}.kernel"][1])
        np.testing.assert_array_equal(flax[f"{layer}.kernel"], both[f"{layer}.kernel"][1])
        np.testing.assert_array_equal(torch[f"{layer}.bias"], both[f"{layer}.bias"][1])


def test_what_the_user_gets_wrong(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "wide.npy", np.zeros((3, 27, 28), np.uint8))
    np.save(tmp_path / "nan.npy", np.full((3, 28, 28), np.nan, np.float32))
    np.save(tmp_path / "text.npy", np.array([["a"] * 784]))
    np.save(tmp_path / "one.npy", np.float32(3))
    np.save(tmp_path / "none.npy", np.zeros((0, 784), np.float32))
    np.save(tmp_path / "huge.npy", np.full((2, 784), 1e300))
    cases = {
        ("predict", str(digits), "--file", str(tmp_path / "text.npy")): "inputs: expected samples of real numbers, fou",
        ("predict", str(digits), "--file", str(tmp_path / "one.npy")): "inputs: expected shape (n, 28, 28), found ()",
        ("predict", str(digits), "--file", str(tmp_path / "none.npy")): "real numbers, found float32 of shape (0, 784)",
        ("predict", str(digits), "--file", str(tmp_path / "huge.npy")): "inputs: expected finite numbers, found others",
        ("predict", str(tmp_path / "none"), "--file", "x.npy"): "config.json: expected a finished run of fcjax train",
        ("predict", str(digits), "--file", str(tmp_path / "x")): "x: expected a file, found nothing",
        ("predict", str(digits), "--file", str(tmp_path / "cut.npy")): "cut.npy: not a whole NumPy file",
        ("predict", str(digits), "--file", str(tmp_path / "wide.npy")): "inputs: expected shape (n, 28, 28), found (3,",
        ("predict", str(digits), "--file", str(tmp_path / "nan.npy")): "inputs: expected finite numbers, found others",
        ("export", str(digits), str(tmp_path / "w.pt")): "w.pt: expected a file name that ends in .safetensors",
        ("export", str(digits), "w.safetensors", "--replica", "2"): "replica: expected a number from 0 to 1, found 2",
        ("train", "table", "--target", "x"): "file: expected with the task table",
        ("train", "digits", "--target", "x"): "target: expected with the task table only, found with digits",
    }
    for arguments, message in cases.items():
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        error = capsys.readouterr().err
        assert end.value.code == 2
        assert message in error
        assert error.count("\n") == 1, error


def test_weights_that_are_not_the_models_are_refused(digits: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.json"):
        (tmp_path / name).write_text((digits / name).read_text())
    arrays = load_file(digits / "weights.safetensors")
    arrays["layers.0.kernel"] = arrays["layers.0.kernel"].transpose(0, 2, 1).copy()
    arrays["extra"] = arrays.pop("layers.1.bias")
    save_file(arrays, tmp_path / "weights.safetensors", {"fcjax": '{"seeds": [0, 1]}'})
    with pytest.raises(UsageError, match=r"layers\.0\.kernel \(8, 784\).*layers\.1\.bias missing.*extra unexpected"):
        load_run(tmp_path)


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "KeyError: 'task'": lambda record: record.pop("task"),
    "missing 1 required positional argument: 'arguments'": lambda record: record["model"].pop("arguments"),
    "KeyError: 'GPT'": lambda record: record["model"].update(name="GPT"),
    "unexpected keyword argument 'depth'": lambda record: record["model"]["arguments"].update(depth=3),
    "at least two positive sizes": lambda record: record["model"]["arguments"].update(sizes=[3]),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_a_damaged_description_is_one_sentence(words: str, digits: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    load_run(tmp_path)  # whole as yet
    record = json.loads((tmp_path / "model.json").read_text())
    DAMAGE[words](record)
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(
        UsageError, match=r"model\.json: expected the description of a run, found one that is damaged"
    ) as e:
        load_run(tmp_path)
    assert words in str(e.value)


def test_one_changed_bit_is_not_answered_from(digits: Path, tmp_path: Path) -> None:
    """A number of the weights, and a digit of what they mean: files that can still be read."""
    whole = {name: (digits / name).read_bytes() for name in ("config.json", "model.json", "weights.safetensors")}
    pixels = json.loads(whole["model.json"])["input_scaling"]["mean"]
    other = whole["model.json"].replace(str(pixels).encode(), str(pixels + 1).encode())
    bits = bytearray(whole["weights.safetensors"])
    bits[-100] ^= 64
    for name, content, message in (
        ("model.json", other, r"model\.json: expected it as .* found it changed since"),
        ("weights.safetensors", bytes(bits), "expected the weights as they were written, found them changed"),
    ):
        for file, right in whole.items():
            (tmp_path / file).write_bytes(right)
        load_run(tmp_path)  # whole as yet
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=message):
            load_run(tmp_path)


def test_a_run_without_its_metrics_can_not_be_drawn(digits: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    entry = (digits / "metrics.jsonl").read_text().splitlines()[0]
    for text in (None, "", "nonsense", "[1]", '{"epoch": 1}', f"{entry}\n{entry.replace('accuracy', 'akkuracy')}\n"):
        if text is not None:
            (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(UsageError, match=r"metrics\.jsonl: expected a line of JSON for each epoch, found"):
            inspect_run(tmp_path)
