"""What a diffusion GAN makes, beside real images and beside simple ways.

    python scripts/measure_generation.py phase best.ckpt [--features seg.ckpt] [--json results/generation_phase.json]
    python scripts/measure_generation.py mask best.ckpt [--json results/generation_mask.json]

phase: generated patches against as many real test patches, beside the floor (real halves, 20 divisions by image) and
beside the real patches themselves blurred (Gaussian of half a pixel) or with noise (0.1 rad); and the distance from the
nearest training patch in any orientation, beside that of real test patches.

mask: Dice and AJI on whole test images with one and with four sampled masks, beside a threshold of the phase (chosen on
training images) that calls every cell by the commonest type.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from rich.progress import track
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.cli.app import register_resolvers
from hemolens.cli.run_guard import git_state
from hemolens.diffusion.schedule import generators
from hemolens.inference.image_features import encoder_features
from hemolens.inference.load import build_task, read_checkpoint
from hemolens.io.atomic import write_json
from hemolens.metrics.generation import GenerationScores, class_fraction_distance, nearest_distances
from hemolens.metrics.segmentation import SegmentationScores
from hemolens.tasks.precision import device_name

BATCH = 16
THRESHOLDS_RAD = [0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]


def main() -> None:
    """Print and, with ``--json``, keep the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["phase", "mask"])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--features", type=Path, help="checkpoint of a segmentation, for the Frechet distance")
    parser.add_argument("--count", type=int, default=500, help="patches of each kind (500); of mask: test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write; refuses to overwrite")
    chosen = parser.parse_args()
    if chosen.json and chosen.json.exists():
        parser.error(f"{chosen.json} exists: remove it first")
    register_resolvers()
    content = read_checkpoint(chosen.checkpoint)
    stored = content[KEY]
    task = build_task(content, source=chosen.checkpoint)
    data = instantiate(stored["config"]["data"])
    results = (_phase if chosen.what == "phase" else _mask)(task, data, chosen)
    if chosen.json:
        about = {
            "command": f"python scripts/measure_generation.py {chosen.what} best.ckpt --count={chosen.count} "
            f"--seed={chosen.seed}{' --features=seg.ckpt' if chosen.features else ''}",
            "task_name": stored["config"]["task_name"],
            "seeds": {"training": stored["config"]["seed"], "sampling": chosen.seed},
            "features": "encoder of a segmentation trained here, not Inception" if chosen.features else None,
            **results,
            "commit": git_state()["commit"],
            "device": device_name(torch.device("cpu")),
        }
        write_json(chosen.json, about)


@torch.no_grad()
def _phase(task: Any, data: Any, chosen: argparse.Namespace) -> dict[str, Any]:
    side = task.net.image_px
    real, groups = _patches(data.fields("test"), side, chosen.count, chosen.seed)
    bank, _ = _patches(data.fields("train"), side, 2000, chosen.seed)
    spec = data.spec
    made = []
    for start in track(range(0, len(real), BATCH), description="sample"):
        rng = generators(chosen.seed, range(start, min(start + BATCH, len(real))))
        made.append(spec.in_rad(task.sampled(rng, (side, side))))
    sets = {
        "generated": torch.cat(made),
        "real, blurred by half a pixel": gaussian_blur(real, [5, 5], [0.5, 0.5]),
        "real, with noise of 0.1 rad": real + 0.1 * torch.randn(real.shape, generator=generators(chosen.seed, [0])[0]),
    }
    features = None
    if chosen.features:
        features = encoder_features(chosen.features, pixel_um=spec.pixel_um)
    rows = {}
    for name, images in sets.items():
        scores = GenerationScores(features=features, pixel_um=spec.pixel_um)
        scores.update(real, images, groups)
        rows[name] = scores.compute()
    names = [name for name in rows["generated"] if f"{name}_floor" in rows["generated"]]
    floors = {name: rows["generated"][f"{name}_floor"] for name in names}
    print(f"{len(real)} real test patches of {len(groups.unique())} images; {len(bank)} training patches")
    for name in names:
        told = "  ".join(f"{what} {found[name]:.4g}" for what, found in rows.items())
        print(f"{name:18} floor {floors[name]:.4g}  {told}")
    for what, found in rows.items():
        print(f"over the floor: {found['over_floor']:.3g}  {what}")
    near = {
        what: nearest_distances(images, bank) for what, images in (("generated", sets["generated"]), ("real", real))
    }
    nearest = {what: _quartiles(values) for what, values in near.items()}
    print(f"nearest training patch, rad, quartiles: {nearest}")
    plain = {what: {name: found[name] for name in [*names, "over_floor"]} for what, found in rows.items()}
    return {"patches": len(real), "floors": floors, "sets": plain, "nearest_training_rad": nearest}


