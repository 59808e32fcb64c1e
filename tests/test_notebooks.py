"""The notebooks are a whole set, import what a user has, run from top to bottom, and are kept without outputs."""

import ast
import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
ALLOWED = {"hemolens", "numpy", "matplotlib", "pandas", *sys.stdlib_module_names}
# These two open networks and losses, which take tensors and are trained by Lightning.
INSIDE = {"05-diffusion-gans": {"torch", "lightning"}, "06-self-supervision": {"torch", "lightning"}}


def cells_of(path: Path, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_set_is_whole_and_numbered() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{number:02}-" for number in range(1, 10)]
    for path in NOTEBOOKS:  # a title that begins with the file's number
        assert cells_of(path, "markdown")[0].startswith(f"# {path.name[:2]} ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_kept(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_imports_hemolens_and_what_every_user_has(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse("\n".join(cells_of(path, "code")))):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert "hemolens" in imported
    assert imported <= ALLOWED | INSIDE.get(path.stem, set())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(cells_of(path, "markdown"))
    for part in text.split("](")[1:]:
        target = part.partition(")")[0]
        if not target.startswith("http"):
            assert (path.parent / target).is_file(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert not list(tmp_path.iterdir())  # what they write lies in temporary folders
