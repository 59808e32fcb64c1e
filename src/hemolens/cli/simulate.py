"""``hemolens simulate``: tomograms or holograms with known truth, in instrument file formats."""

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
    from hydra.utils import get_object

    from hemolens.cli.run_guard import resolved
    from hemolens.data.modules.sim_holograms import SimulatedHologramDataModule
    from hemolens.data.modules.sim_tomograms import SimulatedTomogramDataModule

    resolved(cfg)
    makers = {SimulatedTomogramDataModule: _tomograms, SimulatedHologramDataModule: _holograms}
    maker = makers[get_object(cfg.data._target_)]
    maker(cfg, Path(cfg.output))


def _tomograms(cfg: DictConfig, output: Path) -> None:
    from hydra.utils import instantiate

    from hemolens.data.modules.sim_tomograms import describe_statistics
    from hemolens.data.simulation.export import export_data_set
    from hemolens.data.simulation.plan import statistics_of
    from hemolens.data.splits import SPLITS

    datamodule = instantiate(cfg.data)
    workers = cfg.workers or datamodule.simulation_workers
    records = export_data_set(datamodule.plan, output, volume_format=cfg.format or "tcf", workers=workers)
    for split in SPLITS:
        print(f"{split}: {describe_statistics(statistics_of([r for r in records if r.split == split]))}")
    print(f"{len(records)} tomograms with labels, annotations.json, cells.csv and manifest.csv: {output}")


def _holograms(cfg: DictConfig, output: Path) -> None:
    from hydra.utils import instantiate

    from hemolens.data.simulation.holograms import describe_holograms, export_holograms

    data = {key: value for key, value in cfg.data.items() if key != "test_floor"}  # simulate.yaml's, for tomograms
    if cfg.data.test_floor is not None:
        raise UserError("data.test_floor is for tomograms: leave it out")
    datamodule = instantiate(data)
    workers = cfg.workers or datamodule.simulation_workers
    rows = export_holograms(datamodule.plan, output, picture_format=cfg.format or "png", workers=workers)
    for line in describe_holograms(rows):
        print(line)
    print(f"{len(rows)} holograms with references, phase, masks, cells.csv and manifest.csv: {output}")
