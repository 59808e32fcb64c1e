"""Take the pictures of the README and docs/compare.md: the page of `hemolens collect`, of real runs, in chromium.

The runs of docs/images/runs_*.png (ten minutes of one CPU core; a seventh failed, since it was given a checkpoint that
is not there: optimizer.lr=1e-2 ckpt_path=missing.ckpt), and the pictures:

hemolens train -m experiment=seg_unet_s_simholo_tiny optimizer.lr=3e-4,1e-3,3e-3 seed=0,1 sweep_name=learning_rates \
    trainer.max_epochs=8 trainer.check_val_every_n_epoch=1 trainer.log_every_n_steps=1 trainer.max_time=00:00:01:00
python scripts/make_screenshots.py outputs/seg_unet_s_simholo_tiny/learning_rates \
    --title "Learning rates of a small U-Net"

A page of `hemolens report` besides: --report report/report.html writes report.png.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hemolens.analysis.run_folders import find_runs
from hemolens.analysis.run_page import PageOptions, write_run_page
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path

ROOT = Path(__file__).resolve().parents[1]
WIDTH_PX, SCALE = 1280, 1.5
MOST_BYTES = 300_000
# file: the view that the address asks for, and the parts of the page from the first to the last
SHOTS = {
    "runs_table.png": ("means=1", "header.page", "#scatter-part"),
    "runs_curves.png": (
        "filter=state%3Dfinished&curve=train/loss&clog=1&smooth=0.5&group=1",
        "#curves-part",
        "#curves-part",
    ),
    "runs_images.png": ("filter=state%3Dfinished%20seed%3D0", "#diff-part", "#images-part section"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="runs, as hemolens collect takes them")
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--report", type=Path, help="also a page of hemolens report: report.png")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder [docs/images]")
    options = parser.parse_args(arguments)
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        if program is None:
            raise UserError("no chromium: apt-get install chromium")
        runs = find_runs([options.folder])
        with tempfile.TemporaryDirectory() as place:
            page = Path(place) / "runs.html"
            command = f"hemolens collect {options.folder.name}"
            write_run_page(page, runs, PageOptions(title=options.title, command=command, image_px=640))
            _shoot(program, page, options.report, options.output)
    except UserError as error:
        print(f"make_screenshots: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _shoot(program: str, page: Path, report: Path | None, output: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(
            viewport={"width": WIDTH_PX, "height": 900}, device_scale_factor=SCALE, reduced_motion="reduce"
        )
        for name, (view, first, last) in SHOTS.items():
            tab.goto("about:blank")
            tab.goto(f"{page.as_uri()}#{view}")
            _save(tab, output / name, first, last)
        if report is not None:
            tab.goto(report.absolute().as_uri())
            _save(tab, output / "report.png", "h1", "nav")
        browser.close()


def _save(tab: Any, path: Path, first: str, last: str) -> None:
    """The page from the top of one part to the foot of another, as large as the limit allows."""
    tab.evaluate("Promise.all([...document.querySelectorAll('main img')].map(image => image.decode()))")
    edges = "([a, b]) => [document.querySelector(a), document.querySelector(b)].map(e => e.getBoundingClientRect())"
    top, foot = tab.evaluate(edges, [first, last])
    area = {"x": 0, "y": max(0, top["y"] - 12), "width": WIDTH_PX, "height": foot["y"] + foot["height"] - top["y"] + 24}
    with atomic_path(path, overwrite=True) as temporary:
        tab.screenshot(path=temporary, full_page=True, clip=area)
        with Image.open(temporary) as opened:
            picture = opened.convert("RGB")
        for share in (1, 0.85, 0.7, 0.6, 0.5):
            size = (round(share * picture.width), round(share * picture.height))
            small = picture.resize(size, Image.Resampling.LANCZOS).quantize(256, dither=Image.Dither.NONE)
            small.save(temporary, optimize=True)
            if temporary.stat().st_size <= MOST_BYTES:
                break
        else:
            raise UserError(f"{path.name} would exceed {MOST_BYTES // 1000} kB: show fewer runs")
    print(path)


if __name__ == "__main__":
    sys.exit(main())
