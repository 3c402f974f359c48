"""Log the finished run to MLflow if that failed during training: `python -m stages.track`.

In: models/run.json, models/model.pt, data/cache, metrics. Running it again changes nothing. After the project's folder was moved or
copied, it lets MLflow's store find its artifacts, also before the first training.
"""

import sys

from poster_genres import errors, finished_run
from poster_genres.tracking import RUN, Tracking, connect


def main() -> None:
    if Tracking({}).attempt(connect) is None:
        sys.exit(1)
    if not RUN.is_file():
        print(f"{RUN}: not there yet, so there is no finished run to log; MLflow's store is in order")
        return
    said = finished_run.complete()
    if said is None:
        sys.exit(1)
    print(said)


if __name__ == "__main__":
    errors.run_stage(main)
