"""`plural deploy` as a person types it, each command a process of its own. Minutes, but for what is refused at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plural import Network
from plural.errors import SettingsError
from plural.scale import ScaleSettings, deploy, deploying
from plural.scale.cluster import APP, running_replicas
from plural.wiring.serving import read_order
from plural.wiring.settings import read_settings
from tests.scale.tiny import Home, make_home, nodes
from tests.typed import typed

ROOT = Path(__file__).parents[2]
PLURAL = [sys.executable, "-c", "from plural.cli import main; main()"]
PORT = 18_347  # of the cluster: its proxy listens where it was first told to
ASKED = [{"role": "user", "content": "file this paper"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def expected(home: Home) -> str:
    with Network.open(**home.settings()) as laptop:
        return str(laptop.ask("file this paper", to="clerk"))


def environment(home: Home) -> dict[str, str]:
    given = {f"PLURAL_{name.upper()}": str(value) for name, value in home.settings().items()}
    here = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | given | {"PYTHONPATH": here, "RAY_AUTH_MODE": "disabled"}


def answer(port: int, model: str = "clerk") -> str:
    body = json.dumps({"model": model, "messages": ASKED}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=120) as said:
        return str(json.load(said)["choices"][0]["message"]["content"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(pid: int) -> set[int]:
    """The processes that stem from it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    found, more = set[int](), {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in more} - found
    return found - {pid}


def until_gone(pids: set[int]) -> None:
    end = time.monotonic() + 60
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, f"still there: {alive}"
        time.sleep(0.2)


def test_what_ends_with_its_process_is_not_taken_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = typed(monkeypatch, capsys)("deploy", "--down", "--json")
    assert code == 2
    assert json.loads(out)["message"] == "What is deployed on 'local' ends with the process that started it."


@pytest.mark.slow
def test_a_ray_of_its_own_until_ctrl_c(home: Home, expected: str) -> None:
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")
    port = free_port()
    command = [*PLURAL, "deploy", "--port", str(port), "--data", str(home.folder / "local"), "--json"]
    elsewhere = environment(home) | {"RAY_ADDRESS": "127.0.0.1:9"}  # a cluster that is gone was waited for
    with subprocess.Popen(
        command, cwd=ROOT, env=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == {"listening": f"http://127.0.0.1:{port}", "replicas": 1}
            assert answer(port) == expected
            started = family(process.pid)
            assert started
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0
        finally:
            process.kill()
    until_gone(started)
    with pytest.raises(urllib.error.URLError):
        answer(port)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")
    with nodes(1, cpus=4) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_cluster_keeps_what_was_deployed_until_it_is_taken_down(home: Home, expected: str, cluster: Any) -> None:
    def plural(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*PLURAL, "deploy", "--ray", cluster.address, "--json", *words]
        return subprocess.run(
            command, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=300, check=False
        )

    nothing = plural("--down")
    assert (nothing.returncode, json.loads(nothing.stdout)["error"]) == (2, "SettingsError")
    assert "No network is deployed on the Ray cluster" in nothing.stdout
    here = ("--port", str(PORT), "--data", str(home.folder / "cluster"))
    made = plural(*here, "--replicas", "2", "--cpus", "1")
    assert (made.returncode, json.loads(made.stdout)) == (
        0,
        {"listening": f"http://127.0.0.1:{PORT}", "replicas": 2},
    ), made.stderr
    assert answer(PORT) == expected
    assert running_replicas() == 2
    # The same again with other numbers replaces it.
    assert json.loads(plural(*here).stdout)["replicas"] == 1
    assert answer(PORT) == expected
    down = plural("--down")
    assert down.returncode == 0, down.stderr
    assert running_replicas() is None
    with pytest.raises(urllib.error.HTTPError):
        answer(PORT)


@pytest.mark.slow
def test_serve_s_own_config_files_build_it(home: Home, expected: str, cluster: Any) -> None:
    """What KubeRay does with deploy/rayservice.yaml: the arguments are JSON."""
    from ray import serve

    network = {name: value if isinstance(value, int) else str(value) for name, value in home.settings().items()}
    args = {
        "network": network,
        "scale": {"replicas": 2, "cpus": 1},
        "serve": {"data": str(home.folder / "built")},
    }
    application = deploying.build(json.loads(json.dumps(args)))
    serve.start(http_options=serve.config.HTTPOptions(host="127.0.0.1", port=PORT))
    serve.run(application, name=APP, route_prefix="/")
    assert running_replicas() == 2
    assert answer(PORT) == expected
    serve.delete(APP)
    with pytest.raises(SettingsError, match="There is no part 'networks' of a deployment"):
        deploying.build({"networks": {}})


@pytest.mark.slow
def test_a_replica_that_refuses_is_named(home: Home, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node has another version than who deploys."""
    identity = deploying._identity

    def older(settings: Any) -> Any:
        return replace(identity(settings), version="0.0.1")

    monkeypatch.setattr(deploying, "_identity", older)
    order = read_order({"data": home.folder / "refused"})
    with pytest.raises(SettingsError, match=r"The replica on .* has the version '.*'; here it is '0\.0\.1'"):
        deploy(cluster.address, read_settings(**home.settings()), ScaleSettings.of(), order)
    assert not running_replicas()
