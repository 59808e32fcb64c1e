"""Imports point one way, modules form no circle, files stay short, and nothing names a machine's own paths.

The rules below are the architecture's table. The checker is itself tested on small trees that break them.
"""

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "hemolens"
MAX_LINES = 400
# A path that exists on one machine only; "/(" keeps this line from matching itself.
MACHINE_PATH = re.compile(r"(?<![\w./$}-])/(work|tmp|home|root|opt|Users)/[\w.]")

LIGHTNING = frozenset({"lightning", "pytorch_lightning"})
HYDRA = frozenset({"hydra", "omegaconf"})
FRAMEWORKS = LIGHTNING | HYDRA | {"wandb"}


@dataclass(frozen=True)
class Rule:
    """What the modules of one folder may import."""

    may: frozenset[str] | None  # hemolens modules by prefix, beside the own folder; None: all but cli
    must_not: frozenset[str]  # top-level third-party packages
    except_in: dict[str, frozenset[str]] = field(default_factory=dict)  # module prefix -> allowed after all


NOTHING: frozenset[str] = frozenset()
RULES = {
    "optics": Rule(NOTHING, FRAMEWORKS),
    "io": Rule(NOTHING, FRAMEWORKS | {"torch", "torchvision"}),
    "nets": Rule(NOTHING, FRAMEWORKS),
    "diffusion": Rule(NOTHING, FRAMEWORKS),
    "losses": Rule(NOTHING, FRAMEWORKS),
    "metrics": Rule(NOTHING, FRAMEWORKS),
    "postprocess": Rule(NOTHING, FRAMEWORKS),
    "data": Rule(frozenset({"optics", "io", "postprocess"}), FRAMEWORKS, {"data.modules": LIGHTNING}),
    "analysis": Rule(frozenset({"metrics", "io", "optics"}), FRAMEWORKS),
    "tasks": Rule(
        frozenset({"nets", "diffusion", "losses", "metrics", "postprocess", "data.contracts"}),
        HYDRA | {"wandb"},
    ),
    # Panels in a run draw with the functions that draw the reports' figures.
    "callbacks": Rule(
        frozenset(
            {"tasks", "io", *(f"analysis.{kind}figures" for kind in ("", "cell_", "segmentation_", "generation_"))}
        ),
        HYDRA,
    ),
    "inference": Rule(None, HYDRA | {"wandb"}, {"inference.load": frozenset({"hydra.utils"})}),
    "cli": Rule(None, NOTHING),
}
# Top-level modules: `errors` serves every floor; the package itself only offers `load` lazily.
TOP_LEVEL = {
    "errors": Rule(NOTHING, FRAMEWORKS | {"torch"}),
    "": Rule(frozenset({"inference"}), FRAMEWORKS | {"torch"}),
}
ANYONE_MAY = ("errors",)


@dataclass(frozen=True)
class Import:
    """One import: where it stands and the full name of what it asks for."""

    module: str  # importing module, without the package's name: "nets.fcos.fcos"
    target: str  # imported module, with its package: "hemolens.io.atomic", "torch.nn"
    line: int


