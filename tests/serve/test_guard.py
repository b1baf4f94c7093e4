"""Who may ask: names of the host, origins, tokens, and the headers of every answer."""

import asyncio

import pytest

from headwater.errors import InputError
from headwater.serve import guard as guards
from headwater.serve.guard import Guard
from headwater.serve.options import ServeOptions
from headwater.serve.server import prepare

JSON = {"content-type": "application/json"}


def test_other_names_are_refused(client):
    """A page elsewhere may bind its own name to this address; the browser then sends that name."""
    for host in (
        "evil.example",
        "evil.example:8000",
        "",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "@testserver",
    ):
        answer = client.get("/api/info", headers={"host": host})
        assert answer.status_code == 400, host
    for host in ("testserver", "localhost:8000", "127.0.0.1", "[::1]:99", "LOCALHOST"):
        assert client.get("/api/info", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_requests_of_other_sites_are_refused(headers, client):
    answer = client.post("/api/search", json={"query": {}}, headers=headers)
    assert answer.status_code == 403


def test_own_page_may_ask(client):
    headers = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    query = {"case": client.service.gallery.references[0]}
    assert client.post("/api/search", json={"query": query}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_what_a_form_elsewhere_can_send_is_refused(kind, client):
    for path in ("/api/search", "/api/uploads", "/api/calls"):
        assert client.post(path, content=b"{}", headers={"content-type": kind}).status_code == 415


def test_every_answer_has_the_headers(client):
    for path in ("/", "/api/info", "/static/app.js", "/nothing", "/api/cases/x"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
    assert client.get("/docs").status_code == 404  # its page would load scripts from elsewhere
    assert client.get("/redoc").status_code == 404


def test_token_in_a_header_or_a_cookie(serving):
    client = serving(token="secret-token")
    assert client.get("/api/info").status_code == 401
    assert client.get("/").status_code == 401
    for wrong in ("secret", "secret-token2", "", "sécret"):
        assert client.get("/api/info", headers={"x-headwater-token": wrong.encode()}).status_code == 401
    assert client.get("/api/info", headers={"x-headwater-token": "secret-token"}).status_code == 200
    assert client.get("/?token=wrong", follow_redirects=False).status_code == 401
    welcome = client.get("/?token=secret-token", follow_redirects=False)
    assert welcome.status_code == 303
    assert welcome.headers["location"] == "/"
    cookie = welcome.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/api/info").status_code == 200  # the client keeps the cookie
    assert client.get("/api/info?token=secret-token", headers={"cookie": "x=1"}).status_code in (200, 401)


def test_a_token_in_an_address_is_for_the_page_alone(serving):
    client = serving(token="secret-token")
    client.cookies.clear()
    assert client.get("/api/info?token=secret-token").status_code == 401


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "0.0.0.0"}, "--certificate and --key"),
        ({"host": "192.168.1.5"}, "must not travel unencrypted"),
        ({"host": "0.0.0.0", "behind_proxy": True}, "--allow-host NAME"),
        ({"certificate": "gone.pem"}, "go together"),
        ({"certificate": "gone.pem", "key": "gone.key"}, "no such file"),
        ({"port": 70000}, "at most 65535"),
        ({"max_bytes": 0}, "--max-bytes"),
        ({"keep_minutes": 0}, "--keep-minutes"),
    ],
)
def test_options_that_would_expose_patients(options, said):
    with pytest.raises(InputError, match=said):
        ServeOptions(**options).refuse()


def test_local_addresses_need_no_token():
    assert ServeOptions().is_local
    assert ServeOptions(host="127.0.0.9").is_local
    assert not ServeOptions(host="10.0.0.1").is_local
    assert not ServeOptions(host="example.org").is_local


def test_who_is_behind_a_proxy_needs_the_token(served):
    """A server that only this machine reaches directly may be reached by others through a proxy on it."""
    assert not ServeOptions().needs_token
    assert not ServeOptions(allow_host=["localhost"]).needs_token
    assert ServeOptions(host="10.0.0.1").needs_token
    assert ServeOptions(allow_host=["pathology.example.org"]).needs_token
    ready = prepare(served / "gallery.hw", behind_proxy=True, allow_host="pathology.example.org", port=0)
    try:
        assert ready.url == f"https://pathology.example.org/?token={ready.token}"
        assert ready.token is not None
    finally:
        ready.service.close()
        ready.listens.close()


def test_servers_on_one_machine_keep_their_own_cookies(serving):
    """Browsers send cookies to every port of a host."""
    names = set()
    for token in ("one", "other"):
        welcome = serving(token=token).get(f"/?token={token}", follow_redirects=False)
        names.add(welcome.headers["set-cookie"].partition("=")[0])
    assert len(names) == 2


def test_a_length_that_no_number_holds(client):
    headers = {"content-type": "image/png", "content-length": "9" * 5000}
    assert client.post("/api/uploads", content=b"x", headers=headers).status_code == 413


def test_files_that_are_no_certificate(served, tmp_path):
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("no certificate")
    with pytest.raises(InputError, match=r"cannot be used \(.*PEM files"):
        prepare(served / "gallery.hw", certificate=tmp_path / "c.pem", key=tmp_path / "k.pem", port=0)


async def _reply(sent, parts, seconds):
    """Return the status with which a body is answered that arrives in parts, with pauses."""

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        await asyncio.sleep(seconds)
        return next(parts)

    async def send(message):
        sent.append(message)

    guard = Guard(app, hosts=["x"], token=None, max_bytes=1000, secure=False)
    headers = [(b"host", b"x"), (b"content-type", b"image/png")]
    scope = {"type": "http", "method": "POST", "path": "/api/uploads", "headers": headers}
    await asyncio.gather(*(guard(scope, receive, send) for _ in range(guards.UPLOADING + 1)))


def test_bodies_that_do_not_arrive(monkeypatch):
    monkeypatch.setattr(guards, "BODY_SECONDS", 0.0)
    sent = []
    asyncio.run(_reply(sent, iter([]), 60))
    statuses = [message["status"] for message in sent if "status" in message]
    assert sorted(statuses) == [408] * guards.UPLOADING + [503]


def test_too_many_bodies_at_once():
    """What arrives is in memory, so only so many may; the next one is told to wait, and the others are whole."""
    sent = []
    asyncio.run(_reply(sent, iter([{"type": "http.request", "body": b"x"}] * guards.UPLOADING), 0))
    statuses = [message["status"] for message in sent if "status" in message]
    assert sorted(statuses) == [200] * guards.UPLOADING + [503]
