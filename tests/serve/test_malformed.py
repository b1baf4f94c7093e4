"""A thousand malformed requests: the server answers each with an error of one line, and goes on."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

JSON = {"content-type": "application/json"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("case", "upload", "text", "region", "weight", "more", "less")
PATHS = ("/api/search", "/api/findings", "/api/heat-map", "/api/calls")


def require_line(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert "\n" not in error
        assert "Traceback" not in error
        assert "/site-packages/" not in error


@pytest.fixture(scope="module")
def schema_client(served, tmp_path_factory):
    from fastapi.testclient import TestClient

    from headwater._progress import silent
    from headwater.serve.app import make_app
    from headwater.serve.service import Service
    from headwater.store import open_store
    from tests.serve.conftest import options_of

    runs = [served / "grade", served / "areas"]
    service = Service(
        open_store(served / "gallery.hw"), options_of(served, tmp_path_factory.mktemp("m"), runs=runs), silent
    )
    with TestClient(make_app(service, token=None), raise_server_exceptions=False) as client:
        client.service = service
        yield client


QUIETLY = settings(
    max_examples=300,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
)


@QUIETLY
@given(path=st.sampled_from(PATHS), body=VALUES)
def test_bodies_of_any_json(schema_client, path, body):
    require_line(schema_client.post(path, content=json.dumps(body).encode(errors="surrogatepass"), headers=JSON))


@QUIETLY
@given(
    path=st.sampled_from(PATHS),
    query=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5),
    more=st.dictionaries(
        st.sampled_from(("features", "k", "filters", "run", "target", "own_call", "one_per_patient")), VALUES
    ),
)
def test_questions_with_wrong_values(schema_client, path, query, more):
    body = {"query": query, **more}
    require_line(schema_client.post(path, content=json.dumps(body).encode(errors="surrogatepass"), headers=JSON))


@QUIETLY
@given(
    data=st.binary(max_size=200), kind=st.sampled_from(["application/json", "application/octet-stream", "image/png"])
)
def test_bodies_of_any_bytes(schema_client, data, kind):
    for path in ("/api/search", "/api/uploads"):
        require_line(schema_client.post(path, content=data, headers={"content-type": kind}))


@QUIETLY
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
)
def test_paths_of_any_kind(schema_client, method, path):
    answer = schema_client.request(method, "/" + path.lstrip("/"), headers=JSON)
    assert answer.status_code < 500
    assert b"import " not in answer.content


def test_requests_made_from_the_schema(schema_client):
    """schemathesis makes them from what the server says of itself, valid and not."""
    schema = schemathesis.openapi.from_dict(schema_client.get("/api/openapi.json").json())
    n = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=40,
            deadline=None,
            phases=[Phase.generate],
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case):
            nonlocal n
            n += 1
            given_to = case.as_transport_kwargs(base_url="http://testserver")
            given_to.pop("cookies", None)
            if isinstance(body := given_to.pop("data", None), bytes | str):
                given_to["content"] = body
            answer = schema_client.request(**given_to)
            assert answer.status_code < 500, answer.text

        ask()
    assert n > 200
    assert schema_client.get("/api/info").status_code == 200
