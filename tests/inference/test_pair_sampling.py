"""Sampled pairs: the same whatever the batch, gone on with after a stop, refused where checkpoints do not fit."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.data.phase_folder import find_pairs, store_pairs
from hemolens.errors import UserError
from hemolens.inference.pair_sampling import PairSampler, sample_pairs, sampled_facts
from hemolens.io.labels import read_labels, write_labels
from hemolens.io.phase import read_phase

NAMES = ["background", "a", "b"]
SIZES = {
    **{"image_px": 16, "width": 8, "multipliers": [1, 2], "blocks": 1, "attention_px": [8]},
    **{"latent_dim": 4, "style_features": 8, "mapping_depth": 1},
}
SCHEDULE = {"_target_": "hemolens.diffusion.schedule.DiffusionSchedule"}
INPUT = {"phase_limits_rad": [-1.0, 5.0], "pixel_um": 0.5, "wavelength_um": 0.666}


def checkpoint(path: Path, kind: str, *, condition: str | None = None, **more: Any) -> Path:
    """Of a network with random weights, as a run leaves it."""
    from hydra.utils import instantiate

    torch.manual_seed(len(kind))
    maker = "mask_generator" if kind == "Mask" else "phase_generator"
    net: dict[str, Any] = {"_target_": f"hemolens.nets.ddgan.generator.{maker}", "num_classes": 3, "in_channels": 1}
    net |= SIZES | ({"of_mask": True} if condition else {})
    channels = 3 if kind == "Mask" else 1
    judge = {"_target_": "hemolens.nets.ddgan.discriminator.DDGANDiscriminator", "channels": channels, "widths": [8, 8]}
    model: dict[str, Any] = {"_target_": f"hemolens.tasks.ddgan.{kind}DDGANTask", "schedule": SCHEDULE}
    model |= {"discriminator": judge} | ({"condition": condition} if kind == "Phase" else {"cells": {"min_area_px": 4}})
    task = instantiate(model, net=instantiate(net), class_names=NAMES, optimizer=None)
    with torch.no_grad():
        for parameter in task.net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    about = {"config": {"net": net, "model": model}, "class_names": NAMES, "task": f"{kind}DDGANTask", "version": "0"}
    torch.save({KEY: about | {"input": INPUT} | more, "state_dict": task.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> PairSampler:
    folder = tmp_path_factory.mktemp("gans")
    return PairSampler(checkpoint(folder / "phase.ckpt", "Phase"), checkpoint(folder / "mask.ckpt", "Mask"))


def test_a_pair_is_the_same_whatever_is_made_beside_it(sampler: PairSampler) -> None:
    together = list(sampler.sample(3, range(6)))
    for index in (0, 5):
        ((phase, classes, sure),) = sampler.sample(3, [index])
        np.testing.assert_allclose(phase, together[index][0], atol=1e-3)
        assert (classes == together[index][1]).mean() > 0.99 and sure == pytest.approx(together[index][2], abs=1e-2)
    assert np.abs(together[0][0] - together[1][0]).max() > 0.01
    ((other, _, _),) = sampler.sample(4, [0])
    assert np.abs(other - together[0][0]).max() > 0.01
    phase, classes, sure = together[0]
    assert phase.shape == classes.shape == (16, 16) and classes.dtype == np.uint8
    assert phase.min() >= -1 and phase.max() <= 5 and 0 <= sure <= 1


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.ome.tif"))}


def test_a_stopped_sampling_goes_on_and_more_can_be_added(sampler: PairSampler, tmp_path: Path) -> None:
    assert sample_pairs(sampler, tmp_path / "whole", n=7, seed=1, batch_size=3) == 7
    parts = tmp_path / "parts"
    assert sample_pairs(sampler, parts, n=4, seed=1, batch_size=2) == 4
    (parts / "pairs.csv").unlink()
    (parts / "phase" / "pair_000002.ome.tif").unlink()  # as if the stop had come there
    journal = parts / ".pairs.journal.csv"
    journal.write_text(journal.read_text() + "pair_0000")  # and a line had been cut off
    assert sample_pairs(sampler, parts, n=7, seed=1, batch_size=4) == 4
    tables = [(folder / "pairs.csv").read_text().splitlines() for folder in (tmp_path / "whole", parts)]
    rows = [list(csv.DictReader(table)) for table in tables]
    assert [row["name"] for row in rows[0]] == [f"pair_{index:06d}" for index in range(7)]
    for one, two in zip(*rows, strict=True):
        assert (one["name"], one["seed"]) == (two["name"], two["seed"])
        phases = [read_phase(folder / "phase" / f"{one['name']}.ome.tif") for folder in (tmp_path / "whole", parts)]
        np.testing.assert_allclose(phases[0].phase_rad, phases[1].phase_rad, atol=1e-3)
        assert phases[1].pixel_um == pytest.approx(0.5) and phases[1].wavelength_um == pytest.approx(0.666)
    assert sample_pairs(sampler, parts, n=7, seed=1) == 0
    assert sampled_facts(parts) == (tuple(NAMES), {"min_area_px": 4})
    pairs, bare = find_pairs(parts, parts / "phase")
    records, scale = store_pairs(pairs, tmp_path / "cache", NAMES)
    assert len(records) == 7 and not bare and scale.pixel_um == pytest.approx(0.5)


def test_a_folder_of_another_seed_or_network_is_left_alone(sampler: PairSampler, tmp_path: Path) -> None:
    sample_pairs(sampler, tmp_path / "pairs", n=1, seed=1)
    before = content(tmp_path / "pairs")
    with pytest.raises(UserError, match="other settings"):
        sample_pairs(sampler, tmp_path / "pairs", n=1, seed=2)
    other = PairSampler(checkpoint(tmp_path / "p.ckpt", "Phase", extra=1), checkpoint(tmp_path / "m.ckpt", "Mask"))
    with pytest.raises(UserError, match="other settings"):
        sample_pairs(other, tmp_path / "pairs", n=1, seed=1)
    assert content(tmp_path / "pairs") == before
    with pytest.raises(UserError, match="n=0"):
        sample_pairs(sampler, tmp_path / "none", n=0)
    with pytest.raises(UserError, match="holds no sampled pairs"):
        sampled_facts(tmp_path / "nowhere")


def test_phases_of_given_masks(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    given = np.zeros((20, 36), np.uint8)
    given[2:9, 3:9], given[4:10, 20:27] = 1, 2
    write_labels(masks / "one.ome.tif", given, pixel_um=0.5)
    write_labels(masks / "empty.ome.tif", np.zeros((16, 16), np.uint8), pixel_um=0.5)
    phase = checkpoint(tmp_path / "phase.ckpt", "Phase", condition="mask")
    made = PairSampler(phase, None, masks=masks)
    assert len(made.given) == 2  # squares with a cell
    sample_pairs(made, tmp_path / "pairs", n=6, seed=0)
    for index in range(6):
        mask = read_labels(tmp_path / "pairs" / "classes" / f"pair_{index:06d}.ome.tif")
        assert mask.shape == (16, 16)
        assert sorted(np.unique(mask, return_counts=True)[1]) == sorted(
            np.unique(made.given[index % 2], return_counts=True)[1]
        )
    with pytest.raises(UserError, match="give masks="):
        PairSampler(phase, None)
    fine = tmp_path / "fine"  # half the pixel, twice the size
    write_labels(fine / "one.ome.tif", given.repeat(2, 0).repeat(2, 1), pixel_um=0.25)
    assert all(
        np.array_equal(*pair) for pair in zip(PairSampler(phase, None, masks=fine).given, made.given, strict=True)
    )
    write_labels(fine / "one.ome.tif", given, pixel_um=0.3, overwrite=True)
    with pytest.raises(UserError, match="no multiple"):
        PairSampler(phase, None, masks=fine)
    write_labels(fine / "one.ome.tif", given, overwrite=True)
    with pytest.raises(UserError, match="does not say its pixel size"):
        PairSampler(phase, None, masks=fine)
    write_labels(masks / "one.ome.tif", given[:, ::-1], pixel_um=0.5, overwrite=True)  # as many squares, others
    with pytest.raises(UserError, match="other settings"):
        sample_pairs(PairSampler(phase, None, masks=masks), tmp_path / "pairs", n=6, seed=0)
    write_labels(masks / "two.ome.tif", np.full((16, 16), 7, np.uint8), pixel_um=0.5)
    with pytest.raises(UserError, match="holds class 7; the generator knows 3"):
        PairSampler(phase, None, masks=masks)


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    phase, mask = checkpoint(tmp_path / "phase.ckpt", "Phase"), checkpoint(tmp_path / "mask.ckpt", "Mask")
    with pytest.raises(UserError, match=r"phase_ckpt=.*holds a MaskDDGANTask.*model=ddgan_phase"):
        PairSampler(mask, phase)
    with pytest.raises(UserError, match="give mask_ckpt="):
        PairSampler(phase, None)
    other = checkpoint(tmp_path / "other.ckpt", "Mask", input=INPUT | {"pixel_um": 0.25})
    with pytest.raises(UserError, match="trained on unlike data"):
        PairSampler(phase, other)
