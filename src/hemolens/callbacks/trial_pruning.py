"""A trial of a search ends early where the others did better by then."""

from typing import Any, Protocol

import lightning as L

from hemolens.io.run_folder import update_status


class Trial(Protocol):
    """What is asked of the search's side of a trial."""

    def report(self, value: float, step: int) -> None:
        """Take the score of validation number ``step``; a second one of the same number is ignored."""

    def should_prune(self) -> bool:
        """Whether the trial is not worth going on with."""


class TrialPruning(L.Callback):
    """Report the score of each validation, and stop the training where the search says so.

    Validations are counted, not epochs or steps, so that trials with other batch sizes can be compared; the count is
    kept in checkpoints. A pruned run's status says ``pruned``: it is neither tested nor complete.

    Args:
        trial: the search's side.
        metric: what is searched for, of those of the validation; without it nothing is reported.
        run_dir: the run folder.
    """

    def __init__(self, trial: Trial, metric: str, run_dir: str) -> None:
        self.trial = trial
        self.metric = metric
        self.run_dir = run_dir
        self.validations = 0

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.validations = state_dict["validations"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report, and ask."""
        if trainer.sanity_checking or self.metric not in trainer.callback_metrics:
            return
        self.trial.report(float(trainer.callback_metrics[self.metric]), self.validations)
        self.validations += 1
        if self.trial.should_prune():
            trainer.should_stop = True
            update_status(self.run_dir, pruned=True)