def modules_of(source: Path) -> dict[str, Path]:
    """All modules under a package folder by dotted name; a package's name is that of its folder."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(source: Path) -> Iterator[Import]:
    """Every import statement under a package folder, those inside functions and TYPE_CHECKING included."""
    package = source.name
    modules = modules_of(source)
    for module, path in modules.items():
        is_package = path.name == "__init__.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(module, alias.name, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    here = [package, *filter(None, module.split("."))]
                    above = here[: len(here) - node.level + is_package]
                    base = ".".join([*above, *filter(None, [base])])
                for alias in node.names:
                    name = f"{base}.{alias.name}"  # "from a import b": b may be a module or a name in a
                    is_module = name.removeprefix(f"{package}.") in modules
                    yield Import(module, name if is_module else base, node.lineno)


def has_prefix(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def wrong_arrow(found: Import, package: str) -> str | None:
    """Why one import breaks the table, or None."""
    folder = found.module.split(".")[0]
    rule = RULES.get(folder) or TOP_LEVEL.get(folder)
    if rule is None:
        return f"{folder or package} has no row in the table of tests/test_architecture.py: add one"
    allowed_after_all = frozenset[str]().union(
        *(names for prefix, names in rule.except_in.items() if has_prefix(found.module, [prefix]))
    )
    if not has_prefix(found.target, [package]):
        forbidden = found.target.split(".")[0] in rule.must_not
        if forbidden and not has_prefix(found.target, allowed_after_all):
            return f"{folder or package} must not import {found.target}"
        return None
    target = found.target.removeprefix(package).removeprefix(".")
    if has_prefix(target, ANYONE_MAY) or (folder and has_prefix(target, [folder])):
        return None
    if rule.may is None:
        upward = target.split(".")[0] == "cli" or (target == "" and folder != "cli")
        return f"{folder} must not import {found.target}" if upward else None
    if not has_prefix(target, rule.may):
        allowed = ", ".join(sorted(rule.may)) or "nothing"
        return f"{folder or package} must not import {found.target} (allowed: {allowed})"
    return None


def wrong_arrows(source: Path) -> list[str]:
    """All imports under a package folder that break the table, as `module:line: reason`."""
    breaches = {  # a dict keeps the order, without repeats
        f"{found.module or source.name}:{found.line}: {reason}": None
        for found in imports_of(source)
        if (reason := wrong_arrow(found, source.name))
    }
    return list(breaches)


def circles(source: Path) -> list[str]:
    """One circle of imports for each module that lies on any, as `a -> b -> a`."""
    package = source.name
    modules = modules_of(source)
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for found in imports_of(source):
        target = found.target.removeprefix(package).removeprefix(".")
        if has_prefix(found.target, [package]) and target in modules and target != found.module:
            graph[found.module].add(target)

    def way(start: str) -> list[str] | None:
        """The shortest way from a module back to itself."""
        reached: dict[str, list[str]] = {start: [start]}
        queue = [start]
        for module in queue:
            for target in sorted(graph[module]):
                if target == start:
                    return [*reached[module], start]
                if target not in reached:
                    reached[target] = [*reached[module], target]
                    queue.append(target)
        return None

    return [" -> ".join(name or package for name in circle) for module in graph if (circle := way(module))]


def repository_files() -> list[Path]:
    """Files that git tracks or would add."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted({ROOT / name for name in names if name and (ROOT / name).is_file()})


