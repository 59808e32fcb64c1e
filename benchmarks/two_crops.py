"""Loading for MoCo v2: two augmented crops of each JPEG, in one process, against torchvision's transforms."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.harness import Comparison, Options, Side
from hemolens.data.classification import CropRecord, CropSpec
from hemolens.data.sampling import SampleKey
from hemolens.data.two_crops import MOCO_V2, TwoCrops
from hemolens.data.view_samples import PictureViews

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAME_MEAN, SAME_SD = (
    0.3,
    0.2,
)  # of normalised values; two sets of 80 draws with the same pipeline differ by a third of it


def comparisons(options: Options) -> Iterator[Comparison]:
    """Pictures of the size of Acevedo's (360 x 363 px), two views of 224 px each."""
    count, size, side = (24, (120, 121), 64) if options.quick else (40, (363, 360), 224)
    torch.manual_seed(0)  # of the peer's draws
    with tempfile.TemporaryDirectory() as folder:
        files = write_pictures(Path(folder), count, size)
        draws = {"dtype": "float32", "threads": options.threads, "processes": 1, "augmentation": "MoCo v2 aug-plus"}
        yield Comparison(
            f"{side} px",
            Side(
                "hemolens",
                {
                    "decoder": "imagecodecs",
                    "colour": "one matrix",
                    "blur": "two passes",
                    "targets": "made too",
                    **draws,
                },
                ours(files, side),
            ),
            Side(
                "torchvision v2",
                {"decoder": "Pillow", "colour": "ColorJitter", "blur": "GaussianBlur", "targets": "none", **draws},
                peer(files, side),
            ),
            check,
            f"mean of each channel within {SAME_MEAN:g} (normalised), standard deviation within {SAME_SD:.0%}",
            target=2.0,
            work={"pictures": count, "file": f"JPEG {size[1]}×{size[0]}, quality 90", "views": f"2×3×{side}×{side}"},
        )


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Smooth blobs with noise, of the colours of stained cells on a light background."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        blobs = gaussian_filter(rng.standard_normal(size), 18) * 35
        share = 1 / (1 + np.exp(-4 * blobs))[..., None]
        picture = (1 - share) * (225, 205, 210) + share * (120, 75, 150) + rng.normal(0, 4, (*size, 3))
        files.append(folder / f"{number:02d}.jpg")
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(files[-1], quality=90)
    return files


def ours(files: list[Path], side: int) -> Callable[[], list[Tensor]]:
    """The views of each picture, [2, 3, S, S], another epoch in each call."""
    spec = CropSpec(image_px=side, mean=MEAN, std=STD)
    two_crops = TwoCrops(MOCO_V2, image_px=side, mean=MEAN, std=STD)
    data = PictureViews([CropRecord(file.stem, -1, file) for file in files], spec=spec, two_crops=two_crops)
    epochs = iter(range(10**6))

    def run() -> list[Tensor]:
        epoch = next(epochs)
        return [data[SampleKey(epoch, index)]["views"] for index in range(len(files))]  # type: ignore[typeddict-item]

    return run


def peer(files: list[Path], side: int) -> Callable[[], list[Tensor]]:
    """The same with torchvision's transforms, in MoCo's order."""
    width = 23 if side == 224 else int(23 * side / 224) // 2 * 2 + 1
    steps = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(side, (0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(width, (0.1 * side / 224, 2.0 * side / 224))], 0.5),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def run() -> list[Tensor]:
        made = []
        for file in files:
            with Image.open(file) as opened:
                picture = opened.convert("RGB")
            made.append(torch.stack([steps(picture), steps(picture)]))
        return made

    return run


def check(found: Any, expected: Any) -> dict[str, float]:
    """Channel means and standard deviations over all views."""
    first, second = torch.cat(found), torch.cat(expected)
    assert first.shape == second.shape and first.dtype == second.dtype == torch.float32
    means = float((first.mean((0, 2, 3)) - second.mean((0, 2, 3))).abs().max())
    spread = float((first.std((0, 2, 3)) / second.std((0, 2, 3)) - 1).abs().max())
    assert means <= SAME_MEAN and spread <= SAME_SD, f"means differ by {means:.3f}, standard deviations by {spread:.1%}"
    return {"mean": round(means, 4), "sd": round(spread, 4)}
