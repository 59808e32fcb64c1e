"""``hemolens report``: a paper's tables and figures from finished runs."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError

PAPERS = ("hematology", "storage")


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("report", arguments, report)


def report(cfg: DictConfig) -> None:
    """Read ``cfg.runs`` and write the report into ``cfg.output``."""
    from hemolens.analysis.hematology_report import TITLE, hematology_report
    from hemolens.analysis.report_page import check_report_folder, write_report
    from hemolens.analysis.report_sources import find_sources
    from hemolens.analysis.storage_report import TITLE as STORAGE_TITLE
    from hemolens.analysis.storage_report import storage_report
    from hemolens.cli.run_guard import git_state, resolved

    config = resolved(cfg)
    if cfg.paper not in PAPERS:
        raise UserError(f"paper={cfg.paper}: choose from {', '.join(PAPERS)}")
    check_report_folder(Path(cfg.output), overwrite=cfg.overwrite)
    places = [config["runs"]] if isinstance(config["runs"], str) else [str(place) for place in config["runs"]]
    sources = find_sources(places)
    if cfg.paper == "storage":
        if cfg.truth or cfg.reference:
            raise UserError("truth= and reference= are for paper=hematology: leave them out")
        if not sources.segmentation:
            raise UserError(
                f"no tested segmentation in runs={cfg.runs}: hemolens train experiment=seg_resunet18_simholo_quick"
            )
        title = STORAGE_TITLE
        lead, sections = storage_report(sources)
    else:
        title = TITLE
        lead, sections = hematology_report(sources, truth=cfg.truth, reference=cfg.reference)
    about = {"commit": (git_state()["commit"] or "")[:10], **sources.facts()}
    page = write_report(cfg.output, title, lead, sections, about=about, overwrite=cfg.overwrite)
    for section in sections:
        if section.missing:
            print(f"{section.title}: {section.missing}")
    print(f"report: {page}")
