"""Pairs of phase image and mask for the two controls of the storage ablation, in the format of ``hemolens generate``.

    python scripts/make_control_pairs.py rotated data/ablation/rotated
    python scripts/make_control_pairs.py oracle data/ablation/oracle

rotated: 500 patches of the training images, turned and mirrored to 2,000, as ``hemolens generate`` does with 500 chosen
pairs: what more copies of the same cells give (arm=rotated takes <folder>/augmented).

oracle: 2,000 patches of holograms that the simulator makes anew, with other donors and cells (arm=oracle takes
<folder>): what generators as good as the simulator could give. The simulation takes minutes, once.

Patches are cut anywhere in the image, 256 px of the camera, not around cells, so that shares of the types are those of
the images. A folder that exists is gone on with where it was begun with the same settings.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from rich.progress import track

from hemolens.cli.app import compose_config
from hemolens.data.modules.phase_images import PhaseImageDataModule
from hemolens.data.phase_folder import CLASSES_FOLDER, PHASE_FOLDER, PROVENANCE
from hemolens.data.segmentation import PatchDataset
from hemolens.data.simulation.claim import claim_folder
from hemolens.inference.pair_augmentation import augment_pairs
from hemolens.inference.pair_selection import pair_file
from hemolens.io.labels import write_labels
from hemolens.io.phase import PhaseImage, write_phase

ORACLE_SEED = 1  # of the simulation; the images of the ablation have 0
PATCH_PX = 256


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; overrides may stand before and after the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rotated", "oracle"])
    parser.add_argument("output", type=Path, help="a new folder, or one begun with the same settings")
    parser.add_argument("--count", type=int, default=2000, help="pairs (2000)")
    parser.add_argument("--sources", type=int, default=500, help="of rotated: patches that are turned (500)")
    parser.add_argument("--seed", type=int, default=0, help="of where patches are cut")
    parser.add_argument("overrides", nargs="*", help="of the data, e.g. data=sim_holograms_tiny data.n_donors=1")
    return parser.parse_intermixed_args(arguments)


def main() -> None:
    """Make what is missing of the folder."""
    chosen = parsed()
    fresh = [f"data.simulation_seed={ORACLE_SEED}", "data.split=[1,0,0]"] if chosen.what == "oracle" else []
    which = [] if any(word.startswith("data=") for word in chosen.overrides) else ["data=sim_holograms"]
    cfg = compose_config("train", [*which, *fresh, *chosen.overrides])
    data: PhaseImageDataModule = instantiate(cfg.data)
    data.prepare_data()
    if chosen.what == "oracle":
        write_patches(data, chosen.output, count=chosen.count, seed=chosen.seed, real=False)
        return
    write_patches(data, chosen.output / "patches", count=chosen.sources, seed=chosen.seed, real=True)
    names = [_name(number) for number in range(chosen.sources)]
    report = augment_pairs(
        chosen.output / "patches", names, chosen.output / "augmented", count=chosen.count, seed=chosen.seed
    )
    print(f"{report.made} pairs made, {report.kept} were there: {chosen.output / 'augmented'}")


def write_patches(data: PhaseImageDataModule, output: Path, *, count: int, seed: int, real: bool) -> None:
    """Write patches of the training images as pairs.

    Args:
        data: gives the images; patches have the pixels of the camera.
        output: a new folder, or one begun with the same settings.
        count: of patches, each image as often as another to within one.
        seed: of where they are cut.
        real: the images are those that are trained on; what is tested beside them is checked then.
    """
    records, spec = data.records("train"), data.spec
    names = [record.name for record in records]
    facts: dict[str, Any] = {"count": count, "seed": seed, "patch_px": PATCH_PX, "images": names}
    facts["paths"] = [record.path.name for record in records]
    fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    note = {"fingerprint": fingerprint, "format": "ome.tif", "seed": seed, "train_images": names if real else []}
    claim_folder(output, note, name=PROVENANCE)
    each = -(-count // len(records))
    patches = PatchDataset(records, spec=spec, patch_px=PATCH_PX, patches_per_image=each, seed=seed)
    made = 0
    scale = {"pixel_um": data.acquired_pixel_um}
    # the dataset holds all patches of an image in a row; every image in turn
    order = np.arange(len(patches)).reshape(len(records), each).T.ravel()[:count]
    for number, index in enumerate(track(order.tolist(), description=f"patches of {len(records)} images")):
        files = [pair_file(output, folder, _name(number)) for folder in (PHASE_FOLDER, CLASSES_FOLDER)]
        if all(file.is_file() for file in files):
            continue
        sample = patches[index]
        phase = PhaseImage(spec.in_rad(sample["image"])[0].numpy(), wavelength_um=spec.wavelength_um, **scale)
        write_phase(files[0], phase, overwrite=True)
        write_labels(files[1], sample["classes"].numpy().astype(np.uint8), overwrite=True, **scale)
        made += 1
    print(f"{made} patches cut, {count - made} were there: {output}")


def _name(number: int) -> str:
    return f"pair_{number:06d}"


if __name__ == "__main__":
    main()
