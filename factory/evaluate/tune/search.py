"""Ray Tune over the folds: trials side by side, those that fall behind stopped, within a budget."""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.core.errors import FactoryError
from factory.engine.executors.cluster import Cluster, end_actors, list_nodes, start_ray
from factory.evaluate.base import Context, RunRecipe
from factory.evaluate.tune.bed import Bed, Split, Task
from factory.evaluate.tune.gains import measure_so_far
from factory.evaluate.tune.space import Configuration
from factory.evaluate.workers import share_nodes

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard of each trial
    "RAY_AIR_NEW_OUTPUT": "0",  # prints a table, whatever the verbosity
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the command line's
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",  # of a trial that the budget ends amid a fold
}
HALVING = 2
"""Of trials at a rung of ASHA (Li et al. 2020, arXiv 1810.05934) one in so many goes on."""


@dataclass
class Clock:
    """The budget of a call: searching ends early enough for the check of what is chosen.

    Attributes:
        ends: `time.monotonic` of the end.
        kept: folds for which time is kept: none until there is something to check.
        slowest: seconds of the slowest fold so far.
        check: folds that the check takes.
    """

    ends: float
    kept: int = 0
    slowest: float = 0.0
    check: int = 0

    def note(self, result: Mapping[str, Any]) -> None:
        """Takes what came of a fold, as `Trial.step` tells it."""
        self.slowest = max(self.slowest, result["seconds"])
        if result["done"] and not result["failed"]:
            self.kept = self.check

    def is_over(self) -> bool:
        """Whether no more folds should begin."""
        return time.monotonic() + self.kept * self.slowest >= self.ends


Tell = Callable[[Configuration, int, float | None, str], None]
"""Called with a configuration, its folds done, the gain so far, and what failed."""


@dataclass
class RaySearcher:
    """Ray Tune, on this machine's loopback or the cluster that RAY_ADDRESS names.

    Attributes:
        task: what trials share.
        make: runs a recipe.
        workers: trials side by side.
        tell: called after each fold.
    """

    task: Task
    make: RunRecipe
    workers: int
    tell: Tell
    _cluster: Cluster | None = field(default=None)

    def run(
        self,
        configurations: Sequence[Configuration],
        splits: Sequence[Split],
        clock: Clock,
        halves_from: int | None,
    ) -> None:
        """Measures until all is done or the clock says so; `tell` hears what came of it.

        What was measured lies in the folder of the task.

        Args:
            configurations: in the order in which they begin.
            splits: folds, in their order.
            clock: of the budget.
            halves_from: folds after which trials that fall behind are stopped; None: none is.

        Raises:
            RunBrokenError: Ray could not start.
        """
        os.environ.update(QUIET)
        from ray import tune
        from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

        self._cluster = self._cluster or start_ray()
        halving = AsyncHyperBandScheduler(
            "folds",
            metric="gain",
            mode="max",
            max_t=len(splits),
            grace_period=halves_from or len(splits),
            reduction_factor=HALVING,
        )
        is_halved = halves_from is not None and halves_from < len(splits)
        nodes = list_nodes()
        gpus, cpus = (share_nodes(nodes, name, self.workers) for name in ("GPU", "CPU"))
        trial = tune.with_parameters(
            _build_trainable(), task=self.task, make=self.make, splits=tuple(splits), at=Path.cwd()
        )
        place = self.task.work / "ray"
        shutil.rmtree(place, ignore_errors=True)  # folds are kept by themselves, whole
        tune.Tuner(
            tune.with_resources(trial, {"cpu": cpus, "gpu": gpus}),
            param_space={"configuration": tune.grid_search([dict(c) for c in configurations])},
            tune_config=tune.TuneConfig(
                scheduler=halving if is_halved else FIFOScheduler(),
                max_concurrent_trials=self.workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(place),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                stop=_build_stopper(clock),
                callbacks=[_build_callback(self.tell)],
                verbose=0,
            ),
        ).fit()
        shutil.rmtree(place, ignore_errors=True)

    def close(self) -> None:
        """Ends Ray, if it was started here."""
        if self._cluster is not None:
            end_actors([], self._cluster)
            self._cluster = None


@dataclass
class Trial:
    """One configuration, fold by fold; stops at an error of ours, which is told."""

    bed: Bed
    configuration: Configuration
    splits: Sequence[Split]
    found: dict[Split, Any] = field(default_factory=dict)

    def step(self) -> dict[str, Any]:
        """Measures the next fold; `done` with the last one."""
        split = self.splits[len(self.found)]
        try:
            cell = self.bed.measure(self.configuration, split)
        except FactoryError as error:
            failed = {"failed": str(error), "done": True, "gain": -1.0, "seconds": 0.0}
            return {**failed, "folds": len(self.found)}
        self.found[split] = cell
        folds = len(self.found)
        return {
            "gain": measure_so_far(self.bed.task.shots, self.found, self.splits[:folds]),
            "folds": folds,
            "seconds": cell.seconds,  # of a stored one, too: what is kept for the check
            "failed": "",
            "done": folds == len(self.splits),
        }


def _build_trainable() -> Any:
    """Returns the class whose actors Ray Tune starts, and uses for one trial after the other."""
    from ray import tune

    class Trainable(tune.Trainable):  # type: ignore[misc]
        def setup(
            self, config: Mapping[str, Any], task: Task, make: RunRecipe, splits: Any, at: Path
        ) -> None:
            self.at = at
            os.chdir(at)  # relative paths mean the same
            self.bed = Bed(task, Context(lambda line: None, make))
            self.splits = splits
            self.reset_config(config)

        def reset_config(self, new_config: Mapping[str, Any]) -> bool:
            os.chdir(self.at)  # Ray Tune went to a folder of the trial
            self.trial = Trial(self.bed, new_config["configuration"], self.splits)
            return True

        def step(self) -> dict[str, Any]:
            return self.trial.step()

    return Trainable


def _build_stopper(clock: Clock) -> Any:
    from ray import tune

    class Stopper(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
            clock.note(result)
            return False

        def stop_all(self) -> bool:
            return clock.is_over()

    return Stopper()


def _build_callback(tell: Tell) -> Any:
    from ray import tune

    class Callback(tune.Callback):  # type: ignore[misc]
        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any
        ) -> None:
            gain = None if result["failed"] else result["gain"]
            configuration = trial.config["configuration"]
            tell(configuration, result["folds"], gain, result["failed"])

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            tell(trial.config["configuration"], 0, None, "its process died")

    return Callback()
