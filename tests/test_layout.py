"""The layout in docs/layout.md is the layout of the code: every file is listed, and imports only go up the lists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def listed(package: str, text: str) -> list[str]:
    """The entries under the heading ``package``, in order."""
    section = text.split(f"## {package}\n")[1].split("\n## ")[0]
    return re.findall(r"^    (\S+)", section, flags=re.MULTILINE)


def position(entries: list[str], file: str) -> int:
    """Where ``file`` stands: under its own name, or under the longest folder that holds it."""
    fitting = [entry for entry in entries if file == entry or (entry.endswith("/") and file.startswith(entry))]
    if not fitting:
        raise LookupError(f"{file} is not in docs/layout.md")
    return entries.index(max(fitting, key=len))


def imported(source: str) -> set[str]:
    """Modules that are imported at the top of a file."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def violations(package: str, files: dict[str, str], entries: list[str]) -> list[str]:
    """Every import that does not go up the list."""
    found = []
    for file, source in files.items():
        if file.endswith("__init__.py"):
            continue
        for module in imported(source):
            if not module.startswith(f"{package}."):
                continue
            target = module.removeprefix(f"{package}.").replace(".", "/") + ".py"
            if target not in files:
                continue  # a name, not a file
            here, there = position(entries, file), position(entries, target)
            if there > here or (there == here and not entries[here].endswith("/")):
                found.append(f"{file} imports {target}, which is below it")
    return found


def sources(package: str) -> dict[str, str]:
    """Path inside the package -> text."""
    folder = ROOT / package
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}


@pytest.mark.parametrize("package", ["fcjax", "compare"])
def test_every_file_is_listed_and_imports_only_go_up(package: str) -> None:
    entries = listed(package, (ROOT / "docs" / "layout.md").read_text(encoding="utf-8"))
    files = sources(package)
    for file in files:
        if not file.endswith("__init__.py"):
            position(entries, file)
    assert violations(package, files, entries) == []


def test_an_import_that_goes_down_is_caught() -> None:
    files = {"low.py": "from package.high import x", "high.py": ""}
    assert violations("package", files, ["low.py", "high.py"]) == ["low.py imports high.py, which is below it"]
    assert violations("package", files, ["high.py", "low.py"]) == []


@pytest.mark.parametrize(("package", "foreign"), [("fcjax", {"torch", "compare"}), ("compare", {"fcjax"})])
def test_packages_keep_apart(package: str, foreign: set[str]) -> None:
    for file, source in sources(package).items():
        found = {
            node.module if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        roots = {name.partition(".")[0] for name in found if name}
        assert not roots & foreign or (package, file) == ("compare", "ports.py"), f"{package}/{file}"
