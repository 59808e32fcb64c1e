"""What is shipped: pins in one place, dependencies that are used, a wheel that holds the configs."""

import ast
import configparser
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def canonical(requirement: str) -> str:
    """The normalised distribution name of a requirement: `Types_PyYAML>=6` -> `types-pyyaml`."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_conda_environment_agrees_with_pyproject(pyproject: dict[str, Any]) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    assert environment["name"] == project["name"]
    assert environment["channels"] == ["conda-forge"]
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    assert conda == [f"python{project['requires-python']}", "pip"]
    pip = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pip == [["-e .[dev]"]]  # so that no pin stands outside pyproject.toml
    assert "dev" in project["optional-dependencies"]


def test_citation_names_the_software_and_its_version(pyproject: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = pyproject["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what CFF 1.2.0 demands
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
    assert citation["keywords"] == project["keywords"]


def test_oldest_versions_are_the_lower_bounds(pyproject: dict[str, Any]) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "versions.py"), "--extra", "export"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    project = pyproject["project"]
    assert "torch==2.6.*" in lines and "jinja2==3.1.4" in lines
    wanted = {canonical(item) for item in [*project["dependencies"], *project["optional-dependencies"]["export"]]}
    assert {canonical(line) for line in lines} == wanted
    assert subprocess.run([*command, "--extra", "nonsense"], capture_output=True).returncode == 2


def test_ruff_and_mypy_target_the_oldest_python(pyproject: dict[str, Any]) -> None:
    oldest = pyproject["project"]["requires-python"].removeprefix(">=")
    assert pyproject["tool"]["mypy"]["python_version"] == oldest
    assert pyproject["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_every_requirement_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, flags=re.DOTALL | re.MULTILINE)
    assert block
    lines = block[1].strip().splitlines()
    assert [line for line in lines if not re.search(r'^\s*"[^"]*>=[^"]*",\s+# \S', line)] == []


def test_pre_commit_is_local_and_has_the_same_pins(pyproject: dict[str, Any]) -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"python"}
    pins = {requirement for hook in hooks for requirement in hook["additional_dependencies"]}
    assert all("==" in pin for pin in pins)
    linters = {item for item in pyproject["project"]["optional-dependencies"]["dev"] if "==" in item}
    assert linters <= pins
    assert {canonical(pin) for pin in pins} - {canonical(item) for item in linters} == {"pyyaml"}


def test_dependencies_are_those_imported(pyproject: dict[str, Any]) -> None:
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= set(sys.stdlib_module_names) | {"hemolens", "hydra_plugins"}
    distributions = packages_distributions()
    assert {name for name in imported if name not in distributions} == set(), "imported but not installed"
    used = {name: {canonical(item) for item in distributions[name]} for name in imported}
    declared = {canonical(item) for item in pyproject["project"]["dependencies"]}
    extras = {
        canonical(item) for item in pyproject["project"]["optional-dependencies"]["sweep"]
    }  # imported when wanted
    assert {name for name, owners in used.items() if not owners & (declared | extras)} == set(), "imported, undeclared"
    assert declared - set().union(*used.values()) == set(), "declared in pyproject.toml but never imported"


def test_a_start_of_hydra_does_not_wait_for_what_only_a_search_needs() -> None:
    code = (
        "import sys; from hydra.core.plugins import Plugins; Plugins.instance(); "
        "assert 'hydra_plugins.hemolens_sweepers.search' in sys.modules; "
        "print({'optuna', 'torch', 'submitit', 'hemolens'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()" and done.stderr == ""


@pytest.mark.slow
def test_wheel_holds_the_configs_and_the_command(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("hemolens-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata_folder = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(f"{metadata_folder}/METADATA").decode())
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(f"{metadata_folder}/entry_points.txt").decode())
    configs = {
        f"hemolens/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "configs").rglob("*.yaml")
        if path.parent.name != "local"  # a user's own machine, not in git
    }
    kinds = ("*.py", "*.j2", "*.js", "*.css")  # code, and templates, programs and styles of pages
    sources = {path.relative_to(ROOT / "src").as_posix() for kind in kinds for path in (ROOT / "src").rglob(kind)}
    assert configs, "no configs found"
    assert configs | sources <= names
    assert "hemolens/py.typed" in names
    own = (
        "hemolens/",
        "hydra_plugins/hemolens_sweepers/",
        metadata_folder,
    )  # the namespace is shared with other plugins
    assert not [name for name in names if not name.startswith(own)]
    assert scripts["console_scripts"]["hemolens"] == "hemolens.cli.main:main"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