def _patches(fields: Any, side: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` patches in rad, [N, 1, P, P], as many of each field, at random places; and the field of each, [N]."""
    each, patches, groups = -(-count // len(fields)), [], []
    for number in range(len(fields)):
        image = fields.spec.in_rad(fields[number]["image"])
        rng = generators(seed, [number])[0]
        for _ in range(each):
            y, x = (int(torch.randint(0, length - side + 1, (1,), generator=rng)) for length in image.shape[-2:])
            patches.append(image[:, y : y + side, x : x + side])
            groups.append(number)
    kept = torch.arange(len(patches)).view(len(fields), each).T.flatten()[:count].sort().values
    return torch.stack(patches)[kept], torch.tensor(groups)[kept]


def _quartiles(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in values.quantile(values.new_tensor([0.25, 0.5, 0.75]))]


@torch.no_grad()
def _mask(task: Any, data: Any, chosen: argparse.Namespace) -> dict[str, Any]:
    test, train = data.fields("test"), data.fields("train")
    low, high = data.input_spec()["phase_limits_rad"]
    counts = data.class_counts("train")
    common = 1 + list(counts.values()).index(max(counts.values()))
    threshold = max(THRESHOLDS_RAD, key=lambda value: _foreground_dice(train, 2 * (value - low) / (high - low) - 1))
    scores = {name: SegmentationScores(len(task.class_names)) for name in ("threshold", "1 sample", "4 samples")}
    fractions: dict[str, list[Tensor]] = {}
    for number in track(range(min(len(test), chosen.count)), description="test images"):
        field = test[number]
        image, truth = field["image"][None], (field["classes"][None], field["instances"][None])
        found = {"threshold": (image[:, 0] > 2 * (threshold - low) / (high - low) - 1).long() * common}
        for samples in (1, 4):
            task.samples = samples
            found[f"{samples} sample{'s' * (samples > 1)}"] = task(image).argmax(1)
        for name, classes in found.items():
            fractions.setdefault(name, []).append(classes.flatten())
            scores[name].update(classes, truth[0], task.cells(classes), truth[1])
    truths = torch.cat([test[number]["classes"].flatten() for number in range(min(len(test), chosen.count))])
    rows: dict[str, Any] = {}
    for name, kept in scores.items():
        result = kept.compute()
        fraction = class_fraction_distance(truths, torch.cat(fractions[name]), len(task.class_names))
        per_type = dict(zip(task.class_names[1:], result["dice_skip"].tolist(), strict=True))
        rows[name] = {"dice": float(result["dice"]), "aji": float(result["aji"]), "dice_per_type": per_type}
        rows[name]["class_fraction_distance"] = fraction
        told = f"Dice {rows[name]['dice']:.4f}  AJI {rows[name]['aji']:.4f}"
        print(f"{name:10} {told}  {per_type}; class shares off by {fraction:.3f}")
    print(f"threshold: {threshold} rad, every cell a {task.class_names[common]}")
    return {"images": min(len(test), chosen.count), "threshold_rad": threshold, "ways": rows}


def _foreground_dice(fields: Any, threshold: float, images: int = 20) -> float:
    """Of cell against background."""
    both = total = 0
    for number in range(min(images, len(fields))):
        found, truth = fields[number]["image"][0] > threshold, fields[number]["classes"] > 0
        both += int((found & truth).sum())
        total += int(found.sum() + truth.sum())
    return 2 * both / max(total, 1)


if __name__ == "__main__":
    main()
