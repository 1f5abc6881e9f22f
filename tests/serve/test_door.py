"""Who is let in, and what nobody may do: docs/security.md says against whom each of these stands."""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from plural.errors import SettingsError
from plural.serve import Keyring, ServeSettings
from plural.serve.keys import make_key, read_keys, write_keys
from plural.serve.run import check_exposure
from tests.serve.tiny import Running, served, stage_specialist, tiny_network

ASKED = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, str]]]:
    """A server with a key for each scope."""
    home = tmp_path_factory.mktemp("guarded")
    made = {scope: make_key([scope]) for scope in ("use", "train", "admin")}  # type: ignore[list-item]
    write_keys(home / "keys.json", [key for _, key in made.values()])
    network = tiny_network(home / "home")
    with served(network, keys=home / "keys.json", body_limit=4096) as running:
        yield running, {scope: secret for scope, (secret, _) in made.items()}
    network.close()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# ---------------------------------------------------------------------------------------------------------------- keys
def test_off_loopback_a_key_is_demanded(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.7", "::", "example.org"):
        with pytest.raises(SettingsError, match="without an API key"):
            check_exposure(ServeSettings(host=host), Keyring(path=tmp_path / "none.json"))
        check_exposure(ServeSettings(host=host), Keyring("secret"))
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        check_exposure(ServeSettings(host=host), Keyring())
    assert ServeSettings().loopback


def test_nothing_is_told_without_a_key(guarded: tuple[Running, dict[str, str]]) -> None:
    running, _ = guarded
    asked = [("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nowhere"),
             ("POST", "/v1/chat/completions"), ("POST", "/v1/load_lora_adapter"), ("GET", "/v1/library")]  # fmt: skip
    for headers in ({}, bearer("wrong"), {"Authorization": "Bearer"}, {"Authorization": "Basic dXNlcjpwYXNz"}):
        for method, path in asked:
            answer = httpx.request(
                method, running.url + path, headers=headers, json=ASKED if method == "POST" else None
            )
            assert answer.status_code == 401, path
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{running.url}/health").status_code == 200
    assert httpx.get(f"{running.url}/ready").status_code == 200


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("use", "POST", "/v1/chat/completions"),
        ("use", "GET", "/v1/models"),
        ("train", "GET", "/v1/files"),
        ("train", "POST", "/v1/files"),
        ("train", "GET", "/v1/fine_tuning/jobs"),
        ("train", "POST", "/v1/fine_tuning/jobs"),
        ("admin", "POST", "/v1/load_lora_adapter"),
        ("admin", "POST", "/v1/library/clerk/rollback"),
    ],
)
def test_a_key_does_what_its_scope_says(
    guarded: tuple[Running, dict[str, str]], scope: str, method: str, path: str
) -> None:
    running, keys = guarded
    body = ASKED if method == "POST" else None
    for other, key in keys.items():
        answer = httpx.request(method, running.url + path, headers=bearer(key), json=body)
        assert (answer.status_code == 403) == (other != scope), other
        if other != scope:
            assert scope in answer.json()["error"]["message"]


def test_keys_are_hashed_at_rest_and_can_be_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    (secret, key), (other, kept) = make_key(["use"], "Ann"), make_key(["admin"])
    write_keys(path, [key, kept])
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ring = Keyring(path=path)
    assert ring.find(secret) == key
    assert ring.find(secret[:-1]) is None
    write_keys(path, [kept])
    assert ring.find(secret) is None
    assert ring.find(other) == kept
    write_keys(path, [])
    assert ring.needed, "a file that loses its last key opens no door"
    path.write_text('[{"id": "x"}]')
    with pytest.raises(SettingsError, match="cannot be read as API keys"):
        read_keys(path)


def test_a_given_key_is_shown_by_no_error() -> None:
    settings = ServeSettings(api_key="sk-secret")
    assert "sk-secret" not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        ServeSettings.of(api_key="sk-secret", port="sk-secret")
    assert "sk-secret" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ browsers
def test_pages_of_others_may_not_call(running: Running) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": ""}):
        answer = httpx.post(f"{running.url}/v1/chat/completions", headers=headers, json=ASKED)
        assert answer.status_code == 403, headers
        assert "access-control-allow-origin" not in answer.headers
    for headers in ({"Origin": running.url}, {"Host": "localhost:1"}, {"Host": "[::1]:8000"}):
        assert httpx.post(f"{running.url}/v1/chat/completions", headers=headers, json=ASKED).status_code == 200


