"""All combinations: Hydra's basic sweeper, with every job looked at first and none left out after a failure."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper stops after a batch (``max_batch_size``) with a failed job; this one goes on."""

    def setup(self, **kwargs: Any) -> None:
        """As the basic one, with a launcher that keeps failures for the end."""
        from hemolens.cli.sweeping import Patience

        super().setup(**kwargs)
        self.launcher = self.patience = Patience(self.launcher)  # type: ignore[assignment]
        self._checked = False

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose the jobs of all batches before the first begins."""
        from hemolens.cli.sweeping import check_jobs

        if not self._checked:
            assert self.overrides is not None
            check_jobs(self, [job for jobs in self.overrides for job in jobs])
            self._checked = True

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; the first failure is raised at the end."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from hemolens.cli.sweeping import one_folder

        overrides = OverridesParser.create().parse_overrides(arguments)
        swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
        super().sweep([*arguments, *one_folder(self, swept)])
        return self.patience.settle()
