"""A page is read from a listed host at a public address, or not at all."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.tools import BaseTool

from plural.agents import toolbox
from plural.agents.toolbox.html import read_html
from plural.errors import SettingsError

from .calls import call

HOME = """<!doctype html><html><head><title>The  Shop &amp; more</title><style>p {color: red}</style>
<script>var secret = "<p>not text</p>";</script></head><body><!-- <p>not this</p> --><h1>Tools</h1>
<p>Hammers &lt;heavy&gt; and <b>saws</b>.</p><ul><li><a href="/saws">All about saws</a></li>
<li><a href='http://other.example/x'>Elsewhere</a></li></ul></body></html>"""
SAWS = "<title>Saws</title><p>A saw has teeth.</p><p>The ripsaw cuts along the grain of oak.</p>"
PAGES: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/": (200, {"Content-Type": "text/html; charset=utf-8"}, HOME.encode()),
    "/saws": (200, {"Content-Type": "text/html"}, SAWS.encode()),
    "/latin": (200, {"Content-Type": "text/plain; charset=latin-1"}, "größer".encode("latin-1")),
    "/json": (200, {"Content-Type": "application/json"}, b'{"a": 1}'),
    "/big": (200, {"Content-Type": "text/plain"}, b"0123456789" * 300_000),
    "/pdf": (200, {"Content-Type": "application/pdf"}, b"%PDF"),
    "/zipped": (200, {"Content-Type": "text/plain", "Content-Encoding": "gzip"}, b"\x1f\x8b"),
    "/moved": (302, {"Location": "/saws"}, b""),
    "/loop": (302, {"Location": "/loop"}, b""),
    "/to-metadata": (302, {"Location": "http://169.254.169.254/latest/meta-data/"}, b""),
    "/to-file": (302, {"Location": "file:///etc/passwd"}, b""),
    "/to-inside": (302, {"Location": "http://inside.example:{port}/saws"}, b""),
    "/missing": (404, {"Content-Type": "text/html"}, b"no"),
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        if self.path == "/slow":
            time.sleep(1.5)
        status, headers, body = PAGES.get(self.path, PAGES["/missing"])
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value.replace("{port}", str(self.server.server_address[1])))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Site(ThreadingHTTPServer):
    """A real server on the loopback interface; `asked` are (path, Host) of its requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []

    def handle_error(self, *_: object) -> None:
        """A client that goes away is part of the tests."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def tools(self, **options: object) -> Sequence[BaseTool]:
        where = f"127.0.0.1:{self.port}"
        given = {"networks": ["127.0.0.0/8"], "start": [f"http://{where}/"], **options}
        return toolbox.web([where], **given)  # type: ignore[arg-type]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


class Resolver:
    """Answers in order; the last one again and again."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_a_page_is_read_as_text(site: Site) -> None:
    told, failed = await call(site.tools(), "fetch", url=site.url("/"))
    assert not failed
    text = "Tools\nHammers <heavy> and saws.\n- All about saws\n- Elsewhere"
    assert told == f"The Shop & more\n{site.url('/')}\n\n{text}"


async def test_other_texts_are_read_as_they_are(site: Site) -> None:
    assert (await call(site.tools(), "fetch", url=site.url("/latin")))[0] == f"{site.url('/latin')}\n\ngrößer"
    assert (await call(site.tools(), "fetch", url=site.url("/json")))[0].endswith('{"a": 1}')


async def test_a_long_page_is_cut_and_read_on(site: Site) -> None:
    tools = site.tools(max_bytes=25, max_characters=20)
    told, _ = await call(tools, "fetch", url=site.url("/big"))
    assert "\n\n01234567890123456789\n... (" in told
    assert "start=20 reads on)" in told
    rest, _ = await call(tools, "fetch", url=site.url("/big"), start=20)
    assert "\n\n01234\n... (the page" in rest


async def test_a_redirect_is_followed_within_the_list(site: Site) -> None:
    told, failed = await call(site.tools(), "fetch", url=site.url("/moved"))
    assert not failed
    assert f"Saws\n{site.url('/saws')}" in told


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/missing", "the server answered 404 Not Found"),
        ("/pdf", "is application/pdf, not text"),
        ("/zipped", "came compressed"),
        ("/loop", "redirects more than 5 times"),
        ("/to-metadata", "the host 169.254.169.254:80 is not on the list of hosts"),
        ("/to-file", "is not a URL that begins with http:// or https://"),
        ("/to-inside", "the host inside.example"),
        ("/slow", "did not answer within 0.5 s"),
    ],
)
async def test_what_cannot_be_read_says_why(path: str, says: str, site: Site) -> None:
    told, failed = await call(site.tools(seconds=0.5), "fetch", url=site.url(path))
    assert failed
    assert "url = " in told
    assert says in told


