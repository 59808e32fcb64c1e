"""The doctor's checks, each on a made-up machine."""

import json
from collections import namedtuple
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hemolens.cli import doctor
from hemolens.cli.doctor import Finding

Usage = namedtuple("Usage", "total used free")


def versions(**known: str) -> Any:
    def installed(name: str) -> str:
        if name not in known:
            raise PackageNotFoundError(name)
        return known[name]

    return installed


def states(found: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in found}


def test_a_missing_library_is_broken() -> None:
    found = states(doctor.check_libraries(versions(torch="2.9.0")))
    assert found["torch"] == "ok"
    assert found["wandb"] == "broken"


@pytest.mark.parametrize(
    ("torch", "vision", "expected"),
    [
        ("2.9.1", "0.24.1", "fit"),
        ("2.9.1", "0.23.0", "not the partner"),
        ("2.9.1+cpu", "0.24.1+cu128", "one is built for cpu, the other for cu128"),
    ],
)
def test_torchvision_must_be_torchs_partner(torch: str, vision: str, expected: str) -> None:
    (finding,) = doctor.check_torchvision(versions(torch=torch, torchvision=vision), lambda name: None)
    assert expected in finding.value
    assert (finding.state == "ok") == (expected == "fit")
    assert finding.state == "ok" or "torchvision==0.24.*" in finding.advice


def test_torchvision_that_cannot_be_loaded_is_named() -> None:
    def load(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    (finding,) = doctor.check_torchvision(versions(torch="2.9.1", torchvision="0.24.1"), load)
    assert finding.state == "broken"
    assert "nms does not exist" in finding.value


def fake_torch(gpus: int, cuda: str | None) -> Any:
    properties = SimpleNamespace(name="Some GPU", total_memory=80 * 2**30)
    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            get_device_properties=lambda number: properties,
            is_bf16_supported=lambda including_emulation: True,
        ),
    )


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.check_devices(fake_torch(2, "12.8"), cores=8)
    assert [finding.name for finding in found] == ["cpu", "gpu 0", "gpu 1"]
    assert "8 cores" in found[0].value and "Some GPU, 80 GiB, bfloat16" in found[1].value
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "reinstall torch with CUDA" in doctor.check_devices(fake_torch(0, None), cores=1)[1].advice
    assert "built for CUDA 12.8" in doctor.check_devices(fake_torch(0, "12.8"), cores=1)[1].advice


@pytest.mark.parametrize(("free", "state"), [(500e9, "ok"), (5e9, "note"), (5e8, "broken")])
def test_free_disk(tmp_path: Path, free: float, state: str) -> None:
    found = doctor.check_folders({"HEMOLENS_ROOT": str(tmp_path)}, lambda place: Usage(0, 0, free))
    assert {finding.state for finding in found} == {state}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    environment = {"HEMOLENS_ROOT": str(tmp_path), "HEMOLENS_OUTPUTS": str(blocker / "outputs")}
    found = doctor.check_folders(environment, lambda place: Usage(0, 0, 500e9))
    assert states(found) == {"data": "ok", "cache": "ok", "outputs": "broken"}
    assert "HEMOLENS_OUTPUTS" in found[2].advice


def test_data_sets(tmp_path: Path) -> None:
    (tmp_path / "set" / "Annotations").mkdir(parents=True)
    environment = {"HEMOLENS_ROOT": str(tmp_path), "HEMOLENS_BCCD": str(tmp_path / "set")}
    assert states(doctor.check_data(environment)) == {"bccd": "ok", "acevedo": "note", "simulated": "ok"}
    assert states(doctor.check_data(environment | {"HEMOLENS_BCCD": "nowhere"}))["bccd"] == "broken"


def test_wandb_tells_no_secret(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "task" / "run" / "wandb" / "offline-run-1").mkdir(parents=True)
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password verysecret\n")
    environment = {"HEMOLENS_ROOT": str(tmp_path), "WANDB_API_KEY": "alsosecret"}
    found = doctor.check_wandb(environment, tmp_path)
    assert states(found) == {"mode": "ok", "login": "ok", "offline runs": "note"}
    assert "wandb sync" in found[2].advice
    assert "verysecret" not in str(found) and "alsosecret" not in str(found)
    assert doctor.check_wandb({"HEMOLENS_ROOT": "nowhere"}, tmp_path)[1].value == "in .netrc"
    assert states(doctor.check_wandb({}, tmp_path / "none"))["login"] == "note"
    assert states(doctor.check_wandb({"WANDB_MODE": "offline"}, tmp_path / "none"))["login"] == "ok"


def test_the_report_and_its_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"versions", "devices", "folders", "data", "extras"} <= {entry["topic"] for entry in report}

    def fails() -> list[Finding]:
        raise OSError("damaged")

    monkeypatch.setattr(doctor, "check_configs", fails)
    assert doctor.main([]) == 1
    assert "! fails" in capsys.readouterr().out
