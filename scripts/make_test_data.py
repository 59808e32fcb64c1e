"""Make tiny fake data sets in real file formats: what the tests read, and a pattern for your own data.

    python scripts/make_test_data.py FOLDER [--images 8] [--seed 0] [--cells]

writes FOLDER as a PASCAL VOC data set: JPEGImages/*.jpg, Annotations/*.xml, ImageSets/Main/*.txt; with --cells it
writes a folder of pictures of single cells for each class instead: FOLDER/WBC/*.png, …
"""

import argparse
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# class -> (semi-axes of the cell in px, RGB colour): sizes in about the proportion of a smear
CELLS = {"RBC": (11, (214, 140, 150)), "WBC": (18, (110, 80, 170)), "Platelets": (5, (150, 90, 160))}
BACKGROUND = (236, 222, 224)


def make_voc_folder(folder: Path, *, images: int = 8, seed: int = 0, size: tuple[int, int] = (96, 128)) -> Path:
    """Write a VOC data set of ``images`` pictures of ``size`` (height, width); at least 4, an existing folder
    is refused.

    A quarter is in val, a quarter in test, the rest in train; trainval is train and val.
    """
    if images < 4:
        raise SystemExit("--images must be at least 4: train, val and test all need some")
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    ids = [f"smear_{number:03d}" for number in range(images)]
    for image_id in ids:
        image, cells = draw_smear(rng, size)
        image.save(folder / "JPEGImages" / f"{image_id}.jpg", quality=90)
        write_annotation(folder / "Annotations" / f"{image_id}.xml", f"{image_id}.jpg", size, cells)
    quarter = images // 4
    splits = {"train": ids[: -2 * quarter], "val": ids[-2 * quarter : -quarter], "test": ids[-quarter:]}
    for split, members in {**splits, "trainval": splits["train"] + splits["val"]}.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{i}\n" for i in members))
    return folder


def draw_smear(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, list[tuple[str, list[int]]]]:
    """A picture of ellipses on a noisy background and the (class, xyxy box) of each."""
    height, width = size
    noise = rng.normal(0, 4, (height, width, 3)) + BACKGROUND
    image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    cells = []
    for name in ["WBC", "Platelets", *["RBC"] * int(rng.integers(3, 7))]:
        radius, colour = CELLS[name]
        rx, ry = (round(radius * f) for f in rng.uniform(0.85, 1.15, 2).tolist())
        x, y = int(rng.integers(rx, width - rx)), int(rng.integers(ry, height - ry))
        draw.ellipse([x - rx, y - ry, x + rx - 1, y + ry - 1], fill=colour)
        cells.append((name, [x - rx, y - ry, x + rx, y + ry]))
    return image, cells


def make_cell_folder(folder: Path, *, images: int = 8, seed: int = 0, size: tuple[int, int] = (40, 46)) -> Path:
    """Write ``images`` pictures of ``size`` (height, width) of one cell each for every class, a folder a class."""
    rng = np.random.default_rng(seed)
    height, width = size
    for name, (radius, colour) in CELLS.items():
        (folder / name).mkdir(parents=True)
        for number in range(images):
            noise = rng.normal(0, 4, (height, width, 3)) + BACKGROUND
            image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
            x, y = width / 2 + rng.uniform(-2, 2), height / 2 + rng.uniform(-2, 2)
            ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
            image.save(folder / name / f"s{number // 2:02d}_c{number:03d}.png")
    return folder


def write_annotation(path: Path, filename: str, size: tuple[int, int], cells: list[tuple[str, list[int]]]) -> None:
    """One VOC XML file."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = filename
    dimensions = ElementTree.SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (size[1], size[0], 3), strict=True):
        ElementTree.SubElement(dimensions, tag).text = str(value)
    for name, box in cells:
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = name
        corners = ElementTree.SubElement(item, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ElementTree.SubElement(corners, tag).text = str(value)
    ElementTree.ElementTree(root).write(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", action="store_true", help="pictures of single cells, a folder a class")
    arguments = parser.parse_args()
    make = make_cell_folder if arguments.cells else make_voc_folder
    print(make(arguments.folder, images=arguments.images, seed=arguments.seed))
