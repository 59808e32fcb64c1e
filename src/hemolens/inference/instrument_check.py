"""Check an instrument by beads of known size and index: tables, the calibration that follows, figures, a verdict."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from hemolens.analysis.bead_volumes import AXES, measure_volume_beads, seen_by
from hemolens.analysis.beads import Apparent, Bead, BeadFit, measure_beads, seen_in_focus
from hemolens.analysis.control_chart import ControlChart, Limits, control_chart, verdict
from hemolens.analysis.figures import save_figure
from hemolens.analysis.instrument_figures import draw_drift, draw_fits
from hemolens.errors import UserError
from hemolens.inference.bead_files import BeadFile, list_bead_files
from hemolens.inference.phase_inputs import read_input
from hemolens.io.atomic import atomic_folder, write_json
from hemolens.io.tables import write_csv
from hemolens.io.volumes import open_volume

BEADS_CSV, CALIBRATION_JSON, FITS_PNG, DRIFT_PNG = "beads.csv", "calibration.json", "fits.png", "drift.png"
PHASE, TOMOGRAM = "phase", "tomogram"
WORST_RESIDUAL_PERCENT = {PHASE: 5.0, TOMOGRAM: 35.0}  # the missing cone alone leaves 22 % at NA 0.72 and 0.95
SHOWN_FITS = 4
DECIMALS = 6
#: What is charted, with its unit; at the stated scale.
CHARTED = {
    PHASE: {"diameter_um": "µm", "phase_scale": ""},
    TOMOGRAM: {"diameter_x_um": "µm", "contrast": "RI"},
}
CALIBRATED = {
    PHASE: ("pixel_um", "phase_scale", "contrast"),
    TOMOGRAM: (*(f"voxel_{axis}_um" for axis in AXES), "ri_offset", "ri_scale"),
}


@dataclass(frozen=True, kw_only=True)
class BeadCheck:
    """How beads are measured and judged.

    Args:
        bead: what its maker and the medium's say.
        hologram: scale of phase images and settings of holograms, as of ``inference.phase_inputs.read_input``.
        volume: what tomogram files do not state, as of ``io.volumes.open_volume``.
        condenser_na, objective_na: apertures of a tomograph; None: its missing cone is not reckoned with.
        refraction: reckon with the light that a bead bends.
        blur_um: of the optics; None: fitted.
        worst_residual_percent: worse fits are not used; None: ``WORST_RESIDUAL_PERCENT``.
        n_baseline: files that give the limits of the control chart.
        baseline: ``calibration.json`` of another time that gives them instead.

    Raises:
        UserError: one aperture without the other.
    """

    bead: Bead
    hologram: Mapping[str, Any]
    volume: Mapping[str, Any] = field(default_factory=dict)
    condenser_na: float | None = None
    objective_na: float | None = None
    refraction: bool = True
    blur_um: float | None = None
    worst_residual_percent: float | None = None
    n_baseline: int = 20
    baseline: Path | None = None

    def __post_init__(self) -> None:
        if (self.condenser_na is None) != (self.objective_na is None):
            raise UserError("condenser_na and objective_na belong together: give both, or neither")


def check_beads(
    source: Path,
    output: Path,
    check: BeadCheck,
    *,
    reference: Path | None = None,
    manifest: str | None = None,
    leave_out: Callable[[UserError], None],
) -> list[str]:
    """Measure the beads of every file and write the results to a new folder.

    - ``beads.csv``: a row a bead, see ``analysis.beads.measure_beads`` and ``analysis.bead_volumes``; ``used`` is 0
      where the fit is too poor to count.
    - ``calibration.json``: median, SD and n of what follows, what to set, limits of the control chart, the verdict.
    - ``fits.png``; ``drift.png``: a control chart over the files.

    Args:
        source, reference, manifest: see ``inference.bead_files.list_bead_files``.
        output: new folder.
        check: how.
        leave_out: is told why a file is left out.

    Returns:
        Lines to print; the last is the verdict.

    Raises:
        UserError: nothing could be measured, or a baseline of something else.
    """
    files = list_bead_files(source, reference=reference, manifest=manifest, output=output)
    kind = PHASE if files[0].item is not None else TOMOGRAM
    before = None if check.baseline is None else _baseline(check.baseline, kind, check.bead)
    worst = check.worst_residual_percent or WORST_RESIDUAL_PERCENT[kind]
    expect = _Expectations(check)
    measured: list[tuple[BeadFile, list[BeadFit]]] = []
    left_out: list[str] = []
    console = Console(stderr=True)
    quiet = not (console.is_terminal or console.is_jupyter)
    for file in track(files, description="beads", console=console, transient=True, disable=quiet):
        try:
            fits = expect.measured(file)
            if not any(_used(fit, worst) for fit in fits):
                best = min(fit.row["residual_percent"] for fit in fits)
                raise UserError(
                    f"the best fit leaves {best:.1f} % of the bead, more than worst_residual_percent={worst:g}: "
                    "look at focus, unwrapping and what is said of the bead",
                    exit_code=1,
                )
        except UserError as error:
            words = str(error) if str(file.path) in str(error) else f"{file.path}: {error}"
            left_out.append(words)
            leave_out(UserError(words, exit_code=1))
            continue
        measured.append((file, fits))
    if not measured:
        raise UserError(f"no bead could be measured in {len(files)} files; the first: {left_out[0]}", exit_code=1)
    used = [(file, fit) for file, fits in measured for fit in fits if _used(fit, worst)]
    charts = _charts(kind, measured, worst, check.n_baseline, before)
    line = verdict(charts, check.n_baseline)
    facts = _calibration(kind, check, expect, [fit.row for _, fit in used])
    facts |= {
        "files": len(measured),
        "limits": {chart.name: asdict(chart.limits) for chart in charts if chart.limits is not None},
        "verdict": line,
        "left_out": left_out,
    }
    columns = list(measured[0][1][0].row)
    rows = [
        [file.name, file.date, number, *(round(fit.row[name], DECIMALS) for name in columns), int(_used(fit, worst))]
        for file, fits in measured
        for number, fit in enumerate(fits, 1)
    ]
    with atomic_folder(output) as folder:
        write_csv(folder / BEADS_CSV, ["file", "date", "bead", *columns, "used"], rows)
        write_json(folder / CALIBRATION_JSON, facts)
        step = max(1, len(used) // SHOWN_FITS)
        shown = [(f"{file.name}\n{_words(kind, fit.row)}", fit) for file, fit in used[::step][:SHOWN_FITS]]
        save_figure(draw_fits(shown), folder / FITS_PNG)
        labels = [file.date[:10] or Path(file.name).name for file, _ in measured]
        save_figure(draw_drift(charts, labels), folder / DRIFT_PNG)
    said = [f"{name} {_number(value)}" for name, value in facts["values"].items()]
    advice = " ".join(f"{key}={value}" for key, value in facts["set"].items())
    return [
        f"{len(used)} beads in {len(measured)} files: {output}",
        ", ".join(said),
        f"set: {advice}" if advice else f"set: nothing; {facts['note']}",
        line,
    ]


def _number(value: Mapping[str, Any]) -> str:
    return f"{value['median']:.5g}" + ("" if value["sd"] is None else f" (SD {value['sd']:.2g})")


def _used(fit: BeadFit, worst: float) -> bool:
    return bool(fit.row["residual_percent"] <= worst)


def _words(kind: str, row: Mapping[str, float]) -> str:
    if kind == PHASE:
        return f"{row['diameter_um']:.3f} µm, {row['peak_rad']:.2f} rad"
    return f"x {row['diameter_x_um']:.2f}, z {row['diameter_z_um']:.2f} µm, core {row['ri_core']:.4f}"


@dataclass
class _Expectations:
    """Measures files; remembers what a true instrument shows, which is the same for files of one scale."""

    check: BeadCheck
    phases: dict[tuple[float, float | None], Apparent] = field(default_factory=dict)
    volumes: dict[tuple[Any, ...], Mapping[str, float]] = field(default_factory=dict)

    def measured(self, file: BeadFile) -> list[BeadFit]:
        return self._phase(file) if file.item is not None else self._volume(file)

    def _phase(self, file: BeadFile) -> list[BeadFit]:
        check = self.check
        assert file.item is not None
        image, _ = read_input(file.item, check.hologram)
        scale: dict[str, float] = {}
        for name, example in (("pixel_um", 0.144), ("wavelength_um", 0.666)):
            value = getattr(image, name)
            if value is None:
                raise UserError(f"states no {name}: give hologram.{name}=, e.g. {example}")
            scale[name] = float(value)
        apparent = None
        if check.refraction:
            key = (scale["wavelength_um"], check.hologram["numerical_aperture"])
            if key not in self.phases:
                self.phases[key] = seen_in_focus(check.bead, *key)
            apparent = self.phases[key]
        return measure_beads(image.phase_rad, check.bead, **scale, blur_um=check.blur_um, apparent=apparent)

    def _volume(self, file: BeadFile) -> list[BeadFit]:
        check = self.check
        given = {name: value for name, value in check.volume.items() if value is not None}
        with open_volume(file.path, **given | {"medium_index": check.bead.medium_index}) as volume:
            apparent = None
            if check.condenser_na is not None and check.objective_na is not None:
                if volume.wavelength_um is None:
                    raise UserError("states no wavelength, which the apertures need: give volume.wavelength_um=")
                scale = (volume.voxel_um, volume.wavelength_um)
                if scale not in self.volumes:
                    self.volumes[scale] = seen_by(
                        check.bead,
                        volume.voxel_um,
                        condenser_na=check.condenser_na,
                        objective_na=check.objective_na,
                        wavelength_um=volume.wavelength_um,
                    )
                apparent = self.volumes[scale]
            return measure_volume_beads(volume, check.bead, apparent=apparent)


def _charts(
    kind: str,
    measured: Sequence[tuple[BeadFile, list[BeadFit]]],
    worst: float,
    n_baseline: int,
    before: Mapping[str, Limits] | None,
) -> list[ControlChart]:
    names = [file.name for file, _ in measured]
    charts = []
    for name, unit in CHARTED[kind].items():
        medians = [statistics.median(fit.row[name] for fit in fits if _used(fit, worst)) for _, fits in measured]
        limits = None if before is None else before[name]
        charts.append(control_chart(name, unit, names, medians, n_baseline=n_baseline, baseline=limits))
    return charts


def _calibration(
    kind: str, check: BeadCheck, expect: _Expectations, rows: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """What ``calibration.json`` says of the scale."""
    middle = {name: statistics.median(float(row[name]) for row in rows) for name in CALIBRATED[kind]}
    values = {}
    for name in CALIBRATED[kind]:
        own = [float(row[name]) for row in rows]
        values[name] = {
            "median": round(middle[name], DECIMALS),
            "sd": round(statistics.stdev(own), DECIMALS) if len(own) > 1 else None,
            "n": len(own),
        }
    rows_seen = [*(asdict(found) for found in expect.phases.values()), *expect.volumes.values()]
    seen = [{name: round(value, DECIMALS) for name, value in row.items()} for row in rows_seen]
    settings: dict[str, Any] = {}
    note = ""
    if kind == PHASE:
        settings["hologram.pixel_um"] = round(middle["pixel_um"], DECIMALS)
        if not check.refraction:
            note = "the bead was taken for its projection (refraction=false), which reads the pixel too small"
    elif seen:
        settings["volume.voxel_um"] = [round(middle[f"voxel_{axis}_um"], DECIMALS) for axis in AXES]
        settings["volume.medium_index"] = round(check.bead.medium_index + middle["ri_offset"], DECIMALS)
    else:
        note = "the missing cone is in these numbers: give condenser_na and objective_na to reckon with it"
    return {
        "kind": kind,
        "bead": asdict(check.bead),
        "values": values,
        "set": settings,
        "note": note,
        "expected_of_a_true_instrument": seen,
    }


def _baseline(path: Path, kind: str, bead: Bead) -> dict[str, Limits]:
    """Limits of another check of the same bead.

    Raises:
        UserError: unreadable, without limits, or of another bead or kind.
    """
    if path.is_dir():
        path = path / CALIBRATION_JSON
    try:
        facts = json.loads(path.read_text())
        limits = {name: Limits(**values) for name, values in facts["limits"].items()}
        same = facts["kind"] == kind and facts["bead"] == asdict(bead)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"baseline={path}: no calibration.json of hemolens check: {error}") from error
    if not same:
        raise UserError(
            f"baseline={path} is of another bead or another kind of image: {facts['kind']}, {facts['bead']}"
        )
    if set(limits) != set(CHARTED[kind]):
        raise UserError(f"baseline={path} has no limits: it was made of fewer files than its n_baseline")
    return limits
