"""The checkpoint that comes with hemolens: small, free of folders, and good on images that it never saw."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.data.simulation.holograms import HologramJob, draw_hologram, plan_holograms
from hemolens.errors import UserError
from hemolens.inference.load import DEMO, SegmentationPredictor, demo_checkpoint, load, read_checkpoint
from hemolens.inference.type_calibration import CALIBRATION_JSON, read_temperature
from hemolens.optics.holography import ReconstructionSettings, reconstruct

PIXEL_UM, WAVELENGTH_UM = 129.68 / 900, 0.666
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_demo_checkpoint.py"


def test_it_is_small_and_holds_nothing_of_the_machine() -> None:
    file = demo_checkpoint()
    assert file.stat().st_size < 5_000_000
    stored = torch.load(file, map_location="cpu", weights_only=True)
    assert set(stored) == {"epoch", "global_step", "pytorch-lightning_version", "state_dict", KEY}
    text = json.dumps(stored[KEY], default=str)
    assert not re.search(r'"(/|~|[A-Za-z]:\\)', text)
    card = (file.parent / "MODEL_CARD.md").read_text()
    assert "simulated" in card and "For research only" in card and "best.ckpt" not in card
    assert 0.2 < read_temperature(file.parent / CALIBRATION_JSON) < 5


def test_it_finds_cells_of_all_types_in_other_holograms() -> None:
    predictor = load(DEMO)
    assert isinstance(predictor, SegmentationPredictor) and len(predictor.class_names) == 5
    plan = plan_holograms(n_donors=5, fields_per_sample=1, field_px=(700, 700), simulation_seed=77)
    counts = np.zeros((5, 5), int)
    for donor in (3, 4):
        made = draw_hologram(plan, HologramJob(donor, 0, None, 0))
        settings = ReconstructionSettings(pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM, numerical_aperture=0.75)
        phase = reconstruct(made.hologram.image, settings).phase_rad
        found = predictor.predict(phase, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM)
        for cell in range(1, made.instances.max() + 1):
            at = made.instances == cell
            if at[1:-1, 1:-1].sum() == at.sum():
                counts[np.bincount(made.classes[at]).argmax(), np.bincount(found["classes"][at]).argmax()] += 1
    right = np.diag(counts)
    assert counts.sum() > 25 and right.sum() / counts.sum() > 0.8, counts
    assert right[1] / counts[1].sum() > 0.9, counts


def test_what_is_left_of_a_run_is_refused_without_a_calibration(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and "calibrate=true" in done.stderr


def test_a_missing_checkpoint_names_the_demo(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ckpt_path=demo"):
        read_checkpoint(tmp_path / "best.ckpt")
