"""A page for those who may see it: static assets and one websocket, on this machine alone unless asked.

Everything a page needs is read when the server is made; from then on no path leads from the network to a file. Where
the server is open to a network, who asks must have the token, which the printed link carries once.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import ipaddress
import logging
import mimetypes
import os
import re
import secrets
import socket
import threading
from collections import Counter, deque
from pathlib import Path
from types import TracebackType
from typing import Any

from alm_plugin.errors import AlmError, ParameterError
from alm_plugin.web.messages import App, encode, read

try:
    import segno
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route, WebSocketRoute
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.websockets import WebSocket, WebSocketDisconnect
except ImportError as error:
    raise AlmError(f"a page needs the live extra (pip install 'alm-plugin[live]'), got {error}") from None

logger = logging.getLogger("alm_plugin")

STATES_PER_S = 15.0
MAX_MESSAGE_BYTES = 1024
# Ten fingers on ten faders send less.
MESSAGES_PER_S = 300.0
# What is over is dropped, one per turn; a page that has been over for so many turns is not a page.
MAX_DROPPED = 300
# A tablet that has left the hall frees its place.
PING_INTERVAL_S = PING_TIMEOUT_S = 5.0
COOKIE_S = 7 * 24 * 3600

# Close codes of RFC 6455, 7.4.1.
_BROKEN = {1002: "broken message", 1007: "broken message", 1009: "message too large"}

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """A server for one page, in a thread of its own.

    Parameters
    ----------
    app : App
        The page, who answers it, and what it may ask; for instance `alm_plugin.web.console.console`.
    port : int, optional
        0 to 65535; 0, the default, takes any that is free.
    lan : bool or str
        False for this machine alone. True for everyone who can reach it and has the token; an address, like
        ``"192.168.1.5"``, for everyone who can reach that one.
    token : str, optional
        For a network: the token to ask for, at least 22 letters, digits, ``-`` or ``_``; a random one if None. A server
        that is started again with the same port and token is found again by its pages.
    max_clients : int
        Pages at a time, > 0.

    Attributes
    ----------
    counts : collections.Counter
        How often something was refused or failed, by what.

    Raises
    ------
    ParameterError
        For values outside their range.

    Examples
    --------
    >>> from alm_plugin.web.console import console
    >>> with Page(console(supervisor)) as page:  # doctest: +SKIP
    ...     print(page.url)
    http://127.0.0.1:40937/
    """

    def __init__(
        self,
        app: App,
        *,
        port: int = 0,
        lan: bool | str = False,
        token: str | None = None,
        max_clients: int = 8,
    ) -> None:
        if not isinstance(port, int) or not 0 <= port <= 65535:
            raise ParameterError(f"port must be in [0, 65535], got {port!r}")
        if not isinstance(max_clients, int) or max_clients < 1:
            raise ParameterError(f"max_clients must be positive, got {max_clients!r}")
        if token is not None and not re.fullmatch(r"[\w-]{22,}", token, re.ASCII):
            raise ParameterError("token must be at least 22 letters, digits, - or _, got another")
        if isinstance(lan, str) and not _is_address(lan):
            raise ParameterError(f"lan must be True, False or an address of this machine, got {lan!r}")
        self._app = app
        self._assets = _load_assets()
        if app.index not in self._assets:
            raise ParameterError(f"index must be one of {', '.join(sorted(self._assets))}, got {app.index!r}")
        self._port = port
        self._lan = lan
        self._token = (token or secrets.token_urlsafe(24)) if lan else None
        self._max_clients = max_clients
        self.counts: Counter[str] = Counter()
        self._clients: set[_Client] = set()
        self._hello = ""
        self._strips = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._address = ("", 0)

    # ---- from outside ------------------------------------------------------------------------------------------

    def start(self) -> Page:
        """Begin to serve, and return this page.

        Raises
        ------
        ParameterError
            When the port is taken or the address is not this machine's.
        """
        if self._thread is not None:
            raise ParameterError(f"page must be stopped to be started, got one at {self.url}")
        host = self._lan if isinstance(self._lan, str) else "0.0.0.0" if self._lan else "127.0.0.1"  # noqa: S104
        self._describe()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, self._port), family=family)
        except OSError as error:
            raise ParameterError(
                f"page needs {host} port {self._port} free, got {os.strerror(error.errno or 0).lower()}"
            ) from None
        # Accepted sockets inherit both. What a flood brings at once is parsed in one go; states that wait in a buffer
        # for a slow network would be shown long after their time.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        self._address = (_own_address() if self._lan is True else host, listener.getsockname()[1])
        routes = [
            Route("/", self._asset),
            Route("/{name:path}", self._asset),
            WebSocketRoute("/live", self._live),
        ]
        config = uvicorn.Config(
            self._guard(Starlette(routes=routes)),
            loop="asyncio",
            http="h11",
            ws="websockets-sansio",
            lifespan="off",
            log_config=None,
            log_level="critical",  # it would tell of every stranger
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,  # a small message could grow without end
            ws_ping_interval=PING_INTERVAL_S,
            ws_ping_timeout=PING_TIMEOUT_S,
            limit_concurrency=64 + self._max_clients,
            h11_max_incomplete_event_size=16384,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        # The socket already listens: who comes before the thread runs waits.
        self._thread = threading.Thread(target=self._run, args=(self._server, listener), name="alm-page", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close all connections and end the thread; without effect when it does not run."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = self._thread = None

    def __enter__(self) -> Page:
        return self.start()

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The link to the page, with the token where one is needed.

        Raises
        ------
        ParameterError
            Before `start`.
        """
        host, port = self._address
        if not port:
            raise ParameterError("page must be started to have a url, got one that is not")
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}/" + (f"?token={self._token}" if self._token else "")

    @property
    def token(self) -> str | None:
        """What is asked for on a network; None on this machine alone."""
        return self._token

    @property
    def clients(self) -> int:
        """How many pages are connected."""
        return len(self._clients)

    def qr(self) -> str:
        """Draw `url` as a QR code, in text for a dark terminal."""
        out = io.StringIO()
        segno.make(self.url, error="m", micro=False).terminal(out, border=2, compact=True)
        return out.getvalue()

    def qr_svg(self) -> str:
        """Draw `url` as a QR code, as an SVG element."""
        return segno.make(self.url, error="m", micro=False).svg_inline(scale=4, dark="#000", light="#fff")

    # ---- who may come in ---------------------------------------------------------------------------------------

    def _guard(self, app: ASGIApp) -> ASGIApp:
        async def guard(scope: Scope, receive: Receive, send: Send) -> None:
            asked = HTTPConnection(scope)
            refusal = self._refusal(asked)
            if refusal is None:
                await app(scope, receive, send)
                return
            reason, text = refusal
            self.counts[reason] += 1
            await PlainTextResponse(f"{text}\n", 403, _HEADERS)(scope, receive, send)

        return guard

    def _refusal(self, asked: HTTPConnection) -> tuple[str, str] | None:
        # Whatever name a stranger's page gives this machine (DNS rebinding), it is none of ours: it has no way to an
        # address, nor to localhost.
        host = asked.headers.get("host", "").lower()
        named = re.fullmatch(r"(?:([\w.-]+)|\[([\da-f:.]+)\])(?::\d+)?", host, re.ASCII)
        name = (named[1] or named[2]) if named else ""
        own = {"localhost", "127.0.0.1", "::1"}
        if self._lan:
            machine = socket.gethostname().lower()
            own |= {machine, f"{machine}.local"}
        if name not in own and not (self._lan and _is_address(name)):
            return "host refused", "This page is not known by that name."
        # Browsers name the page that opens a websocket.
        if asked.scope["type"] == "websocket" and asked.headers.get("origin", "").lower() != f"http://{host}":
            return "origin refused", "Only its own page may open this connection."
        if self._token and not any(
            secrets.compare_digest(offered.encode(), self._token.encode())
            for offered in (asked.query_params.get("token", ""), asked.cookies.get(self._cookie, ""))
        ):
            return "token refused", "This page needs the whole link: scan the QR code again."
        return None

    @property
    def _cookie(self) -> str:
        return f"alm-{self._address[1]}"  # a browser keeps cookies by machine, not by port

    # ---- what it sees ------------------------------------------------------------------------------------------

    async def _asset(self, request: Request) -> Response:
        name = request.path_params.get("name", self._app.index)
        if name not in self._assets:
            return PlainTextResponse("Not found.\n", 404, _HEADERS)
        content, kind = self._assets[name]
        # Not all browsers take a websocket for 'self'. The host has been checked.
        host = request.headers["host"]
        policy = (
            f"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src 'self'; "
            f"style-src 'self'; img-src 'self'; connect-src 'self' ws://{host}; require-trusted-types-for 'script'"
        )
        response = Response(content, headers=_HEADERS | {"Content-Security-Policy": policy}, media_type=kind)
        if self._token and "token" in request.query_params:
            response.set_cookie(self._cookie, self._token, max_age=COOKIE_S, httponly=True, samesite="strict")
        return response

    async def _live(self, websocket: WebSocket) -> None:
        await websocket.accept()
        if len(self._clients) >= self._max_clients:
            self.counts["too many pages"] += 1
            await websocket.send_text(encode({"type": "full", "text": f"{self._max_clients} pages are open already."}))
            return
        client = _Client(websocket)
        self._clients.add(client)
        self._describe_again()
        client.greet(self._hello)
        tasks = [asyncio.create_task(self._listen(client)), asyncio.create_task(client.tell())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clients.discard(client)
            for task in tasks:
                task.cancel()
            for end in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(end, Exception) and not isinstance(end, WebSocketDisconnect | RuntimeError):
                    self._failed(end)

    async def _listen(self, client: _Client) -> None:
        loop = asyncio.get_running_loop()
        allowed, then, dropped = MESSAGES_PER_S, loop.time(), 0
        while True:
            message = await client.websocket.receive()
            if message["type"] == "websocket.disconnect":
                if message.get("code") in _BROKEN:
                    self.counts[_BROKEN[message["code"]]] += 1
                return
            now = loop.time()
            allowed, then = min(allowed + (now - then) * MESSAGES_PER_S, MESSAGES_PER_S), now
            if allowed < 1.0:
                self.counts["message too soon"] += 1
                dropped += 1
                client.heard += 1
                if dropped == 1:
                    client.complain(f"messages must be at most {MESSAGES_PER_S:g} per second, got more")
                elif dropped >= MAX_DROPPED:
                    self.counts["flood ended"] += 1
                    return  # without farewell: to wait for an answer would be to read on
                # While this page waits it is not read from, and all others have their turn.
                await asyncio.sleep(1.0 / MESSAGES_PER_S)
                continue
            allowed -= 1.0
            if allowed > MESSAGES_PER_S / 2.0:
                dropped = 0
            self._answer(client, message.get("text"))

    def _answer(self, client: _Client, text: str | None) -> None:
        try:
            if text is None:
                raise ParameterError("message must be text, got bytes")
            name, strip, value = read(text, self._app.commands, self._strips)
            self._app.owner.command(name, strip, value)
        except ParameterError as error:
            self.counts["message refused"] += 1
            client.complain(str(error))
        except Exception as error:  # whatever happens there, the page and its server go on
            self._failed(error)
            client.complain("the mixer could not do that")
        client.heard += 1

    # ---- what it is told ---------------------------------------------------------------------------------------

    def _run(self, server: uvicorn.Server, listener: socket.socket) -> None:
        async def serve() -> None:
            telling = asyncio.create_task(self._tell())
            try:
                await server.serve(sockets=[listener])
            finally:
                telling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await telling

        asyncio.run(serve())

    async def _tell(self) -> None:
        turn = 0
        while True:
            if self._clients:
                if turn % STATES_PER_S == 0:
                    self._describe_again()
                try:
                    state = encode(self._with_faults(self._app.owner.state()))
                except Exception as error:  # pages that hear nothing say so; the next turn may be better
                    self._failed(error)
                else:
                    for client in self._clients:
                        client.offer(state)
            turn += 1
            await asyncio.sleep(1.0 / STATES_PER_S)

    def _with_faults(self, state: dict[str, Any]) -> dict[str, Any]:
        """Add to the owner's state what happened here."""
        if not self.counts["flood ended"]:
            return state
        flood = {"text": "a page that sent too much was closed", "count": self.counts["flood ended"]}
        return state | {"faults": [*state.get("faults", ()), flood]}

    def _describe(self) -> bool:
        about = self._app.owner.describe()
        hello = f'{{"type":"hello","about":{encode(about)}}}'
        changed, self._hello = hello != self._hello, hello
        self._strips = len(about.get("strips", ()))
        return changed

    def _describe_again(self) -> None:
        try:
            changed = self._describe()
        except Exception as error:  # what was said last holds
            self._failed(error)
            return
        if changed:  # channels may come and go
            for client in self._clients:
                client.greet(self._hello)

    def _failed(self, error: Exception) -> None:
        self.counts["owner failed"] += 1
        if self.counts["owner failed"] == 1:
            logger.error("the page's owner failed: %s", error, exc_info=error)


class _Client:
    """One page: what it is still to be told. A slow one misses states, and holds up nobody."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.heard = 0  # messages of this page that took effect, or never will
        self._hello: str | None = None
        self._state: str | None = None
        self._errors: deque[str] = deque(maxlen=16)
        self._news = asyncio.Event()

    def greet(self, hello: str) -> None:
        self._hello, self._state = hello, None  # the state is one of other strips
        self._news.set()

    def complain(self, text: str) -> None:
        self._errors.append(encode({"type": "error", "text": text}))
        self._news.set()

    def offer(self, state: str) -> None:
        self._state = f'{{"type":"state","heard":{self.heard},"state":{state}}}'
        self._news.set()

    async def tell(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._hello is not None:
                hello, self._hello = self._hello, None
                await self.websocket.send_text(hello)
            while self._errors:
                await self.websocket.send_text(self._errors.popleft())
            if self._state is not None:
                state, self._state = self._state, None
                await self.websocket.send_text(state)


def _load_assets() -> dict[str, tuple[bytes, str]]:
    kinds = {".js": "text/javascript", ".svg": "image/svg+xml"}  # on Windows the registry decides otherwise
    return {
        path.name: (
            path.read_bytes(),
            kinds.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        )
        for path in (Path(__file__).parent / "static").iterdir()
        if path.is_file()
    }


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _own_address() -> str:
    """Address of this machine that a network knows, or its name if it has none: nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for far in ("192.0.2.1", "10.255.255.255", "192.168.255.255"):
            with contextlib.suppress(OSError):
                probe.connect((far, 9))
                return probe.getsockname()[0]
    return f"{socket.gethostname()}.local"
