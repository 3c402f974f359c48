"""What the page of `python -m stages.demo` asks for, and the answers: a poster's genres, its words, and what speaks for each genre.

The page is demo.html, demo.css and demo.js; it gets nothing from any other host. Posters come as the whole body of a request.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from poster_genres.captions import COUNTS
from poster_genres.errors import InputError
from poster_genres.explanations import explain, logits_by_object
from poster_genres.posters import Unreadable, data_url, upright
from poster_genres.prediction import READABLE, Prediction, Predictor

PAGE = {"": "text/html", "demo.css": "text/css", "demo.js": "text/javascript"}
MAX_BYTES = 20_000_000
# So many genres have bars and an explanation.
SHOWN = 10
# Width and height in which a poster is shown, at most; large enough for a dense screen.
PICTURE = (720, 1080)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    # Pictures are drawn from what the page holds itself: dropped files (blob:) and answers (data:).
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

Result = TypeVar("Result")
# A poster's file; its movie's ID, title and year on one line; and its true genres.
TestPoster = tuple[bytes, str, list[str]]


class Refused(Exception):
    """A request is not answered; the message is a sentence for the person who looks at the page."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def host_of(address: str) -> str:
    """The name in a header Host, or in an Origin without its scheme: `localhost` of `localhost:8000`. Empty if it is none."""
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


class Guard:
    """Refuses what other web pages send, and adds `HEADERS` to each answer.

    A page of another site may send requests to this machine, and a name of its own may lead here (DNS rebinding): its requests say
    so in Origin and Host.

    Parameters
    ----------
    hosts : the names that the page may be asked for under; None for any
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        own = [None, f"http://{host}"] + ([f"https://{host}"] if self.hosts is None else [])  # a proxy may speak TLS for it
        if (self.hosts is not None and host_of(host) not in self.hosts) or origin not in own:
            response = JSONResponse({"error": "This page answers only to itself, under the address that its command printed."}, 403)
            await response(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)


async def read_body(request: Request) -> bytes:
    """The body of a request.

    Raises
    ------
    Refused
        It is larger than `MAX_BYTES`, of which no more is kept in memory.
    """
    refused = Refused(413, f"This file is larger than {MAX_BYTES // 1_000_000} MB; give a smaller one.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BYTES:
        raise refused
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise refused
    return bytes(data)


def reason_of(unreadable: str) -> str:
    """A sentence that says why a poster cannot be read, from the reason that the predictor gives."""
    hint = f"; {READABLE}" if unreadable == "not an image" else ""
    return f"This file cannot be read: {unreadable}{hint}."


def picture_of(data: bytes) -> str:
    """A poster of any format as a JPEG for the page, no larger than `PICTURE`."""
    image = upright(data, PICTURE)
    image.thumbnail(PICTURE)
    return data_url(image, "jpeg")


def answer(predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
    """What the page shows of a prediction: all genres, the most probable first, and what was read and found on the poster."""
    model, content = predictor.model, prediction.content
    assert model.thresholds is not None
    detections = [] if content is None else content.objects
    added = np.zeros((0, len(model.genres)), np.float32) if content is None else logits_by_object(model, content)
    verdict = predictor.verdict(prediction)
    genres = [
        {
            "genre": model.genres[i],
            "probability": float(prediction.probabilities[i]),
            "threshold": float(model.thresholds[i]),
            "chosen": model.genres[i] in verdict,
            "added": [round(float(logit), 3) for logit in added[:, i]],
        }
        for i in likeliest(prediction)
    ]
    return {"verdict": verdict, "genres": genres, "found": [detection._asdict() for detection in detections]}


def likeliest(prediction: Prediction) -> list[int]:
    """The genres' columns, the most probable first."""
    order: list[int] = np.argsort(-prediction.probabilities, kind="stable").tolist()
    return order


