"""Repeatability of what ``hemolens predict`` measured in repeated fields of a sample: tables and a figure."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hemolens.analysis.figures import save_figure
from hemolens.analysis.instrument_figures import draw_repeatability
from hemolens.analysis.repeatability import file_values, repeatability_table
from hemolens.analysis.samples import measurable
from hemolens.analysis.text_table import markdown_table
from hemolens.data.phase_folder import plain_stem
from hemolens.errors import UserError
from hemolens.inference.outputs import COUNTS_CSV
from hemolens.inference.segmentation_outputs import CELLS_CSV
from hemolens.io.atomic import atomic_folder, atomic_path
from hemolens.io.manifest import read_manifest

REPEATABILITY_CSV, REPEATABILITY_MD, REPEATABILITY_PNG = "repeatability.csv", "repeatability.md", "repeatability.png"
#: Columns of cells.csv that are averaged a file, and their units.
SEGMENTED = {
    "area_um2": "µm²",
    "dry_mass_pg": "pg",
    "mean_phase_rad": "rad",
    "projected_circularity": "",
    "center_rim_ratio": "",
}
HEMATOLOGY = {"cv_fl": "fL", "ch_pg": "pg", "concentration_g_dl": "g/dL"}
ALL = "all"


def check_repeatability(source: Path, output: Path, *, manifest: str | None = None) -> list[str]:
    """Variance components of each sample and measurand, into a new folder.

    - ``repeatability.csv``, ``repeatability.md``: see ``analysis.repeatability.repeatability_table``.
    - ``repeatability.png``: each file, the means of runs and samples, and what chance alone spreads.

    Cells that the border cuts count, and are not averaged; of hematology clumped ones neither.

    Args:
        source: folder that ``hemolens predict`` wrote: of a segmentation, or with ``pipeline=hematology``.
        output: new folder.
        manifest: CSV with the columns file and sample, and run and day where there are several; ``file`` is that of
            cells.csv, or has the same name without suffix. None: what cells.csv says of samples, else all files are one
            sample; one run.

    Returns:
        Lines to print.

    Raises:
        UserError: no such folder or tables, a file that the manifest does not list, or nothing repeated.
    """
    cells, counts, means = _tables(source)
    described = _described(counts["file"].tolist(), cells, manifest)
    values = []
    for sample in dict.fromkeys(described["sample"]):
        files = described.index[described["sample"] == sample]
        own = cells[cells["file"].isin(files) & cells["measured"]]
        values.append(file_values(own, counts[counts["file"].isin(files)], means))
    per_file = pd.concat(values, ignore_index=True).merge(described, left_on="file", right_index=True)
    table = repeatability_table(per_file)
    with atomic_folder(output) as folder:
        with atomic_path(folder / REPEATABILITY_CSV) as temporary:
            table.round(6).to_csv(temporary, index=False)
        with atomic_path(folder / REPEATABILITY_MD) as temporary:
            temporary.write_text(_markdown(table, source), encoding="utf-8")
        save_figure(draw_repeatability(per_file, table), folder / REPEATABILITY_PNG)
    lines = [f"files: {len(described)}, samples: {described['sample'].nunique()}: {output}"]
    for record in table.to_dict("records"):
        total = record["within_laboratory_cv_percent"]
        lines.append(
            f"{record['sample']}, {record['measurand']}: mean {record['mean']:.4g} {record['unit']}".rstrip()
            + f"; CV {record['repeatability_cv_percent']:.2g} % within runs"
            + ("" if math.isnan(total) else f", {total:.2g} % in the laboratory")
        )
    return lines


def _tables(source: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Cells with ``file`` and ``measured``, counts with ``file``, the types and ``all``, and what is averaged."""
    try:
        cells, counts = (pd.read_csv(source / name) for name in (CELLS_CSV, COUNTS_CSV))
    except (OSError, ValueError) as error:
        raise UserError(
            f"input={source}: give the folder that hemolens predict wrote of a segmentation or with "
            f"pipeline=hematology, with {CELLS_CSV} and {COUNTS_CSV} ({error})"
        ) from error
    counts = counts.rename(columns={"image": "file", "total": ALL})
    counts = counts.rename(columns={name: name[2:] for name in counts.columns if name.startswith("n_")})
    counts = counts.drop(columns=["image_width_px", "image_height_px"], errors="ignore")
    hematology = {"cv_fl", "ch_pg", "border_cut", "clumped"} <= set(cells.columns)
    if hematology:
        cells["measured"] = measurable(cells)
    elif "cut" in cells.columns:
        cells["measured"] = cells["cut"] == 0
    if "measured" not in cells.columns or "file" not in cells.columns or not {"file", ALL} <= set(counts.columns):
        raise UserError(f"{source / CELLS_CSV} and {COUNTS_CSV} are no tables of hemolens predict: columns are missing")
    averaged = HEMATOLOGY if hematology else SEGMENTED
    means = {name: unit for name, unit in averaged.items() if name in cells.columns and cells[name].notna().any()}
    return cells, counts, means


