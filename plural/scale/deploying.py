"""Puts the network on a cluster: engine replicas that scale, and the API before them, as one Ray Serve application."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plural.errors import MachineError, SettingsError
from plural.scale.cluster import APP, ENGINE, LOCAL, Identity, join, ray_module, running_replicas
from plural.scale.engine import ClusterEngine
from plural.scale.replica import Replica
from plural.scale.settings import ScaleSettings
from plural.scale.tasks import send_long_tools, train_away
from plural.serve.backend import Lesson, News
from plural.wiring.network import Network
from plural.wiring.serving import ServedNetwork, ServeOrder, read_order
from plural.wiring.settings import Settings, read_settings, shelf

API = "api"
_HEAD = "node:__internal_head__"  # a resource that Ray gives to the head node
# What of the settings is a replica's: it writes no runs, and it computes itself.
_OWN: dict[str, Any] = {"cluster": None, "journal": None}
# A training computes in its task: an engine behind HTTP trains nothing, and to start one for its tests takes minutes.
_TRAINING = _OWN | {"engine": "plural", "engine_key": None, "engine_slots": None}


@dataclass(frozen=True)
class Deployed:
    """`url` is where the API answers."""

    url: str
    replicas: int


def deploy(address: str, settings: Settings, scale: ScaleSettings, order: ServeOrder) -> Deployed:
    """Replaces what is deployed there by this, replica by replica. Paths in `settings` must mean the same on all nodes.
    With the address "local" Ray is started in this process, and everything ends with it.

    Raises:
        SettingsError: no Ray; or a replica refused to join, since its base or version is another.
        MachineError: no cluster answers, or replicas could not be started.
    """
    ray_module()
    identity = _identity(settings)
    join(address, patience=scale.patience)
    from ray import serve

    http = order.settings
    serve.start(
        http_options=serve.config.HTTPOptions(
            host=http.host,
            port=http.port,
            ssl_certfile=http.tls_cert and str(http.tls_cert),
            ssl_keyfile=http.tls_key and str(http.tls_key),
        )
    )
    try:
        serve.run(_application(settings, scale, order, identity), name=APP, route_prefix="/")
    except RuntimeError as error:
        raise _failure(error) from error
    scheme = "https" if http.tls_cert else "http"
    return Deployed(f"{scheme}://{http.host}:{http.port}", running_replicas() or 0)


def build(args: Mapping[str, Any]) -> Any:
    """The application for Ray Serve's own config files, such as KubeRay's: `import_path: plural.scale.deploying:build`.

    `args` may have `network` (fields of Settings), `scale` (of ScaleSettings) and `serve` (of ServeSettings); what they
    do not say comes from the environment. Raises SettingsError.
    """
    unknown = sorted(set(args) - {"network", "scale", "serve"})
    if unknown:
        raise SettingsError(f"There is no part {unknown[0]!r} of a deployment.", hint="Parts: network, scale, serve.")
    settings = read_settings(**args.get("network", {}))
    order = read_order(args.get("serve", {}))
    return _application(settings, ScaleSettings.of(**args.get("scale", {})), order, _identity(settings))


def take_down(address: str, patience: float) -> None:
    """Removes the network from the cluster; answers under way end first.

    Raises:
        SettingsError: nothing is deployed there; or as `join` does.
        MachineError: no cluster answers.
    """
    if address == LOCAL:
        raise SettingsError(
            "What is deployed on 'local' ends with the process that started it.", hint="Ctrl-C there, or --ray ADDRESS."
        )
    join(address, patience=patience)
    from ray import serve

    if running_replicas() is None:
        raise SettingsError(f"No network is deployed on the Ray cluster {address}.")
    serve.delete(APP)


def engine_deployment(
    settings: Settings, scale: ScaleSettings, identity: Identity, kind: type[Replica] = Replica
) -> Any:
    """The replicas, not yet run: an application of its own for whoever needs no API."""
    from ray import serve

    class Placed(kind):  # type: ignore[misc, valid-type]
        """Whose requests were computed here is a "multiplexed model" to Ray Serve: it sends them here again."""

        async def _remembered(self) -> None:
            if key := serve.get_multiplexed_model_id():
                await self.remember(key)

        @serve.multiplexed(max_num_models_per_replica=scale.kept)  # type: ignore[untyped-decorator]
        async def remember(self, key: str) -> str:
            return key  # the engine brings adapters in itself, and knows better when one has to go

    threads = {"threads": settings.threads or scale.cpus}
    own = settings.model_dump() | _OWN | threads
    environment = {"OMP_NUM_THREADS": str(threads["threads"]), "OMP_WAIT_POLICY": "passive"}
    options: dict[str, Any] = {
        "ray_actor_options": {
            "num_cpus": scale.cpus,
            "num_gpus": scale.gpus,
            "runtime_env": {"env_vars": environment},
        },
        "max_ongoing_requests": scale.busy,
        "request_router_config": serve.config.RequestRouterConfig(
            request_router_class="plural.scale.request_router:NearRouter",
            request_router_kwargs={"slack": scale.ahead, "kept": scale.kept * (scale.max_replicas or scale.replicas)},
        ),
        "health_check_period_s": 10,
        "graceful_shutdown_timeout_s": 600,
    }
    if scale.spread:
        options["max_replicas_per_node"] = 1
    if scale.max_replicas is None:
        options["num_replicas"] = scale.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": scale.replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.aim,
            "upscale_delay_s": scale.grow_after,
            "downscale_delay_s": scale.shrink_after,
            # Of so many seconds the mean is looked at; it is of two reports at least.
            "look_back_period_s": (looked := min(30.0, max(1.0, scale.grow_after))),
            "metrics_interval_s": looked / 2,
        }
    return serve.deployment(name=ENGINE, **options)(Placed).bind(own, identity, scale.pause)


def _application(settings: Settings, scale: ScaleSettings, order: ServeOrder, identity: Identity) -> Any:
    from ray import serve

    # One: stored answers, uploaded files and the queue of trainings are those of one process (serve/store.py), which
    # finds them again where it is started anew.
    deployment = serve.deployment(
        name=API,
        num_replicas=1,
        max_ongoing_requests=order.settings.max_inside + 64,  # beside answers: health, metrics, the studio's files
        ray_actor_options={"num_cpus": 0, "resources": {_HEAD: 0.001}},
    )
    engines = engine_deployment(settings, scale, identity)
    return deployment(serve.ingress()(Api)).bind(engines, settings.model_dump(), scale, order)


class Api:
    """Router, agents, teams and the wire, in one process; the base is read elsewhere."""

    def __init__(self, engines: Any, settings: Mapping[str, Any], scale: ScaleSettings, order: ServeOrder) -> None:
        from plural.serve import Server, Store
        from plural.serve.run import log_as_json

        log_as_json()
        send_long_tools()
        read = Settings(**settings)
        journal = order.journal(None if read.journal is None else str(read.journal))
        chosen = read.model_copy(update={"journal": journal})
        base = _base(chosen)
        network = Network(base, shelf(chosen), ClusterEngine(engines, scale), chosen, lambda _what, _done: None)
        store = Store(order.folder / "records.sqlite")
        backend = ScaledNetwork(network, scale, order.folder / "teams")
        self._server = Server(backend, order.settings, order.keys, store, order.folder / "files")

    def __serve_build_asgi_app__(self) -> Any:
        return self._server.app


class ScaledNetwork(ServedNetwork):
    """Trainings run as tasks beside the replicas."""

    def __init__(self, network: Network, scale: ScaleSettings, teams: Path) -> None:
        super().__init__(network, teams=teams)
        self._scale = scale

    def train(self, lesson: Lesson) -> Iterator[News]:
        self.school(lesson)
        return train_away(self.network.settings.model_dump() | _TRAINING, lesson, self._scale.cpus)


def _base(settings: Settings) -> Any:
    """For its tokenizer, template and sizes; the weights are mapped and never read."""
    from plural.models.base import load_base

    return load_base(settings.base, cache_dir=settings.resolve(settings.cache), device="cpu")


def _identity(settings: Settings) -> Identity:
    return Identity.of(_base(settings))


def _failure(error: RuntimeError) -> MachineError | SettingsError:
    """What a replica said when it ended: Ray Serve tells it in the middle of tracebacks."""
    from ray import serve

    found = serve.status().applications.get(APP)
    told = [str(error), *(one.message for one in (found.deployments.values() if found else ()))]
    for text in told:
        if refused := re.search(r"plural\.errors\.(\w+): (.+)", text):
            kind = SettingsError if refused[1] in ("SettingsError", "BaseModelError") else MachineError
            return kind(refused[2])
    return MachineError(f"The network could not be deployed: {told[-1].strip()}", hint="ray status; ray logs")


def stop_local(address: str) -> None:
    """Ends the Ray that `deploy` started in this process."""
    if address == LOCAL:
        ray_module().shutdown()
        os.environ.pop("RAY_ADDRESS", None)
