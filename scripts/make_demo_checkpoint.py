"""Make the checkpoint that comes with hemolens (``ckpt_path=demo``) from a finished run.

    hemolens train experiment=seg_unet_mobilenet_simholo_quick
    hemolens eval ckpt_path=<run>/checkpoints/best.ckpt calibrate=true
    python scripts/make_demo_checkpoint.py <run>

What a prediction or a test needs is kept: weights, config, names, scale, the names of the training images, the
calibration and the model card. The optimizer's state, random states and folders of the machine are left out.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.errors import UserError
from hemolens.inference.load import DEMO, demo_checkpoint, load, read_checkpoint
from hemolens.inference.type_calibration import CALIBRATION_JSON
from hemolens.io.atomic import atomic_path

CARD = "MODEL_CARD.md"
MOST_BYTES = 5_000_000
KEPT = ("data", "model", "net", "optimizer", "scheduler", "task_name", "tags", "seed", "trainer")
CACHE = "data/cache"  # of who tests it, below the folder where that is done


def without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """The parts of a resolved config that say how the network came about, without folders of the machine."""
    found = {name: config[name] for name in KEPT if name in config}
    found["data"] = dict(found["data"]) | {"cache_dir": CACHE}
    found["trainer"] = {name: value for name, value in found["trainer"].items() if name != "default_root_dir"}
    if "/" in (left := json.dumps(found, default=str).replace(CACHE, "")):
        at = left.index("/")
        raise UserError(f"the config holds a path: …{left[max(0, at - 60) : at + 30]}…")
    return found


def strip(source: Path, target: Path) -> None:
    """Write a checkpoint with what prediction and tests need alone."""
    content = read_checkpoint(source)
    description = dict(content[KEY]) | {"config": without_folders(content[KEY]["config"])}
    kept = {name: content[name] for name in ("epoch", "global_step", "pytorch-lightning_version", "state_dict")}
    with atomic_path(target, overwrite=True) as temporary:
        torch.save(kept | {KEY: description}, temporary)
    if (size := target.stat().st_size) > MOST_BYTES:
        raise UserError(f"{target} has {size:,} bytes, more than {MOST_BYTES:,}: take a smaller network")


def main() -> None:
    """Strip the run's best checkpoint, and lay its calibration and card beside it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of a segmentation, calibrated")
    parser.add_argument("--output", type=Path, default=demo_checkpoint(), help="[the packaged one]")
    given = parser.parse_args()
    folder = given.run / "checkpoints"
    try:
        for name in (CALIBRATION_JSON, CARD):
            if not (folder / name).is_file():
                raise UserError(f"{folder} holds no {name}: hemolens eval ckpt_path={folder}/best.ckpt calibrate=true")
        given.output.parent.mkdir(parents=True, exist_ok=True)
        strip(folder / "best.ckpt", given.output)
        shutil.copyfile(folder / CALIBRATION_JSON, given.output.parent / CALIBRATION_JSON)
        card = (folder / CARD).read_text(encoding="utf-8").replace("best.ckpt", DEMO)
        (given.output.parent / CARD).write_text(card, encoding="utf-8")
        load(given.output)
    except UserError as error:
        parser.exit(2, f"{error}\n")
    print(f"{given.output}: {given.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
