import http.client
import json
import re
import socket
import threading
from contextlib import contextmanager, suppress
from itertools import pairwise
from urllib.parse import urlsplit

import pytest
import segno
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from alm_plugin.errors import ParameterError
from alm_plugin.web import server
from alm_plugin.web.console import console
from alm_plugin.web.server import Page

TOKEN = "a-token-of-twenty-two-characters"


def get(page, path="/", host=None, cookie=None, method="GET"):
    """Status, headers and body; the path goes out as it is."""
    port = urlsplit(page.url).port
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    link.putrequest(method, path, skip_host=True)
    link.putheader("Host", host or f"127.0.0.1:{port}")
    if cookie:
        link.putheader("Cookie", cookie)
    link.endheaders()
    answer = link.getresponse()
    body = answer.read().decode()
    link.close()
    return answer.status, answer.headers, body


@contextmanager
def live(page, origin=None, host=None, query="", headers=None, **options):
    port = urlsplit(page.url).port
    host = host or f"127.0.0.1:{port}"
    with (
        socket.create_connection(("127.0.0.1", port)) as sock,
        connect(
            f"ws://{host}/live{query}",
            sock=sock,
            origin=origin or f"http://{host}",
            additional_headers=headers,
            compression=None,
            proxy=None,
            close_timeout=1,
            **options,
        ) as link,
    ):
        yield link


def ask(link, name, strip, value):
    link.send(json.dumps({"name": name, "strip": strip, "value": value}))


def until(link, kind, true=lambda said: True):
    """Next message of a kind of which something is true."""
    while True:
        said = json.loads(link.recv(timeout=20))
        if said["type"] == kind and true(said):
            return said


# ---- the assets ------------------------------------------------------------------------------------------------------


def test_the_page_and_all_it_asks_for_is_served_and_nothing_is_inline(local):
    status, headers, body = get(local)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert re.findall(r"<script(?! type=\"module\" src=\"\w+\.js\"></script>)|<style|\son\w+=|\sstyle=", body) == []
    wanted = set(re.findall(r"(?:src|href)=\"([^\"]+)\"", body))
    kinds = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    seen = set()
    while wanted - seen:
        name = (wanted - seen).pop()
        seen.add(name)
        status, headers, body = get(local, f"/{name}")
        assert (status, headers["Content-Type"]) == (200, kinds[name.rpartition(".")[2]])
        wanted |= set(re.findall(r"from \"\./([^\"]+)\"", body))
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", body)
    assert len(seen) > 5


@pytest.mark.parametrize(
    "path",
    ["/server.py", "/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "//etc/passwd", "/static/console.js",
     "/live", "/console.html/", "/console.js%00", "/.", "/~", "/presets/models"],
)  # fmt: skip
def test_no_other_path_leads_anywhere(local, path):
    status, _, body = get(local, path)
    assert status == 404
    assert body == "Not found.\n"


def test_assets_are_only_read(local):
    assert get(local, method="POST")[0] == 405
    assert get(local, method="PUT", path="/console.js")[0] == 405
    assert get(local, method="HEAD")[::2] == (200, "")


# ---- who may come in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.5",
             "127.0.0.1@evil.example", "", "[::1", "127.0.0.1;script-src", "[::1%25*]"],
)  # fmt: skip
def test_another_name_is_refused(local, host):
    before = local.counts["host refused"]
    assert get(local, host=host or " ")[0] == 403
    assert local.counts["host refused"] == before + 1


def test_another_name_is_refused_even_where_all_agree_on_it(local):
    # DNS rebinding: the browser takes this machine for the stranger's own.
    with pytest.raises(InvalidStatus, match="403"), live(local, host="evil.example"):
        pass


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_names_of_this_machine_are_known(local, host):
    status, headers, _ = get(local, host=host)
    assert status == 200
    assert f"ws://{host.lower()};" in headers["Content-Security-Policy"].lower()


