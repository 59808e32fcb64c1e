"""The reports of bags: which day, which images, which flags, and names that file systems take."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hemolens.analysis.image_quality import QualityLimits
from hemolens.analysis.storage_series import series_table
from hemolens.errors import UserError
from hemolens.inference.phase_inputs import list_inputs, read_input
from hemolens.inference.segmentation_outputs import SegmentedField
from hemolens.inference.storage import read_stored_images
from hemolens.inference.storage_quality import StorageQuality, StoredImage, folder_names
from hemolens.io.phase import PhaseImage, write_phase

NAMES = ["background", "discocyte", "spherocyte", "echinocyte", "stomatocyte"]
LIMITS = QualityLimits(min_cells=2, dry_mass_pg=(1.0, 1000.0))


def field(name: str, labels: tuple[int, ...], *, quality: dict[str, Any] | None = None, side: int = 200) -> Any:
    """Squares of 2 rad on nothing."""
    classes, instances = np.zeros((side, side), np.uint8), np.zeros((side, side), np.int32)
    for place, label in enumerate(labels):
        at = np.s_[20 + 50 * place : 55 + 50 * place, 80:115]
        classes[at], instances[at] = label, place + 1
    maps = {"classes": classes, "instances": instances, "probability": np.ones(classes.shape, np.float32)}
    image = PhaseImage(2 * (classes > 0).astype(np.float32), 0.144, 0.666)
    return SegmentedField(name, f"{name}.png", image, maps, quality=quality)


def report(folder: Path, images: list[tuple[StoredImage, Any]], limits: QualityLimits = LIMITS) -> pd.DataFrame:
    quality, rows = StorageQuality(NAMES, limits, about={"checkpoint": "best.ckpt"}), []
    for stored, result in images:
        flags = quality.add(stored, result)
        labels = [
            int(result.maps["classes"][result.maps["instances"] == i].max())
            for i in np.unique(result.maps["instances"])
            if i
        ]
        row = {"bag": stored.bag, "storage_day": stored.storage_day, "undecided": 0, "flags": len(flags)}
        rows.append(row | {name: labels.count(number) for number, name in enumerate(NAMES) if number})
    table = pd.DataFrame(rows)
    quality.finish(folder, table, series_table(table, NAMES[1:]))
    return pd.read_csv(folder / "image_quality.csv").set_index("file")


def words(folder: Path, bag: str) -> str:
    page = (folder / "reports" / bag / "quality.html").read_text()
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.S).split())


def test_the_report_is_of_the_latest_day(tmp_path: Path) -> None:
    saturated = {"saturated_fraction": 0.2}
    found = report(
        tmp_path,
        [
            (StoredImage("a", 40, None, 0.25), field("late", (1, 2, 2))),
            (StoredImage("a", 40), field("late_bad", (1,), quality=saturated)),
            (StoredImage("a", 8, "2026-12-31", 0.1), field("early", (1, 1, 1))),
            (StoredImage("a", float("nan")), field("when", (4, 4))),
            (StoredImage("b", float("nan")), field("undated", (3, 3, 1))),
        ],
    )
    assert found.loc["late_bad.png", "flags"] == "saturated; few_cells"
    assert found["flags"].isna().to_dict() == {
        **{"late.png": True, "late_bad.png": False, "early.png": True, "when.png": True, "undated.png": True}
    }
    assert found.loc["late_bad.png", "saturated_fraction"] == pytest.approx(0.2)
    page = words(tmp_path, "a")
    for said in ("storage day 40", "expires 2026-12-31", "2 images", "4 cells", "hemolysis 0.25 % (as entered)"):
        assert said in page, said
    assert "1 of 2 images flagged" in page and "late_bad.png" in page and "early" not in page
    assert "flagged images count too" in page and "checkpoint: best.ckpt" in page
    assert "50.0 %" in page  # two of four are spherocytes
    assert "over 2 days" in (tmp_path / "reports" / "a" / "quality.html").read_text()
    assert "storage day not given" in words(tmp_path, "b")
    assert (tmp_path / "reports" / "b" / "quality.pdf").read_bytes().startswith(b"%PDF")


def test_the_worst_image_comes_first_and_the_example_is_a_good_one(tmp_path: Path) -> None:
    images = [
        (StoredImage("a", 8), field("bad", (1, 1), quality={"saturated_fraction": 0.02})),
        (StoredImage("a", 8), field("worse", (1, 1), quality={"saturated_fraction": 0.6})),
        (StoredImage("a", 8), field("worst", (1,), quality={"saturated_fraction": 0.02})),
        (StoredImage("a", 8), field("good", (1, 2, 3))),
    ]
    report(tmp_path, images)
    page = words(tmp_path, "a")
    assert page.index("worst.png") < page.index("worse.png") < page.index("bad.png")
    quality = StorageQuality(NAMES, LIMITS)
    quality.add(*images[0])
    before = quality._bags["a"].example
    quality.add(*images[3])
    assert before is not None and not np.array_equal(before, quality._bags["a"].example)


def test_images_that_could_not_be_analysed_are_on_the_page(tmp_path: Path) -> None:
    quality = StorageQuality(NAMES, LIMITS)
    quality.add(StoredImage("a", 8), field("early", (1, 1)))
    quality.leave_out(StoredImage("a", 40), "late.png", "19% of the pixels are saturated")
    rows = [{"bag": "a", "storage_day": 8.0, "undecided": 0, **dict.fromkeys(NAMES[1:], 1)}]
    quality.finish(tmp_path, pd.DataFrame(rows), series_table(pd.DataFrame(rows), NAMES[1:]))
    page = words(tmp_path, "a")
    for said in ("storage day 40", "1 image", "0 cells", "late.png", "19% of the pixels are saturated", "not analysed"):
        assert said in page, said
    assert pd.read_csv(tmp_path / "image_quality.csv")["flags"].tolist()[1] == "unusable"


def test_large_pictures_are_kept_small(tmp_path: Path) -> None:
    quality = StorageQuality(NAMES, LIMITS)
    quality.add(StoredImage("a", 8), field("large", (1,), side=4000))
    latest = quality._bags["a"]
    assert latest.example is not None and max(latest.example.shape) <= 2000
    assert max(latest.flagged[0].picture.shape) <= 1000


def test_folders_of_bags() -> None:
    assert folder_names(["w21", "w 21/b", "W21", "../..", "", "w 21:b"]) == [
        "w21",
        "w_21_b",
        "W21-2",
        "bag",
        "bag-2",
        "w_21_b-2",
    ]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("expiry", "31.12.2026", "write it as 2026-12-31"),
        ("hemolysis_percent", "104", "0 to 100"),
        ("hemolysis_percent", "low", "no number"),
    ],
)
def test_damaged_columns_are_refused(tmp_path: Path, column: str, value: str, said: str) -> None:
    (tmp_path / "manifest.csv").write_text(f"file,sample,bag,storage_day,{column}\na.png,s,a,8,{value}\n")
    with pytest.raises(UserError, match=f"{column} of a.png.*{said}"):
        read_stored_images(tmp_path / "manifest.csv")


def test_what_the_manifest_says_of_a_bag(tmp_path: Path) -> None:
    lines = "file,sample,bag,storage_day,expiry,hemolysis_percent\na.png,s,a,8,2026-12-31,0.3\nb.png,s,a,8,,\n"
    (tmp_path / "manifest.csv").write_text(lines)
    assert list(read_stored_images(tmp_path / "manifest.csv").values()) == [
        StoredImage("a", 8.0, "2026-12-31", 0.3),
        StoredImage("a", 8.0),
    ]


def test_what_reconstruct_noted_of_a_phase_image_is_found(tmp_path: Path) -> None:
    phase = tmp_path / "phase" / "holograms" / "f0.ome.tif"
    phase.parent.mkdir(parents=True)
    write_phase(phase, PhaseImage(np.zeros((40, 40), np.float32), 0.144, 0.666))
    (tmp_path / "reconstruction.json").write_text("{}")
    (item,) = list_inputs(tmp_path)
    assert item.quality is None and read_input(item, {})[1] is None
    (tmp_path / "quality.csv").write_text("name,file,saturated_fraction\nholograms/f0,holograms/f0.png,0.25\n")
    (item,) = list_inputs(tmp_path)
    assert read_input(item, {})[1] == {"name": "holograms/f0", "file": "holograms/f0.png", "saturated_fraction": "0.25"}
    (tmp_path / "quality.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"quality\.csv is damaged"):
        list_inputs(tmp_path)
