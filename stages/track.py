"""Log the finished run to MLflow if that failed during training: `python -m stages.track`.

In: models/run.json, models/model.pt, data/cache, metrics. Running it again changes nothing.
"""

import sys

from poster_genres import errors, finished_run


def main() -> None:
    run_id = finished_run.complete()
    if run_id is None:
        sys.exit(1)
    print(f"MLflow run {run_id}")


if __name__ == "__main__":
    errors.run(main)
