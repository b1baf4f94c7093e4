"""Who may ask: names of the host, origins, tokens, and the headers of every answer."""

import pytest

from headwater.errors import InputError
from headwater.serve.options import ServeOptions

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
