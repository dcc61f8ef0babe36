"""The server of the pages: a token in the link, loopback unless asked otherwise, nothing fetched.

Every request but the first is known by a cookie that the link sets; what changes something must
be JSON and come from the page itself.
"""

import asyncio
import contextlib
import hmac
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from factory.core.errors import FactoryError, InputError
from factory.core.plain import write_json
from factory.publish.review.desk import Desk, parse_json

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MOST_BYTES = 1 << 20
"""Of a request."""
PAGES = {
    "style.css": "text/css",
    "review.js": "text/javascript",
    "watch.js": "text/javascript",
}
"""All files that are served by name."""
TITLES = {"review": "Look at images", "watch": "A run"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Watch = Callable[[], Mapping[str, Any]]
Newest = Callable[[str], tuple[bytes, str]]


def read_page(name: str) -> str:
    """Returns the text of a file of the pages."""
    return (files("factory.publish.review") / "page" / name).read_text(encoding="utf-8")


def build_page(name: str) -> str:
    """Returns one of the pages TITLES, whole."""
    main = read_page(f"{name}.html")
    return Template(read_page("frame.html")).substitute(title=TITLES[name], name=name, main=main)


class Server:
    """Serves the pages of one run folder from a thread of its own.

    Args:
        desk: what is looked at; None: there is only the page that watches.
        watch: gives what the page that watches shows; None: there is none.
        newest: sample id -> an image that it shows, and its media type.
        host: address to listen at.
        port: 0: one that is free.
    """

    def __init__(
        self,
        desk: Desk | None,
        watch: Watch | None = None,
        newest: Newest | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.desk, self.watch, self.newest = desk, watch, newest
        self.host, self.port = host, port
        self.token = secrets.token_urlsafe(24)
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The link, token and all."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?token={self.token}"

    def start(self) -> "Server":
        """Begins to listen.

        Raises:
            InputError: the port is taken, or the host is none of this machine.
        """
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        except OSError as error:
            self.close()
            raise InputError(
                f"{self.host}:{self.port}: cannot be listened at ({error.strerror}): give another "
                "--port, or --host"
            ) from error
        return self

    def close(self) -> None:
        """Stops; what was answered is saved already."""
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._thread = self._runner = None

    @contextlib.contextmanager
    def open(self) -> Iterator["Server"]:
        """Serves inside of a `with`."""
        self.start()
        try:
            yield self
        finally:
            self.close()

    async def _listen(self) -> None:
        self._runner = web.AppRunner(self._build(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        server: Any = site._server
        self.port = int(server.sockets[0].getsockname()[1])

    def _build(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BYTES)
        app.add_routes([web.get("/", self._show_first), web.get("/page/{name}", self._show_file)])
        if self.watch is not None:
            app.add_routes(
                [
                    web.get("/watch", self._show_watch),
                    web.get("/api/watch", self._tell_watch),
                    web.get("/newest/{sample:[0-9a-f]{32}}", self._show_newest),
                ]
            )
        if self.desk is not None:
            app.add_routes(
                [
                    web.get("/image/{case:[0-9a-f]{16}}/{side:[01]}", self._show_image),
                    web.get("/api/reading", self._tell_reading),
                    web.post("/api/enter", self._enter),
                    web.post("/api/answer", self._take),
                ]
            )
        return app

    @property
    def _cookie(self) -> str:
        return f"factory_{self.port}"

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets in who has the token, from this page; errors are words, and leak no more."""
        try:
            self._check(request)
            if "token" in request.query:
                found: web.StreamResponse = web.Response(status=303, headers={"Location": "/"})
                found.set_cookie(
                    self._cookie, self.token, httponly=True, samesite="Strict", path="/"
                )
            else:
                found = await handler(request)
        except web.HTTPException as error:
            found = web.Response(status=error.status, text=error.text)
        except InputError as error:
            found = _say(400, str(error))
        except FactoryError as error:
            found = _say(500, str(error))
        found.headers.update(HEADERS)
        return found

    def _check(self, request: web.Request) -> None:
        """Refuses other names of this machine, requests of other pages, and a wrong token.

        Raises:
            HTTPForbidden: says which.
        """
        name = urlsplit(f"//{request.host}").hostname or ""
        if self.host in LOOPBACK and name not in LOOPBACK:
            raise web.HTTPForbidden(text="reached by a name that is not this machine's")
        if request.method == "POST":
            origin = request.headers.get("Origin")
            if origin is not None and urlsplit(origin).netloc != request.host:
                raise web.HTTPForbidden(text="asked by another page")
            if request.content_type != "application/json":
                raise web.HTTPForbidden(text="want application/json")
        given = request.query.get("token") or request.cookies.get(self._cookie) or ""
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPForbidden(text="open the link that the command printed: it holds a token")

    async def _show_first(self, request: web.Request) -> web.StreamResponse:
        name = "watch" if self.desk is None else "review"
        return web.Response(text=build_page(name), content_type="text/html")

    async def _show_watch(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=build_page("watch"), content_type="text/html")

    async def _show_file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in PAGES:
            raise web.HTTPNotFound
        return web.Response(text=read_page(name), content_type=PAGES[name])

    async def _tell_watch(self, request: web.Request) -> web.StreamResponse:
        assert self.watch is not None
        return _tell(await asyncio.to_thread(self.watch))

    async def _show_newest(self, request: web.Request) -> web.StreamResponse:
        assert self.newest is not None
        found = await asyncio.to_thread(self.newest, request.match_info["sample"])
        return web.Response(body=found[0], content_type=found[1])

    async def _show_image(self, request: web.Request) -> web.StreamResponse:
        case, side = request.match_info["case"], int(request.match_info["side"])
        data, media = await asyncio.to_thread(self._find_desk().read_image, case, side)
        return web.Response(body=data, content_type=media)

    async def _tell_reading(self, request: web.Request) -> web.StreamResponse:
        return _tell(self._find_desk().describe())

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        given = parse_json(await request.read())
        return _tell(await asyncio.to_thread(self._find_desk().enter, given))

    async def _take(self, request: web.Request) -> web.StreamResponse:
        given = parse_json(await request.read())
        if not isinstance(given, dict) or not isinstance(given.get("reader"), int):
            raise InputError("want reader and answer")
        take = self._find_desk().take
        return _tell({"new": await asyncio.to_thread(take, given["reader"], given.get("answer"))})

    def _find_desk(self) -> Desk:
        if self.desk is None:
            raise web.HTTPNotFound
        return self.desk


def _tell(value: Mapping[str, Any]) -> web.Response:
    return web.Response(text=write_json(value, indent=None), content_type="application/json")


def _say(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
