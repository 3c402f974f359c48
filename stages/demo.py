"""Open a page that tells the genres of posters dropped onto it, and what on them speaks for each: `python -m stages.demo`.

In: models/model.pt, or before the first training models/real_posters.pt; for test posters also data/movies.csv and the posters of
`dataset`. Out: a page at the address that is printed, for this machine only, until Ctrl-C.
"""

import argparse
import os
import socket
import webbrowser
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from poster_genres import errors
from poster_genres.errors import InputError
from stages.predict import random_poster, read_poster

if TYPE_CHECKING:
    from poster_genres.demo import TestPoster


def parse() -> argparse.Namespace:
    description = "Open a page that tells movies' genres from the posters that are dropped onto it."
    parser = errors.Parser(prog="python -m stages.demo", description=description)
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    parser.add_argument("--port", type=int, default=8000, help="(8000)")
    parser.add_argument("--host", default="127.0.0.1", help="(127.0.0.1) 0.0.0.0 lets all who reach this machine use the page")
    parser.add_argument(
        "--model",
        type=Path,
        help="the model file, or models:/… in MLflow (models/model.pt, before the first training models/real_posters.pt)",
    )
    return parser.parse_args()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port in use is said before a model is loaded.

    Raises
    ------
    InputError
        The address cannot be listened on.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        # What socket says of it is longer.
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno and error.errno > 0 else str(error)
        raise InputError(f"{host}, port {port}: {reason}; another can be given with --port") from None


def test_poster() -> "TestPoster":
    poster, title, genres = random_poster()
    return read_poster(poster), title, genres


def main() -> None:
    arguments = parse()
    listening = listen(arguments.host, arguments.port)

    import torch
    import uvicorn

    from poster_genres.demo import LOOPBACK, application
    from poster_genres.devices import prepare
    from poster_genres.prediction import Predictor, choose_model

    device = prepare()
    # One poster's steps are too small to be shared out: waiting for other threads takes longer, on a busy machine many times.
    torch.set_num_threads(1)
    predictor = Predictor(choose_model(arguments.model), device)
    predictor.prepare()
    hosts = LOOPBACK if arguments.host in LOOPBACK else None
    app = application(predictor, test_poster if Path("data/movies.csv").is_file() else None, hosts)
    # More requests than these wait for nothing: each may hold a poster in memory.
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", server_header=False, limit_concurrency=32, timeout_graceful_shutdown=1)
    )
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    address = f"http://{host}:{listening.getsockname()[1]}"
    print(f"{address} tells the genres of posters, until Ctrl-C", flush=True)
    if not arguments.no_browser:
        Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


if __name__ == "__main__":
    errors.run(main)