def machine_paths(text: str) -> list[str]:
    """Lines of a text that hold a path of one machine, as `line: text`."""
    return [
        f"{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]


def test_every_folder_has_a_rule() -> None:
    folders = {path.name for path in SOURCE.iterdir() if any(path.rglob("*.py"))}  # weights/ holds no code
    assert folders <= RULES.keys()


def test_imports_point_down() -> None:
    found = wrong_arrows(SOURCE)
    assert not found, "\n".join(["", *found])


def test_no_circles() -> None:
    found = circles(SOURCE)
    assert not found, "\n".join(["", *found])


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("src", "tests", "scripts", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert lengths, "no Python files found"
    assert {name: lines for name, lines in lengths.items() if lines >= MAX_LINES} == {}


def test_no_machine_paths() -> None:
    found = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # images and other binaries
        found += [f"{path.relative_to(ROOT)}:{line}" for line in machine_paths(text)]
    assert not found, "\n".join(["", *found])


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    """Write a made-up package and return its folder."""
    source = folder / "hemolens"
    for name, text in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return source


BREACHES = {
    "floor 1 looks up": ("nets/a.py", "from hemolens.tasks.b import C", "must not import hemolens.tasks.b"),
    "floor 1 looks sideways": (
        "losses/a.py",
        "import hemolens.metrics.b",
        "must not import hemolens.metrics.b",
    ),
    "relative": ("optics/a.py", "from ..io import atomic", "must not import hemolens.io"),
    "relative in a package": ("optics/__init__.py", "from ..io import atomic", "must not import hemolens.io"),
    "deeper relative": ("nets/fcos/a.py", "from ...data import contracts", "must not import hemolens.data"),
    "in a function": ("io/a.py", "def f():\n    import torch.nn", "must not import torch.nn"),
    "for types only": (
        "metrics/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hemolens.data import contracts",
        "must not import hemolens.data",
    ),
    "lightning outside modules": ("data/a.py", "import lightning as L", "must not import lightning"),
    "hydra in data modules": ("data/modules/a.py", "import hydra", "must not import hydra"),
    "data beyond its contract": (
        "tasks/a.py",
        "from hemolens.data.voc import D",
        "must not import hemolens.data.voc",
    ),
    "omegaconf in a task": ("tasks/a.py", "from omegaconf import DictConfig", "must not import omegaconf"),
    "wandb in a task": ("tasks/a.py", "import wandb.sdk", "must not import wandb.sdk"),
    "hydra in a callback": ("callbacks/a.py", "import hydra.utils", "must not import hydra.utils"),
    "a callback beyond figures": (
        "callbacks/a.py",
        "import hemolens.data.voc",
        "not import hemolens.data.voc",
    ),
    "training in the analysis": ("analysis/a.py", "import hemolens.tasks", "must not import hemolens.tasks"),
    "too much hydra": ("inference/load.py", "from hydra import compose", "must not import hydra"),
    "hydra elsewhere": (
        "inference/a.py",
        "from hydra.utils import instantiate",
        "must not import hydra.utils",
    ),
    "inference looks up": ("inference/a.py", "import hemolens.cli.main", "must not import hemolens.cli.main"),
    "the package itself": ("io/a.py", "import hemolens", "must not import hemolens"),
    "a heavy package": ("__init__.py", "import torch", "hemolens must not import torch"),
    "an unknown folder": ("utils/a.py", "import numpy", "utils has no row"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_checker_sees(tmp_path: Path, breach: str) -> None:
    name, text, reason = BREACHES[breach]
    found = wrong_arrows(write_tree(tmp_path, {name: text}))
    assert len(found) == 1
    assert reason in found[0]


def test_checker_allows_what_the_table_allows(tmp_path: Path) -> None:
    files = {
        "__init__.py": "def __getattr__(name):\n    from hemolens.inference.load import load",
        "errors.py": "",
        "optics/a.py": "import numpy, torch\nfrom hemolens.errors import UserError\nfrom . import b",
        "optics/b.py": "import scipy",
        "data/modules/a.py": "import lightning\nimport hemolens.optics.a\nfrom ...io import b",
        "io/b.py": "",
        "tasks/a.py": "import lightning\nfrom hemolens.data.contracts import B\nimport hemolens.nets",
        "callbacks/a.py": "import wandb, lightning\nimport hemolens.tasks.a, hemolens.io.b",
        "analysis/a.py": "import hemolens.metrics, hemolens.io.b, hemolens.optics.a, pandas",
        "inference/load.py": "from hydra.utils import instantiate\nimport hemolens.analysis.a",
        "cli/main.py": "import hydra, wandb, lightning, hemolens, hemolens.inference.load",
    }
    source = write_tree(tmp_path, files)
    assert wrong_arrows(source) == []
    assert circles(source) == []


def test_checker_sees_circles(tmp_path: Path) -> None:
    files = {
        "io/a.py": "from hemolens.io.b import x",
        "io/b.py": "def late():\n    from . import c",
        "io/c.py": "import hemolens.io.a",
        "io/d.py": "import hemolens.io.a",  # leads to a circle without lying on it
    }
    assert circles(write_tree(tmp_path, files)) == [
        "io.a -> io.b -> io.c -> io.a",
        "io.b -> io.c -> io.a -> io.b",
        "io.c -> io.a -> io.b -> io.c",
    ]


def test_checker_sees_machine_paths() -> None:
    for folder in ("work", "tmp", "home", "Users"):
        assert machine_paths(f"fine\nroot_dir: /{folder}/someone") == [f"2: root_dir: /{folder}/someone"]
    for fine in (
        "https://example.org/home/page",
        "data/home/x",
        "../home/x",
        "${paths.root_dir}/home/x",
        "a / work",
    ):
        assert machine_paths(fine) == []