async def test_a_server_that_is_not_there_is_named(site: Site) -> None:
    site.server_close()
    told, failed = await call(site.tools(), "fetch", url=site.url("/"))
    assert failed
    assert "could not be read" in told


LOOPBACK_TRICKS = (
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "１２７.０.０.１",
    "127。0。0。1",
    "localhost.",
)


@pytest.mark.parametrize("host", LOOPBACK_TRICKS)
async def test_loopback_is_refused_however_it_is_written_even_on_the_list(host: str, site: Site) -> None:
    """The host is on the list in the same spelling; its address is what is refused."""
    listed = host.encode("idna").decode() if not host.startswith("[") else host
    tools = toolbox.web([f"{listed.rstrip('.')}:{site.port}"], start=[])
    told, failed = await call(tools, "fetch", url=f"http://{host}:{site.port}/")
    assert failed
    assert "not public" in told or "no address" in told
    assert site.asked == []


NOT_PUBLIC = (
    "10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.100.100.200 168.63.129.16 0.0.0.0 224.0.0.1 192.0.2.1 "
    "255.255.255.255 198.18.0.1 fe80::1 fe80::1%eth0 fd00:ec2::254 ff02::1 ::ffff:10.0.0.1 ::ffff:a9fe:a9fe "
    "64:ff9b::a9fe:a9fe 2002:a00:1::1 2001:0:a9fe:a9fe:0:0:f5ff:fffe 2001:db8::1 ::a00:1 nonsense"
)


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
async def test_a_name_may_not_lead_to_an_address_that_is_not_public(address: str) -> None:
    tools = toolbox.web(["rebound.example"], resolve=Resolver([address]), start=[])
    told, failed = await call(tools, "fetch", url="http://rebound.example/")
    assert failed
    assert f"rebound.example has the address {address}, which is not public" in told


async def test_one_bad_address_among_good_ones_spoils_all() -> None:
    tools = toolbox.web(["mixed.example"], resolve=Resolver(["93.184.216.34", "10.0.0.1"]), start=[])
    told, failed = await call(tools, "fetch", url="http://mixed.example/")
    assert failed
    assert "10.0.0.1" in told


async def test_a_name_that_changes_its_address_is_connected_to_where_it_was_checked(site: Site) -> None:
    """DNS rebinding: the first answer is checked and connected to; no second one is ever asked for."""
    resolver = Resolver(["127.0.0.1"], ["169.254.169.254"])
    host = f"named.example:{site.port}"
    tools = toolbox.web([host], networks=["127.0.0.0/8"], resolve=resolver, start=[])
    told, failed = await call(tools, "fetch", url=f"http://{host}/saws")
    assert not failed, told
    assert resolver.asked == 1
    assert site.asked == [("/saws", host)]


async def test_every_redirect_is_checked_anew(site: Site) -> None:
    """The second look-up of the same name leads inside, and is refused, though the first one was fine."""
    resolver = Resolver(["127.0.0.1"], ["10.0.0.1"])
    host = f"named.example:{site.port}"
    tools = toolbox.web([host], networks=["127.0.0.0/8"], resolve=resolver, start=[])
    told, failed = await call(tools, "fetch", url=f"http://{host}/moved")
    assert failed
    assert "10.0.0.1" in told
    assert [path for path, _ in site.asked] == ["/moved"]


