"""Three files as people have them, from bytes to a dataset, and one row of each to a prediction's inputs."""

from pathlib import Path

import numpy as np

from fcjax.datasets import Preprocessing, load_table
from fcjax.datasets.table.encoding import CategoryRule, DateRule


def rows(count: int, seed: int) -> list[tuple[int, float, float]]:
    rng = np.random.default_rng(seed)
    return [(n, float(a), float(b)) for n, (a, b) in enumerate(rng.random((count, 2)))]


def feature(preprocessing: Preprocessing, file: Path, name: str) -> float:
    """The standardised value of one input of a file's only row, back in its own unit."""
    z = preprocessing.inputs(preprocessing.read(file))[0, preprocessing.features.index(name)]
    rule = next(rule for rule in preprocessing.rules if rule.name == name)
    assert not isinstance(rule, CategoryRule)
    number = rule.number if isinstance(rule, DateRule) else rule
    return float(z * number.std + number.mean)


def test_a_german_spreadsheet(tmp_path: Path) -> None:
    """Windows encoding, semicolons, decimal commas, grouped thousands, a separator at the end of each line."""
    lines = ["Straße;Wohnfläche (m²);Kaltmiete (€);Balkon;Baujahr;"]
    for n, a, b in rows(150, 1):
        area = f"{40 + 100 * a:.1f}".replace(".", ",")
        rent = f"{500 + 2000 * b:,.2f}".translate(str.maketrans(",.", ".,"))
        lines.append(f'"Am Köllnischen Park; Nr. {n}";{area};{rent};{"ja" if a > b else "nein"};{1900 + n % 100};')
    file = tmp_path / "miete.csv"
    file.write_bytes("\r\n".join(lines).encode("cp1252"))
    data, preprocessing = load_table(file, "Kaltmiete (€)")
    assert data.task == "regression"
    assert 500 < data.train.targets.min() < data.train.targets.max() < 2500
    assert preprocessing.features == ("Wohnfläche (m²)", "Balkon=ja", "Balkon=nein", "Baujahr")
    assert any(note.startswith("Straße: left out, no value of it") for note in preprocessing.notes)
    file.write_text("Balkon;Baujahr;Wohnfläche (m²)\nja;1950;1.234,5", encoding="utf-8")
    assert abs(feature(preprocessing, file, "Wohnfläche (m²)") - 1234.5) < 1e-3  # float32


def test_a_saved_data_frame(tmp_path: Path) -> None:
    """A nameless index, NA where a value is missing (in text and numbers), text with line ends, true and false."""
    lines = [",LotArea,Alley,Description,HasPool,Quality"]
    for n, a, b in rows(200, 2):
        alley = "NA" if a < 0.3 else "Pave" if b < 0.5 else "Grvl"
        lot = "NA" if n % 11 == 0 else f"{8000 + 4000 * a:.0f}"
        lines.append(f'{n},{lot},{alley},"{n}. quiet, ""sunny""\nand near",{a > 0.9!s},{1 + int(3 * b)}')
    file = tmp_path / "train.csv"
    file.write_text("\n".join(lines))
    data, preprocessing = load_table(file, "Quality")
    assert (data.task, preprocessing.target.classes) == ("classification", ("1", "2", "3"))
    assert preprocessing.features == (
        "LotArea",
        "LotArea is missing",
        "Alley=Grvl",
        "Alley=Pave",
        "Alley=(missing)",
        "HasPool=False",
        "HasPool=True",
    )
    assert preprocessing.notes[0] == "column 1: left out, it only counts the rows"
    file.write_text("LotArea,Alley,HasPool\n9000,NA,True\n")
    assert preprocessing.inputs(preprocessing.read(file))[0, 1:].tolist() == [0, 0, 0, 1, 0, 1]
    assert abs(feature(preprocessing, file, "LotArea") - 9000) < 1e-2  # float32


def test_an_export_with_tabs_and_odd_marks(tmp_path: Path) -> None:
    """UTF-16 with tabs, -999 and ? where a value is missing, dates, blank targets, blank lines."""
    lines = ["station\tday\ttemperature\t wind \tozone"]
    for n, a, b in rows(180, 3):
        wind = "-999" if n % 13 == 0 else "?" if n % 17 == 0 else f"{10 * b:.2f}"
        ozone = "" if n % 9 == 0 else f"{40 + 30 * a:.3f}"
        lines.append(f"S{n % 4:02d}\t2023-0{1 + n % 9}-15\t{20 * a - 5:.1f}\t{wind}\t{ozone}" + "\n" * (n % 50 == 0))
    file = tmp_path / "ozone.txt"
    file.write_text("\n".join(lines), encoding="utf-16")
    data, preprocessing = load_table(file, "ozone", missing=["-999"])
    assert sum(map(len, data.parts().values())) == 160
    assert preprocessing.notes[0] == "ozone: 20 of 180 rows have none, and are left out"
    week = ("day, sine of the week", "day, cosine of the week")
    stations = tuple(f"station=S{n:02d}" for n in range(4))
    assert preprocessing.features == (*stations, "day", *week, "temperature", "wind", "wind is missing")
    file.write_text("station\tday\ttemperature\twind\nS02\t2023-07-01\t-3.5\t-999\n")
    inputs = preprocessing.inputs(preprocessing.read(file))[0]
    assert inputs[:4].tolist() == [0, 0, 1, 0]
    assert inputs[-1] == 1
    assert abs(feature(preprocessing, file, "day") - 19539) < 1e-2  # 2023-07-01; float32