def test_a_named_origin_may_call(tmp_path: Path) -> None:
    network = tiny_network(tmp_path / "home")
    page = {"Origin": "https://studio.example"}
    with served(network, origins=("https://studio.example",), hosts=("plural.test",), key="secret") as running:
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        answer = httpx.options(f"{running.url}/v1/chat/completions", headers=page | asks)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://studio.example"
        assert "access-control-allow-credentials" not in answer.headers
        answer = httpx.get(f"{running.url}/v1/models", headers=page | bearer("secret") | {"Host": "plural.test"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://studio.example"
        answer = httpx.get(f"{running.url}/v1/models", headers=page)
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://studio.example", "the page may read why"
    network.close()
    with pytest.raises(SettingsError, match="one by one"):
        ServeSettings.of(origins=("*",))


def test_a_form_of_a_page_is_no_request(running: Running) -> None:
    answer = httpx.post(
        f"{running.url}/v1/chat/completions", content=json.dumps(ASKED), headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 400


def test_every_answer_has_the_headers(running: Running) -> None:
    for path in ("/v1/models", "/nowhere", "/health", "/v1/models/nobody"):
        headers = httpx.get(running.url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"].startswith("req_")
        assert "server" not in headers
    assert httpx.get(f"{running.url}/health", headers={"X-Request-Id": 'a" b'}).headers["x-request-id"] != 'a" b'


# ----------------------------------------------------------------------------------------------------------------- TLS
def certificate(folder: Path) -> tuple[Path, Path]:
    """One that 127.0.0.1 has signed for itself, and its private key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plural")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    made = made.add_extension(address, critical=False)
    cert, secret = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert, secret


def test_with_a_certificate_it_speaks_tls_and_says_so_for_a_year(running: Running, tmp_path: Path) -> None:
    cert, secret = certificate(tmp_path)
    network = tiny_network(tmp_path / "home")
    with served(network, tls_cert=cert, tls_key=secret) as safe:
        assert safe.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=safe.url, verify=trusting) as client:
            answer = client.post("/v1/chat/completions", json=ASKED, headers={"Origin": safe.url})
            assert answer.json()["choices"][0]["finish_reason"] == "length"
            for path in ("/v1/models", "/nowhere", "/health", "/"):
                assert client.get(path).headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(safe.url)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(safe.url.replace("https:", "http:"))
    network.close()
    assert "strict-transport-security" not in httpx.get(f"{running.url}/health").headers
    with pytest.raises(SettingsError, match="go together"):
        ServeSettings.of(tls_cert=cert)


# --------------------------------------------------------------------------------------------------------------- sizes
def test_a_body_has_a_limit_whatever_it_says_of_its_length(guarded: tuple[Running, dict[str, str]]) -> None:
    running, keys = guarded
    large = json.dumps(ASKED | {"user": "x" * 9000}).encode()
    headers = bearer(keys["use"]) | {"Content-Type": "application/json"}
    assert httpx.post(f"{running.url}/v1/chat/completions", content=large, headers=headers).status_code == 413

    def chunked() -> Iterator[bytes]:
        for start in range(0, len(large), 1000):
            yield large[start : start + 1000]

    assert httpx.post(f"{running.url}/v1/chat/completions", content=chunked(), headers=headers).status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": "base", "messages": NaN}', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(running: Running, body: bytes) -> None:
    answer = httpx.post(
        f"{running.url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_schema_that_is_nested_too_deeply_is_refused(running: Running) -> None:
    schema = '{"type": "object", "properties": {"a": ' * 3000 + "{}" + "}}" * 3000
    tool = f'{{"type": "function", "function": {{"name": "f", "parameters": {schema}}}}}'
    body = json.dumps(ASKED)[:-1] + f', "tools": [{tool}]}}'
    for text in (body, '{"a": ' + "[" * 100_000):
        answer = httpx.post(
            f"{running.url}/v1/chat/completions", content=text, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400


def test_what_is_not_there_is_said_in_openais_shape(running: Running) -> None:
    assert httpx.get(f"{running.url}/nowhere").json()["error"]["code"] == "not_found"
    assert httpx.put(f"{running.url}/v1/chat/completions").status_code == 405
    assert httpx.get(f"{running.url}/docs").status_code == 404


# ------------------------------------------------------------------------------------------------------------ adapters
def load(running: Running, name: str, path: object, **more: Any) -> httpx.Response:
    return httpx.post(f"{running.url}/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path), **more})


def test_adapters_come_from_the_library_only(running: Running, tmp_path: Path) -> None:
    network = running.network
    root = network.library.root
    outside = stage_specialist(tmp_path / "outside", network.base_model, seed=9, name="spy")
    inside = stage_specialist(root / ".incoming" / "spy", network.base_model, seed=9, name="spy")
    link = root / ".incoming" / "link"
    link.symlink_to(outside)
    half, pickled = root / ".incoming" / "half", root / ".incoming" / "pickled"
    half.mkdir()
    for file in ("adapter_config.json", "specialist.json"):
        (half / file).write_bytes((inside / file).read_bytes())
    (half / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    for path in (outside, "../outside", link, ".incoming/link", half, ".", "", "/etc", "no\0where", ".incoming/../.."):
        publish = httpx.post(f"{running.url}/v1/library/spy/publish", json={"path": str(path), "force": True})
        for answer, named in ((load(running, "spy", path), "lora_path"), (publish, "path")):
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, named), path
            assert str(outside) not in answer.text
    pickled.mkdir()
    (pickled / "adapter_config.json").write_bytes((inside / "adapter_config.json").read_bytes())
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert load(running, "spy", ".incoming/pickled").status_code == 409
    publish = httpx.post(f"{running.url}/v1/library/spy/publish", json={"path": ".incoming/pickled", "force": True})
    assert publish.status_code == 409
    assert load(running, "../spy", ".incoming/spy").status_code == 400
    assert [model["id"] for model in httpx.get(f"{running.url}/v1/models").json()["data"]].count("spy") == 0


# ------------------------------------------------------------------------------------------------------------ the page
def test_the_page_names_tests_that_there_are_and_that_are_not_slow() -> None:
    here = Path(__file__).parent
    page = (here.parents[1] / "docs" / "security.md").read_text()
    quick: set[str] = set()
    for file in here.glob("test_*.py"):
        text = file.read_text()
        if not re.search(r"^pytestmark = pytest.mark.slow", text, re.MULTILINE):
            found = re.findall(r"^(@pytest.mark.slow\n)?(?:async )?def (test_\w+)", text, re.MULTILINE)
            quick |= {name for slow, name in found if not slow}
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30
    assert named <= quick, sorted(named - quick)
    files = re.findall(r"`(tests/\S+\.py)`", page)
    assert files
    assert all((here.parents[1] / file).is_file() for file in files)