def maps_of(predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
    """What in the picture speaks for the `SHOWN` likeliest genres.

    Returns
    -------
    `maps`: a grey PNG of one map under the other, all on one scale on which `top` is white; `height` and `width` of each; `peaks`:
    each map's largest value, in logits.
    """
    genres = likeliest(prediction)[:SHOWN]
    maps = explain(predictor.model, prediction.pixels, genres, predictor.device)
    top = max(float(maps.max()), 1e-6)
    grey = Image.fromarray((maps.reshape(-1, maps.shape[2]) / top * 255).round().astype(np.uint8))
    peaks = [round(float(each.max()), 3) for each in maps]
    return {"maps": data_url(grey, "png"), "top": top, "height": maps.shape[1], "width": maps.shape[2], "peaks": peaks}


class Demo:
    """The page and its answers.

    Parameters
    ----------
    predictor : loaded
    test_poster : gives a random poster of the test set; None before there is one
    """

    def __init__(self, predictor: Predictor, test_poster: Callable[[], TestPoster] | None) -> None:
        self.predictor, self.test_poster = predictor, test_poster
        # One poster at a time, beside the thread that answers.
        self.worker = ThreadPoolExecutor(1)

    async def compute(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.worker, partial(function, *arguments))

    def predict(self, data: bytes) -> tuple[Prediction, dict[str, Any]]:
        """Predict one poster.

        Raises
        ------
        Refused
            It cannot be read.
        """
        started = time.perf_counter()
        (result,) = self.predictor.predict([data])
        if isinstance(result, str):
            raise Refused(422, reason_of(result))
        found = answer(self.predictor, result)
        seconds = time.perf_counter() - started
        try:
            return result, found | {"picture": picture_of(data), "seconds": round(seconds, 3)}
        except Unreadable as error:
            raise Refused(422, reason_of(str(error))) from None

    def explain(self, prediction: Prediction) -> dict[str, Any]:
        started = time.perf_counter()
        return maps_of(self.predictor, prediction) | {"seconds": round(time.perf_counter() - started, 3)}

    async def answer(self, data: bytes, **more: object) -> Response:
        """Two lines of JSON: the prediction as soon as it is there, then the maps, which take as long again."""
        prediction, first = await self.compute(self.predict, data)

        async def lines() -> AsyncIterator[str]:
            yield json.dumps(first | more) + "\n"
            yield json.dumps(await self.compute(self.explain, prediction)) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def poster(self, request: Request) -> Response:
        return await self.answer(await read_body(request))

    async def test(self, request: Request) -> Response:
        if self.test_poster is None:
            raise Refused(404, "There is no test set here yet; `dvc repro` makes it.")
        data, title, genres = await self.compute(self.test_poster)
        return await self.answer(data, title=title, truth=genres)

    async def about(self, request: Request) -> Response:
        model = self.predictor.model
        return JSONResponse(
            {
                "genres": model.genres,
                "shown": min(SHOWN, len(model.genres)),
                "reads": model.words is not None,
                "counts": COUNTS,
                "max_bytes": MAX_BYTES,
                "test": self.test_poster is not None,
            }
        )


async def refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, error.status if isinstance(error, Refused) else 500)


async def leave(request: Request, error: Exception) -> Response:
    """The page went away before all of a poster had come; nobody reads this."""
    return Response(status_code=400)


def application(
    predictor: Predictor, test_poster: Callable[[], TestPoster] | None, hosts: tuple[str, ...] | None = LOOPBACK
) -> ASGIApp:
    """The application to be served; see `Demo` and `Guard`. Only three files can be got, which are read here."""
    demo = Demo(predictor, test_poster)

    def file(name: str, kind: str) -> Route:
        response = Response(Path(__file__).with_name(name or "demo.html").read_bytes(), media_type=kind)

        async def get(request: Request) -> Response:
            return response

        return Route(f"/{name}", get)

    routes = [
        *(file(name, kind) for name, kind in PAGE.items()),
        Route("/about", demo.about),
        Route("/posters", demo.poster, methods=["POST"]),
        Route("/test-posters", demo.test, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={Refused: refuse, InputError: refuse, ClientDisconnect: leave})
    return Guard(app, hosts)
