"""Work on many posters, spread over this machine's cores or over a Dask cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from joblib import cpu_count

from poster_genres.errors import InputError

Shard = TypeVar("Shard")
Result = TypeVar("Result")
# How many shards are handed out for each core: one at work, one that waits for it.
AHEAD = 2
# What hands out a shard, giving its future, and how many to hand out at a time.
Pool = tuple[Callable[..., Any], Callable[[], int]]


@contextmanager
def _cores(cores: int) -> Iterator[Pool]:
    # Threads: they share one copy of each network, start at once, and all that takes long here releases the GIL.
    executor = ThreadPoolExecutor(cores)
    try:
        yield executor.submit, lambda: AHEAD * cores
    finally:
        # Does not wait when interrupted: what runs ends with the process.
        executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _cluster(dask_scheduler: str) -> Iterator[Pool]:
    try:
        from distributed import Client, KilledWorker
        from distributed.client import FutureCancelledError
        from distributed.comm import CommClosedError
    except ImportError:
        raise InputError("dask_scheduler needs more packages: pip install -r requirements-dask.txt") from None
    try:
        client = Client(dask_scheduler, timeout=10)
    except (OSError, ValueError):
        raise InputError(f"params.yaml: dask_scheduler: no scheduler answers at {dask_scheduler}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=60)
        except TimeoutError:
            raise InputError(
                f"params.yaml: dask_scheduler: {dask_scheduler} has no workers; docs/many-machines.md tells how to start them"
            ) from None

        lost = InputError(f"params.yaml: dask_scheduler: the scheduler at {dask_scheduler} was lost; start it again")

        def submit(function: Callable[[Shard], Result], shard: Shard) -> Any:
            # Not `pure`, as that would compute a hash of each shard's content, to do equal ones once.
            return client.submit(function, shard, pure=False)

        def limit() -> int:
            # Asked again each time, as workers come and go; at least one, to wait for where all are lost.
            try:
                return AHEAD * max(1, sum(client.nthreads().values()))
            except OSError:  # not below, where it may be that of a shard
                raise lost from None

        try:
            yield submit, limit
        except (CommClosedError, FutureCancelledError):
            raise lost from None
        except KilledWorker:
            raise InputError(
                f"params.yaml: dask_scheduler: some posters ended several workers of {dask_scheduler}, as too little memory does; "
                "the workers' output may tell why"
            ) from None


def spread(
    function: Callable[[Shard], Result], shards: Iterable[Shard], dask_scheduler: str | None = None, cores: int | None = None
) -> Iterator[Result]:
    """What `function` makes of each shard, in the shards' order. Few are read ahead, and few results wait: memory stays the same.

    Parameters
    ----------
    function : of one shard; on a cluster both travel to a worker, in the project's folder, and so does its result back
    dask_scheduler : the address of a Dask cluster's scheduler, which has the shards of lost workers done by others; None: this
        machine's cores
    cores : how many of this machine's; None: all

    Raises
    ------
    InputError
        Dask is not installed, no scheduler answers, it has no workers, or is lost, or a shard ends its workers.
    """
    with _cores(cores or cpu_count()) if dask_scheduler is None else _cluster(dask_scheduler) as (submit, limit):
        waiting: deque[Any] = deque()
        for shard in shards:
            waiting.append(submit(function, shard))
            if len(waiting) >= limit():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