def _described(files: list[str], cells: pd.DataFrame, manifest: str | None) -> pd.DataFrame:
    """``sample``, ``run`` and ``day`` of each file, the index."""
    if manifest is None or manifest.lower() == "none":
        known: Mapping[Any, Any] = {}
        if "sample" in cells.columns:
            known = dict(zip(cells["file"], cells["sample"].astype(str), strict=True))
        rows = [{"sample": known.get(file, "all files"), "run": "", "day": ""} for file in files]
        return pd.DataFrame(rows, index=files)
    listed = read_manifest(Path(manifest))
    by_stem = {plain_stem(file): row for file, row in listed.items()}
    rows = []
    for file in files:
        row = listed.get(file, by_stem.get(plain_stem(file)))
        if row is None:
            raise UserError(f"{manifest} does not list {file}: add a row with its sample (and run, day)")
        rows.append({name: (row.get(name) or "").strip() for name in ("sample", "run", "day")})
    found = pd.DataFrame(rows, index=files)
    for name in ("run", "day"):
        if (blank := found[name] == "").any() and not blank.all():
            raise UserError(f"{manifest} states no {name} for {found.index[blank][0]}, but for others: fill it in")
    return found


def _markdown(table: pd.DataFrame, source: Path) -> str:
    head = [
        *("sample", "measurand", "files", "runs", "days", "mean"),
        *("SD within runs [95 %]", "CV %", "SD between runs", "SD between days"),
        *("SD in the laboratory [95 %]", "CV %", "SD by chance alone"),
    ]
    rows = [head]
    for record in table.to_dict("records"):
        name = f"{record['measurand']} ({record['unit']})" if record["unit"] else str(record["measurand"])
        rows.append(
            [
                *(str(record["sample"]), name, *(str(record[count]) for count in ("files", "runs", "days"))),
                _shown(record["mean"]),
                _interval(record, "repeatability"),
                _shown(record["repeatability_cv_percent"]),
                *(_shown(record[f"between_{level}_sd"]) for level in ("run", "day")),
                _interval(record, "within_laboratory"),
                _shown(record["within_laboratory_cv_percent"]),
                _shown(record["chance_sd"]),
            ]
        )
    return (
        f"# Repeatability of {source.name}\n\n{markdown_table(rows, left=(0, 1))}\n\n"
        "Nested analysis of variance as in CLSI EP05-A3; components that come out negative are 0; chi-square "
        "intervals, Satterthwaite's degrees of freedom for the laboratory's. A dash: the design does not show it. By "
        "chance alone: counting (binomial, Poisson) and which cells lay in the field.\n"
    )


def _interval(record: Mapping[Any, Any], name: str) -> str:
    if math.isnan(record[f"{name}_sd"]):
        return "-"
    return f"{_shown(record[f'{name}_sd'])} [{_shown(record[f'{name}_low'])}, {_shown(record[f'{name}_high'])}]"


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