def test_only_its_own_page_opens_the_connection(local):
    port = urlsplit(local.url).port
    for origin in ("http://evil.example", f"https://127.0.0.1:{port}", f"http://localhost:{port}", "null",
                   f"http://127.0.0.1:{port + 1}", f"http://127.0.0.1:{port}.evil.example"):  # fmt: skip
        with pytest.raises(InvalidStatus, match="403"), live(local, origin=origin):
            pass
    before = local.counts["origin refused"]
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
    link.request("GET", "/live", headers=upgrade)
    assert link.getresponse().status == 403
    link.close()
    assert local.counts["origin refused"] == before + 1


def test_a_network_needs_the_token(lan):
    for path in (
        "/",
        "/console.js",
        "/?token=",
        f"/?token={lan.token[:-1]}",
        f"/?token={lan.token}x",
        "/?token=%C3%A4",
    ):
        status, _, body = get(lan, path)
        assert (status, body) == (403, "This page needs the whole link: scan the QR code again.\n")
    for cookie in (f"alm-1={lan.token}", f"alm-{urlsplit(lan.url).port}=wrong"):
        assert get(lan, cookie=cookie)[0] == 403
    with pytest.raises(InvalidStatus, match="403"), live(lan):
        pass
    assert lan.counts["token refused"] == 9


def test_the_link_carries_the_token_once_then_a_cookie_does(lan):
    parts = urlsplit(lan.url)
    assert len(lan.token) == 32
    assert parts.query == f"token={lan.token}"
    status, headers, _ = get(lan, f"/?{parts.query}")
    assert status == 200
    cookie, *kind = headers["Set-Cookie"].split("; ")
    assert set(kind) == {"HttpOnly", "Path=/", "SameSite=strict", f"Max-Age={server.COOKIE_S}"}
    status, headers, _ = get(lan, cookie=cookie)
    assert status == 200
    assert headers["Set-Cookie"] is None
    with live(lan, headers={"Cookie": cookie}) as link:
        assert until(link, "hello")
    with live(lan, query=f"?token={lan.token}") as link:
        assert until(link, "hello")


def test_on_a_network_addresses_and_its_own_name_are_known(lan):
    for host in ("192.168.1.5:8000", "[fe80::1]", socket.gethostname(), f"{socket.gethostname()}.local:80"):
        assert get(lan, f"/?token={lan.token}", host=host)[0] == 200
    assert get(lan, f"/?token={lan.token}", host="evil.example")[0] == 403


