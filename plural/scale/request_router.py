"""The request router that Ray Serve asks: its own, with our choice of a replica (routing.py)."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import FIFOMixin, MultiplexMixin, RequestRouter

from plural.scale.routing import Homes


class NearRouter(FIFOMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]
    """Queues, probes and retries are Ray Serve's. Each process that sends requests has one of these; where others sent
    a key, the replicas tell all of them, some tenths of a second later (`serve.multiplexed`)."""

    def initialize_state(self, *, slack: int, kept: int) -> None:
        self._homes: Homes[Any] = Homes(slack, kept)

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        pending_request.routing_context.should_backoff = True  # between two tries
        there = {one.replica_id: one for one in candidate_replicas}
        key = pending_request.metadata.multiplexed_model_id or None
        seen = self.rank_replicas_via_multiplex(candidate_replicas, key)[0] if key else ()
        chosen = self._homes.choose(key, list(there), self._ongoing, [one.replica_id for one in seen])
        return [] if chosen is None else [[there[chosen]]]

    def _ongoing(self, replica: Any) -> float:
        """As it was last known; a replica that was never asked is taken for idle, and then asked by Ray Serve."""
        ongoing: int = self.replica_queue_len_cache.get(replica) or 0
        return ongoing if ongoing < self.curr_replicas[replica].max_ongoing_requests else float("inf")
