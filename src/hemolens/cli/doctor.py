"""``hemolens doctor``: what this machine has, what stands in the way, and one line of advice for each."""

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("torch", "torchvision", "lightning", "torchmetrics", "timm", "hydra-core", "omegaconf", "wandb", "numpy"),
    *("scipy", "pandas", "scikit-image", "tifffile", "h5py", "zarr"),
)
# Package that shows an extra to be there.
EXTRAS = {
    **{"sweep": "optuna", "export": "onnxruntime", "openvino": "openvino"},
    **{"dashboards": "wandb-workspaces", "docs": "mkdocs-material", "dev": "pytest"},
}
# torchvision's minor release for torch's: 0.(minor + 15).
TORCHVISION_AHEAD = 15
ENOUGH_GB = 20.0  # the full simulated set of tomograms takes 15


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: where it stands.
        name: what was looked at.
        value: what was found.
        state: ``ok``; ``note``: something is absent that may not be wanted; ``broken``: hemolens cannot work.
        advice: what to do, where it is not ok.
    """

    topic: str
    name: str
    value: str
    state: str = "ok"
    advice: str = ""


def main(arguments: Sequence[str]) -> int:
    """Print the report; 1 where something is broken."""
    parser = argparse.ArgumentParser(
        prog="hemolens doctor",
        description="What this machine has (versions, devices, folders, W&B) and what stands in the way. No secrets.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for a bug report")
    options = parser.parse_args(list(arguments))
    findings = examine()
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(told(findings))
    return int(any(finding.state == "broken" for finding in findings))


def examine() -> list[Finding]:
    """All checks; one that fails itself is a finding."""
    checks: list[Callable[[], list[Finding]]] = [
        *(check_python, check_libraries, check_torchvision, check_devices, check_configs, check_folders, check_data),
        *(check_wandb, check_extras),
    ]
    found = []
    for check in checks:
        try:
            found += check()
        except Exception as error:  # whatever a damaged installation raises
            line = str(error).splitlines()[0] if str(error) else ""
            found.append(
                Finding("doctor", check.__name__, f"{type(error).__name__}: {line}", "broken", "reinstall hemolens")
            )
    return found


def told(findings: Sequence[Finding]) -> str:
    """The report for people."""
    lines: list[str] = []
    topic = ""
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            lines += ["", topic] if lines else [topic]
        mark = {"ok": " ", "note": "-", "broken": "!"}[finding.state]
        lines.append(f"{mark} {finding.name:<22}{finding.value}")
        if finding.advice:
            lines.append(f"  {'':<22}→ {finding.advice}")
    broken = sum(finding.state == "broken" for finding in findings)
    lines += ["", f"{broken} broken: see → above" if broken else "nothing is broken"]
    return "\n".join(lines)


def check_python() -> list[Finding]:
    """Python, the system and hemolens itself."""
    old = sys.version_info < (3, 11)
    return [
        Finding("versions", "hemolens", version("hemolens")),
        Finding(
            "versions",
            "python",
            f"{platform.python_version()}, {platform.system()} {platform.machine()}",
            "broken" if old else "ok",
            "hemolens needs Python 3.11 or newer" if old else "",
        ),
    ]


def check_libraries(installed: Callable[[str], str] = version) -> list[Finding]:
    """Versions of the libraries."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(Finding("versions", name, installed(name)))
        except PackageNotFoundError:
            advice = "pip install -e . in the clone, or pip install hemolens"
            found.append(Finding("versions", name, "missing", "broken", advice))
    return found


def check_torchvision(
    installed: Callable[[str], str] = version, load: Callable[[str], Any] = import_module
) -> list[Finding]:
    """Whether torch and torchvision were built for each other; if not, ``torchvision::nms does not exist``."""
    torch, vision = installed("torch"), installed("torchvision")
    partner = f"0.{int(torch.split('.')[1]) + TORCHVISION_AHEAD}" if torch.startswith("2.") else None
    kinds = [text.partition("+")[2] for text in (torch, vision)]
    advice = (
        f"install both together: pip install --upgrade torch=={torch.partition('+')[0]} torchvision=={partner or ''}.*"
    )
    if partner and not vision.startswith(f"{partner}."):
        text = f"torchvision {vision} is not the partner of torch {torch}"
        return [Finding("versions", "torch + torchvision", text, "broken", advice)]
    if all(kinds) and kinds[0] != kinds[1]:
        text = f"one is built for {kinds[0]}, the other for {kinds[1]}"
        return [Finding("versions", "torch + torchvision", text, "broken", advice)]
    try:
        load("torchvision")
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        text = str(error).splitlines()[0]
        return [Finding("versions", "torch + torchvision", text, "broken", advice)]
    return [Finding("versions", "torch + torchvision", "fit")]


def check_devices(torch: Any = None, cores: int | None = None) -> list[Finding]:
    """Cores, GPUs and what precision they are good at."""
    from hemolens.tasks.precision import cpu_has_fast_bf16

    torch = torch or import_module("torch")
    cores = cores or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    half = "bfloat16 in hardware" if cpu_has_fast_bf16() else "float32 (no bfloat16 in hardware)"
    found = [Finding("devices", "cpu", f"{cores} cores, {half}")]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(number)
        half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
        found.append(Finding("devices", f"gpu {number}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {half}"))
    if len(found) == 1:
        built = torch.version.cuda
        advice = "trainer=cpu is the default and works"
        if built is None and shutil.which("nvidia-smi"):
            advice = "this torch is built for CPUs, but there is an NVIDIA driver: reinstall torch with CUDA"
        elif built and shutil.which("nvidia-smi"):
            advice = f"torch is built for CUDA {built}, which the driver does not serve: see nvidia-smi, update it"
        found.append(Finding("devices", "gpu", "none that torch can use", "note", advice))
    return found