async def test_a_certificate_is_checked_against_the_name_and_not_the_address(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that is trusted, but for another name, is refused; for the name of the URL it is taken."""
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=shop.example"]
    made += ["-addext", "subjectAltName=DNS:shop.example", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    site.socket = server.wrap_socket(site.socket, server_side=True)
    hosts = [f"{name}:{site.port}" for name in ("shop.example", "other.example")]
    tools = toolbox.web(hosts, networks=["127.0.0.0/8"], resolve=Resolver(["127.0.0.1"]), start=[])
    told, failed = await call(tools, "fetch", url=f"https://{hosts[0]}/saws")
    assert failed
    assert "self-signed certificate" in told
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    assert "Saws" in (await call(tools, "fetch", url=f"https://{hosts[0]}/saws"))[0]
    told, failed = await call(tools, "fetch", url=f"https://{hosts[1]}/saws")
    assert failed
    assert "not valid for 'other.example'" in told


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://docs.example/", "begins with http"),
        ("docs.example", "begins with http"),
        ("http://", "begins with http"),
        ("https://user@docs.example/", "carries a user's name"),
        ("https://docs.example@evil.example/", "carries a user's name"),
        ("https://evil.example\\@docs.example/", "characters that no URL has"),
        ("https://docs.example/\r\nX: y", "characters that no URL has"),
        ("https://docs.example:99999/", "is not a URL"),
        ("https://docs.example:8080/", "docs.example:8080 is not on the list of hosts: docs.example, *.wiki.example"),
        ("https://docs.example.evil.example/", "is not on the list"),
        ("https://evildocs.example/", "is not on the list"),
        ("https://wiki.example/", "is not on the list"),
        ("https://evilwiki.example/", "is not on the list"),
        ("https://[::1", "is not a URL"),
        ("https://docs.example/" + "x" * 3000, "too long"),
    ],
)
async def test_urls_off_the_list(url: str, says: str) -> None:
    tools = toolbox.web(["docs.example", "*.wiki.example"], resolve=Resolver(["10.0.0.1"]), start=[])
    told, failed = await call(tools, "fetch", url=url)
    assert failed
    assert says in told


async def test_names_below_a_pattern_are_on_the_list() -> None:
    tools = toolbox.web(["*.wiki.example"], resolve=Resolver(["10.0.0.1"]), start=[])
    told, _ = await call(tools, "fetch", url="https://EN.wiki.example./x")
    assert "en.wiki.example has the address 10.0.0.1" in told


async def test_a_search_finds_the_passage_on_a_linked_page(site: Site) -> None:
    told, failed = await call(site.tools(), "search_web", query="oak grain")
    assert not failed
    assert told.split("\n\n")[0] == f"Saws\n{site.url('/saws')}\nThe ripsaw cuts along the grain of oak."
    assert all(host == f"127.0.0.1:{site.port}" for _, host in site.asked)
    assert await call(site.tools(), "search_web", query="zebra") == ("Nothing was found.", False)


async def test_a_search_reads_no_more_pages_than_it_may(site: Site) -> None:
    await call(site.tools(max_pages=1), "search_web", query="oak")
    assert [path for path, _ in site.asked] == ["/"]
    told, failed = await call(site.tools(start=[site.url("/missing")]), "search_web", query="oak")
    assert failed
    assert "no page could be read" in told
    assert "404" in told


@pytest.mark.parametrize(
    ("hosts", "options", "says"),
    [
        ([], {}, "The list of hosts is empty"),
        (["*"], {}, r"'\*' is not a host"),
        (["http://docs.example/"], {}, "'http://docs.example/' is not a host"),
        (["docs.example"], {"networks": ["10.0.0.0/99"]}, "10.0.0.0/99"),
        (["docs.example"], {"seconds": 0}, "seconds of the web tools is 0"),
    ],
)
def test_settings_that_cannot_work(hosts: list[str], options: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        toolbox.web(hosts, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- HTML
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<p>a<br>b</p>c", "a\nb\nc"),
        ("<script>x</script >y", "y"),
        ("<SCRIPT>x<p>z", ""),
        ("<!-- never closed <p>x", ""),
        ("<a href=x>never closed", "never closed"),
        ("<td>a</td><td>b</td>", "a b"),
        ("&lt;script&gt;", "<script>"),
        ("<p", ""),
        ("</p>x</nothing", "x"),
        ("<?php x ?>y<!doctype html>z", "yz"),
    ],
)
def test_html_becomes_what_a_person_reads(source: str, text: str) -> None:
    assert read_html(source, "http://a.example/").text == text


def test_links_are_absolute() -> None:
    page = read_html(
        '<a href="b?x=1&amp;y=2#z">B &amp; C</a><a name=q>no</a><a href="http://[">bad</a>', "http://a.example/d/"
    )
    assert page.links == (("http://a.example/d/b?x=1&y=2", "B & C"), ("", ""))


@given(
    st.lists(
        st.sampled_from(["<", ">", "<!--", "-->", "<a href=", '"', "<script", "</", "p", " ", "&lt;"]), max_size=40
    ).map("".join)
)
def test_no_html_is_too_broken(source: str) -> None:
    read_html(source, "http://a.example/")


@pytest.mark.parametrize("piece", ["<", "<!--", "<a href=", "<script>", "</script", "<!", "<a href='", "<title>", "&"])
def test_html_takes_time_that_grows_with_its_length(piece: str) -> None:
    """A million characters of what is never closed: a scanner that looks twice would be here for hours."""
    read_html(piece * (1_000_000 // len(piece)), "http://a.example/")
