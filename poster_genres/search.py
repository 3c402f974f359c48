"""A search of parameters with Optuna, whose trials are DVC experiments: an Optuna study in an SQLite file, its pictures, and its
MLflow run. The tree-structured Parzen estimator (TPE; Bergstra and others 2011, "Algorithms for Hyper-Parameter Optimization")
proposes values where good trials are dense and bad ones are not.

Nothing is pruned: learning rates that fall to zero in the last epoch (`one_cycle`) make curves of different trials incomparable
before the end, and an experiment that is stopped half-way has no scores.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from poster_genres.files import whole_file
from poster_genres.parameters import Range, is_whole
from poster_genres.tracking import Tracking, connect

DIGITS = 4
# What `tell` is given, in words.
OBJECTIVE = "validation macro average precision"


class Search:
    """A study, which is made or goes on where it was left. Trials are numbered from 0; each maximises a score.

    With one trial at a time, the same seed and space give the same trials, interrupted or not, as trial N depends on the seed, N
    and the scores before it only. Of several at a time, those after the random ones depend on which end first.

    Parameters
    ----------
    storage : the URL of a database
    name : of the study
    space : the values of each parameter: a range, or a list of values as `text` writes them
    random_trials : how many trials are random before earlier ones guide the next
    """

    def __init__(self, storage: str, name: str, space: dict[str, list[str] | Range], seed: int, random_trials: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.name, self.space, self.seed, self.random_trials = name, space, seed, random_trials
        self.study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)

    def trials(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False)

    def _in_state(self, state: str) -> list[int]:
        return [trial.number for trial in self.trials() if trial.state.name == state]

    def completed(self) -> list[int]:
        return self._in_state("COMPLETE")

    def failed(self) -> list[int]:
        return self._in_state("FAIL")

    def unfinished(self) -> list[int]:
        return self._in_state("RUNNING")

    def ask(self) -> int:
        """The number of a new trial."""
        import optuna

        number = len(self.trials())
        # Seeded for each trial: one generator for all would begin again when an interrupted search goes on. Not by `seed + number`:
        # numbers of NumPy's seeds 0 and 3 are nearly the same.
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.random_trials)
        trial = self.study.ask()
        for key, values in self.space.items():
            if not isinstance(values, Range):
                trial.suggest_categorical(key, values)
            elif is_whole(key):
                trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
            else:
                trial.suggest_float(key, values.low, values.high, log=values.log)
        return int(trial.number)

    def values(self, trial: int) -> dict[str, str]:
        """The values of a trial as text; numbers that are not whole have few digits."""
        values = {}
        for key, value in self.trials()[trial].params.items():
            choices = self.space[key]
            if not isinstance(choices, Range):
                values[key] = value
            elif is_whole(key):
                values[key] = str(value)
            else:
                values[key] = str(min(max(float(f"{value:.{DIGITS}g}"), choices.low), choices.high))
        return values

    def tell(self, trial: int, score: float | None) -> None:
        """End a trial with its score, or as failed."""
        import optuna

        self.study.tell(trial, score, state=optuna.trial.TrialState.FAIL if score is None else None)

    def describe(self) -> str:
        """What the search found, in Markdown, when trials are complete."""
        best = self.study.best_trial
        searched = ", ".join(
            f"`{key}` " + (f"from {values.low:g} to {values.high:g}" if isinstance(values, Range) else f"of {', '.join(values)}")
            for key, values in self.space.items()
        )
        found = ", ".join(f"`{key}={value}`" for key, value in self.values(best.number).items())
        return (
            f"A search of {len(self.completed())} trials over {searched}; its trials are the runs below it.\n\n"
            f"Best: trial {best.number + 1}, **{OBJECTIVE} {best.value:.4f}** with {found}. The best of many is somewhat too good."
        )

    def draw(self, folder: Path) -> None:
        """Draw the scores by trial, by the value of each parameter that has several, and, of three trials or more, the parameters'
        importances."""
        import matplotlib as mpl

        mpl.use("agg")
        import matplotlib.pyplot as plt
        from optuna.visualization import matplotlib as pictures

        completed = len(self.completed())
        varied = [key for key in self.space if len({trial.params[key] for trial in self.trials() if trial.value is not None}) > 1]
        drawn: dict[str, Any] = {"history": pictures.plot_optimization_history}
        if varied:
            drawn["slices"] = partial(pictures.plot_slice, params=varied)
        if completed > 2 and len(varied) > 1:
            drawn["importances"] = partial(pictures.plot_param_importances, params=varied)
        for name, draw in drawn.items() if completed else ():
            draw(self.study, target_name=OBJECTIVE)
            with whole_file(folder / f"{name}.png") as temporary:
                plt.gcf().savefig(temporary, dpi=120, format="png", bbox_inches="tight")
            plt.close("all")

    def log(self, folder: Path) -> None:
        """Log the search as an MLflow run with its pictures and its table of trials; its trials' runs become its children."""
        Tracking({}).attempt(lambda: self._log(folder))

    def _log(self, folder: Path) -> None:
        experiment = connect()
        import mlflow

        client = mlflow.MlflowClient()

        def find(condition: str) -> list[Any]:
            return list(mlflow.search_runs([experiment], condition, output_format="list"))

        runs = find(f"tags.search = '{self.name}'")
        options = {"run_id": runs[0].info.run_id} if runs else {"experiment_id": experiment, "run_name": self.name}
        with mlflow.start_run(**options) as run:
            mlflow.set_tags({"search": self.name, "sweep": self.name})
            if not runs:
                mlflow.log_params({key: str(values) for key, values in self.space.items()} | {"seed": self.seed})
            logged = {metric.step for metric in client.get_metric_history(run.info.run_id, "trial")}
            best = -float("inf")
            for trial in self.trials():
                if trial.value is not None:
                    best = max(best, trial.value)
                    if trial.number not in logged:
                        mlflow.log_metrics({"trial": trial.value, "best": best}, step=trial.number)
            if self.completed():
                mlflow.set_tag("mlflow.note.content", self.describe())
            mlflow.log_artifacts(str(folder), "search")
            for child in find(f"tags.sweep = '{self.name}'"):
                if child.info.run_id != run.info.run_id:
                    client.set_tag(child.info.run_id, "mlflow.parentRunId", run.info.run_id)