def check_configs() -> list[Finding]:
    """Where the configs are read from."""
    from hemolens.cli.places import config_dir

    folder = config_dir()
    kind = "installed package" if folder.parent.name == "hemolens" and folder.parent.parent.name != "src" else "clone"
    count = len(list((folder / "experiment").glob("*.yaml")))
    return [Finding("folders", "configs", f"{folder} ({kind}, {count} experiments)")]


def _places(environment: Mapping[str, str]) -> dict[str, Path]:
    """The folders of configs/paths/default.yaml."""
    root = Path(environment.get("HEMOLENS_ROOT", "."))
    data = Path(environment.get("HEMOLENS_DATA", root / "data"))
    outputs = Path(environment.get("HEMOLENS_OUTPUTS", root / "outputs"))
    return {"data": data, "cache": data / "cache", "outputs": outputs}


def check_folders(
    environment: Mapping[str, str] = os.environ, usage: Callable[[Path], Any] = shutil.disk_usage
) -> list[Finding]:
    """Whether the folders of data, cache and outputs can be written, and how much room there is."""
    found = []
    for name, place in _places(environment).items():
        standing = place.expanduser().absolute()
        while not standing.exists():
            standing = standing.parent
        free = usage(standing).free / 1e9
        text = f"{place}{'' if place.exists() else ' (not there yet)'}, {free:.0f} GB free"
        if not standing.is_dir() or not os.access(standing, os.W_OK):
            variable = {"data": "HEMOLENS_DATA", "cache": "HEMOLENS_DATA", "outputs": "HEMOLENS_OUTPUTS"}[name]
            advice = f"{standing} cannot be written: set {variable} to a folder that can"
            found.append(Finding("folders", name, text, "broken", advice))
        elif free < 1:
            found.append(Finding("folders", name, text, "broken", "free some space: a checkpoint takes up to 0.8 GB"))
        elif free < ENOUGH_GB:
            found.append(Finding("folders", name, text, "note", "the full simulated sets take 15 GB; the quick ones 1"))
        else:
            found.append(Finding("folders", name, text))
    return found


def check_data(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Data sets that configs look for: found or not."""
    data = _places(environment)["data"]
    sets = {
        "bccd": ("HEMOLENS_BCCD", data / "bccd", "Annotations", "experiment=det_fcos_r18_pafpn_bccd"),
        "acevedo": ("HEMOLENS_ACEVEDO", data / "acevedo_pbc", "basophil", "experiment=cls_resnet18_acevedo"),
    }
    found = []
    for name, (variable, usual, inside, user) in sets.items():
        place = Path(environment.get(variable, usual)).expanduser()
        if (place / inside).is_dir():
            found.append(Finding("data", name, str(place)))
            continue
        text = f"{place} is there, but holds no {inside}/" if place.is_dir() else "not found"
        state = "broken" if variable in environment else "note"
        found.append(Finding("data", name, text, state, f"set {variable} to its folder; only {user} needs it"))
    cached = _places(environment)["cache"]
    count = sum(path.is_dir() for path in cached.iterdir()) if cached.is_dir() else 0
    found.append(Finding("data", "simulated", f"{count} data sets in the cache"))
    return found


def check_wandb(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> list[Finding]:
    """W&B's mode, whether there is a login, and runs that wait to be sent; never the key itself."""
    login = (
        "by WANDB_API_KEY"
        if environment.get("WANDB_API_KEY")
        else "in .netrc"
        if _in_netrc((home or Path.home()) / ".netrc", environment)
        else ""
    )
    mode = environment.get("WANDB_MODE", "online")
    found = [Finding("Weights & Biases", "mode", f"{mode}{' (WANDB_MODE)' if 'WANDB_MODE' in environment else ''}")]
    if login or mode in ("offline", "disabled"):
        found.append(Finding("Weights & Biases", "login", login or "none, and none is needed"))
    else:
        advice = "`wandb login` for logger=wandb; logger=wandb_offline and logger=csv need none"
        found.append(Finding("Weights & Biases", "login", "none", "note", advice))
    outputs = _places(environment)["outputs"]
    waiting = [run for run in outputs.glob("**/wandb/offline-run-*") if not list(run.glob("*.synced"))]
    advice = f"wandb sync {waiting[0]}" + (" …" if len(waiting) > 1 else "") if waiting else ""
    found.append(
        Finding("Weights & Biases", "offline runs", f"{len(waiting)} not sent", "note" if waiting else "ok", advice)
    )
    return found


def _in_netrc(file: Path, environment: Mapping[str, str]) -> bool:
    host = environment.get("WANDB_BASE_URL", "https://api.wandb.ai").rpartition("//")[2].strip("/")
    try:
        return f"machine {host}" in file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def check_extras(installed: Callable[[str], str] = version) -> list[Finding]:
    """Optional parts."""
    found = []
    for extra, package in EXTRAS.items():
        try:
            found.append(Finding("extras", extra, f"{package} {installed(package)}"))
        except PackageNotFoundError:
            advice = f"pip install 'hemolens[{extra}]', if you want it"
            found.append(Finding("extras", extra, "not installed", "note", advice))
    return found
