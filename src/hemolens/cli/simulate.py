"""``hemolens simulate``: tomograms with known truth, in instrument file formats."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from hemolens.cli.app import run_verb
from hemolens.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("simulate", arguments, simulate)


def simulate(cfg: DictConfig) -> None:
    """Simulate the data set that ``cfg.data`` describes into ``cfg.output``."""
    from hydra.utils import get_class, instantiate

    from hemolens.cli.run_guard import resolved
    from hemolens.data.modules.sim_tomograms import SimulatedTomogramDataModule, describe_statistics
    from hemolens.data.simulation.export import export_data_set
    from hemolens.data.simulation.plan import statistics_of
    from hemolens.data.splits import SPLITS

    resolved(cfg)
    if get_class(cfg.data._target_) is not SimulatedTomogramDataModule:
        raise UserError("hemolens simulate makes what data=sim_tomograms describes: choose that")
    datamodule = instantiate(cfg.data)
    output = Path(cfg.output)
    workers = cfg.workers or datamodule.simulation_workers
    records = export_data_set(datamodule.plan, output, volume_format=cfg.format, workers=workers)
    for split in SPLITS:
        print(f"{split}: {describe_statistics(statistics_of([r for r in records if r.split == split]))}")
    print(f"{len(records)} tomograms with labels, annotations.json, cells.csv and manifest.csv: {output}")