def test_this_machine_alone_hears_it_unless_asked(local, lan):
    # Connecting by another address of this machine shows where each listens.
    other = ("127.0.0.2", urlsplit(local.url).port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(other, timeout=10)
    socket.create_connection(("127.0.0.2", urlsplit(lan.url).port), timeout=10).close()
    assert local.token is None
    assert "token" not in local.url


def test_the_qr_code_is_that_of_the_link(lan):
    # Half blocks, light on a dark terminal: upper and lower module of each column.
    shown = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
    pairs = [[shown[half] for half in line] for line in lan.qr().splitlines()]
    rows = [[pair[k] for pair in line] for line in pairs for k in (0, 1)]
    matrix = [list(row) for row in segno.make(lan.url, error="m", micro=False).matrix]
    assert [row[2:-2] for row in rows[2 : 2 + len(matrix)]] == matrix
    assert lan.qr_svg().startswith("<svg")


# ---- what a page is told and asks ------------------------------------------------------------------------------------


def test_it_hears_who_plays_and_then_how(serve, make_band):
    band = make_band(3)
    with live(serve(band)) as link:
        about = json.loads(link.recv(timeout=20))
        assert about["type"] == "hello"
        assert [strip["name"] for strip in about["about"]["strips"]] == band.names
        said = until(link, "state")
        assert said["heard"] == 0
        assert len(said["state"]["strips"]) == 3
        band.mute = [True] * 3
        assert until(link, "state", lambda said: said["state"]["mix"]["peak_db"] == [None, None])


def test_commands_arrive_in_order_and_all_pages_hear_of_them(serve, make_band):
    band = make_band()
    with live(page := serve(band)) as one, live(page) as two:
        ask(one, "lock_db", 3, -4.5)
        ask(one, "mute", 3, True)
        ask(one, "strength", None, 50)
        state = until(one, "state", lambda said: said["heard"] == 3)["state"]
        assert band.commands == [("lock_db", 3, -4.5), ("mute", 3, True), ("strength", None, 50.0)]
        assert state["strips"][3]["lock_db"] == -4.5
        same = until(two, "state", lambda said: said["state"]["strength"] == 50)
        assert same["heard"] == 0
        assert same["state"]["strips"][3]["mute"] is True


def test_what_does_not_fit_is_said_to_who_asked_and_counted(serve, make_band, caplog):
    band = make_band()
    with live(page := serve(band)) as link, live(page) as other:
        link.send(b'{"name": "mute", "strip": 0, "value": true}')
        assert until(link, "error")["text"] == "message must be text, got bytes"
        ask(link, "mute", 8, True)
        assert until(link, "error")["text"] == "strip must be in [0, 7], got 8"
        ask(link, "lock_db", 0, -60)  # the band refuses this one
        assert until(link, "error")["text"] == "lock_db of the kick must be above -60 dB, got -60"
        del band.lock_db
        for _ in range(2):
            ask(link, "lock_db", 0, -5)
            assert until(link, "error")["text"] == "the mixer could not do that"
        band.lock_db = [None] * 8
        ask(link, "mute", 0, True)
        assert until(link, "state", lambda said: said["heard"] == 6)["state"]["strips"][0]["mute"]
        assert page.counts["message refused"] == 3
        assert page.counts["owner failed"] >= 2  # nor did its states come
        assert len([record for record in caplog.records if "owner failed" in record.message]) == 1
        assert until(other, "state", lambda said: said["state"]["strips"][0]["mute"])["heard"] == 0


def test_an_owner_that_fails_is_asked_again(serve, make_band):
    band = make_band()
    with live(page := serve(band)) as link:
        until(link, "state")
        band.fails = OSError("gone")
        while page.counts["owner failed"] < 3:
            threading.Event().wait(0.01)
        band.fails = None
        asked = band.asked
        until(link, "state", lambda said: band.asked > asked + 1)


def test_channels_may_come_and_go(serve, make_band):
    band = make_band(2)
    with live(serve(band)) as link:
        assert len(until(link, "hello")["about"]["strips"]) == 2
        until(link, "state")
        more = make_band(5)
        band.__dict__.update(more.__dict__)
        assert len(until(link, "hello")["about"]["strips"]) == 5
        ask(link, "solo", 4, True)
        until(link, "state", lambda said: said["state"]["strips"][4]["solo"])


# ---- who misbehaves --------------------------------------------------------------------------------------------------


def test_a_flood_is_slowed_and_ended_and_nobody_else_is_held_up(serve, make_band):
    band = make_band()
    page = serve(band)
    with live(page) as other, live(page) as flood:
        until(other, "state")

        def pour():
            with suppress(ConnectionClosed):
                while True:
                    ask(flood, "strength", None, 1)

        pouring = threading.Thread(target=pour)
        pouring.start()
        for turn in range(10):
            ask(other, "trim_db", 0, turn)
            until(other, "state", lambda said, turn=turn: said["heard"] == turn + 1)
        pouring.join(timeout=60)
        assert not pouring.is_alive()
        assert [value for name, _, value in band.commands if name == "trim_db"] == list(range(10))
        assert page.counts["message too soon"] == server.MAX_DROPPED
        until(other, "state")


@pytest.mark.parametrize("broken", ["x" * (server.MAX_MESSAGE_BYTES + 1), ["x" * 600] * 2, b"\xff"])
def test_a_message_too_large_or_broken_ends_its_connection_alone(serve, make_band, broken):
    page = serve(make_band())
    with live(page) as other, live(page) as link:
        with suppress(ConnectionClosed):  # the server may close before all of it is sent
            link.send(broken, text=isinstance(broken, bytes) or None)
        with pytest.raises(ConnectionClosed) as closed:
            until(link, "error")
        assert closed.value.rcvd.code == (1007 if isinstance(broken, bytes) else 1009)
        ask(other, "mute", 0, True)
        until(other, "state", lambda said: said["heard"] == 1)
        assert page.counts["broken message" if isinstance(broken, bytes) else "message too large"] == 1


def test_so_many_pages_and_no_more(serve, make_band):
    page = serve(make_band(), max_clients=2)
    with live(page) as one, live(page) as two:
        until(one, "state")
        until(two, "state")
        with live(page) as three:
            assert until(three, "full")["text"] == "2 pages are open already."
            with pytest.raises(ConnectionClosed):
                until(three, "state")
        assert page.clients == 2
    while page.clients:
        threading.Event().wait(0.01)
    with live(page) as one:
        until(one, "state")
    assert page.counts["too many pages"] == 1


def test_who_does_not_listen_holds_up_nobody(serve, make_band):
    band = make_band()
    band.faults = [{"text": "x" * 200_000, "count": 1}]
    page = serve(band)
    with live(page, max_queue=1, max_size=None) as deaf, live(page, max_size=None) as other:
        until(deaf, "state")
        for _ in range(40):
            until(other, "state")
        # What the deaf one has not taken by now is forgotten: its next states are far apart.
        times_s = [until(deaf, "state")["state"]["time_s"] for _ in range(20)]
        assert max(b - a for a, b in pairwise(times_s)) > 1.0


# ---- starting and stopping -------------------------------------------------------------------------------------------


def test_a_taken_port_is_refused_in_one_line(local, make_band):
    port = urlsplit(local.url).port
    with pytest.raises(ParameterError, match=rf"^page needs 127.0.0.1 port {port} free, got address already in use$"):
        Page(console(make_band()), port=port).start()


def test_it_stops_and_starts_again_where_it_was(make_band):
    threads = set(threading.enumerate())
    page = Page(console(make_band()), lan="127.0.0.1", token=TOKEN)
    page.stop()
    with pytest.raises(ParameterError, match="page must be started to have a url"):
        page.url  # noqa: B018
    with page:
        port = urlsplit(page.url).port
        assert page.url == f"http://127.0.0.1:{port}/?token={TOKEN}"
        with pytest.raises(ParameterError, match="page must be stopped to be started"):
            page.start()
        with live(page, query=f"?token={TOKEN}") as link:
            until(link, "state")
            page.stop()
            with pytest.raises(ConnectionClosed):
                until(link, "error")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    with Page(console(make_band()), lan="127.0.0.1", port=port, token=TOKEN) as page:
        assert get(page, cookie=f"alm-{port}={TOKEN}")[0] == 200
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"port": -1}, r"port must be in \[0, 65535\], got -1"),
        ({"port": "80"}, r"port must be in \[0, 65535\], got '80'"),
        ({"max_clients": 0}, "max_clients must be positive, got 0"),
        ({"lan": "stage"}, "lan must be True, False or an address of this machine, got 'stage'"),
        ({"lan": True, "token": "short"}, "token must be at least 22 letters, digits, - or _, got another"),
        ({"lan": "192.0.2.1"}, "page needs 192.0.2.1 port 0 free, got cannot assign requested address"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make_band, options, says):
    with pytest.raises(ParameterError, match=f"^{says}$"):
        Page(console(make_band()), **options).start()


def test_a_page_must_be_among_the_assets(make_band):
    app = console(make_band())
    with pytest.raises(ParameterError, match=r"index must be one of .*console\.html.*, got '\.\./server\.py'"):
        Page(type(app)("../server.py", app.owner, app.commands))
