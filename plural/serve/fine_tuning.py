"""/v1/fine_tuning/jobs: a specialist from an uploaded file, served as soon as it is published."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from plural.serve.admin import Name
from plural.serve.backend import Lesson
from plural.serve.errors import WireError
from plural.serve.files import path_of
from plural.serve.jobs import EVENT, JOB, Jobs
from plural.serve.service import Service, needs, visit_of
from plural.serve.shapes import Job, JobEvent, Page, sends
from plural.serve.store import page_json
from plural.serve.stored import METADATA_FILTER, metadata_filter
from plural.serve.wire import Metadata, Strict

Limit = Annotated[int, Query(ge=1, le=100)]
Whole = Annotated[int, Field(ge=1)]


class Hyperparameters(Strict):
    """OpenAI's three, and those of the trainer's that a client may choose."""

    n_epochs: Literal["auto"] | Whole = "auto"
    batch_size: Literal["auto"] | Whole = "auto"
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    rank: Annotated[int, Field(ge=1, le=512)] | None = None
    activated: bool | None = None
    max_steps: Whole | None = None


class Supervised(Strict):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Strict):
    type: Literal["supervised"]
    supervised: Supervised = Supervised()


class JobBody(Strict):
    """`suffix` is the specialist's name. `purpose`, `instructions`, `checker` go onto its card; with `replace` it may
    take over a name, if it is not worse than what answers to it now."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Name | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: Metadata | None = None
    purpose: Annotated[str, Field(max_length=512)] = ""
    instructions: Annotated[str, Field(max_length=8192)] = ""
    checker: Literal["exact", "json", "cron", "toolcall"] = "exact"
    replace: bool = False
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None

    def chosen(self) -> Hyperparameters:
        if self.hyperparameters and self.method:
            raise WireError(400, "hyperparameters stand in method or beside it, not in both.", param="hyperparameters")
        return self.method.supervised.hyperparameters if self.method else self.hyperparameters or Hyperparameters()

    def lesson(self, data: Path, test: Path | None) -> Lesson:
        chosen = self.chosen()
        named = {"epochs": chosen.n_epochs, "batch_rows": chosen.batch_size}
        settings: dict[str, Any] = {name: value for name, value in named.items() if value != "auto"}
        more = {"rank": chosen.rank, "activated": chosen.activated, "max_steps": chosen.max_steps, "seed": self.seed}
        settings |= {name: value for name, value in more.items() if value is not None}
        rate = chosen.learning_rate_multiplier
        return Lesson(
            name=self.suffix or f"ft-{secrets.token_hex(4)}",
            data=data,
            test=test,
            purpose=self.purpose,
            instructions=self.instructions,
            checker=self.checker,
            settings=settings,
            rate=None if rate == "auto" else rate,
            replace=self.replace,
        )

    def shown(self, lesson: Lesson) -> dict[str, Any]:
        """What the job says of itself."""
        three = self.chosen().model_dump(include={"n_epochs", "batch_size", "learning_rate_multiplier"})
        return {
            "model": self.model,
            "training_file": self.training_file,
            "validation_file": self.validation_file,
            "hyperparameters": three,
            "method": {"type": "supervised", "supervised": {"hyperparameters": three}},
            "seed": lesson.settings.get("seed", 0),
            "metadata": self.metadata or {},
            "paused": False,
            "fine_tuned_model": None,
            "finished_at": None,
            "estimated_finish": None,
            "trained_tokens": None,
            "error": None,
            "result_files": [],
            "organization_id": "plural",
            "integrations": [],
        }


def fine_tuning_routes(service: Service, folder: Path, jobs: Jobs) -> APIRouter:
    router = APIRouter(prefix="/v1/fine_tuning/jobs", dependencies=[needs("train")])
    store = service.store

    @router.post("", responses=sends(Job))
    async def create_job(body: JobBody, request: Request) -> Mapping[str, Any]:
        owner = visit_of(request).key.id
        base = service.backend.base_id
        if service.meant(body.model) != base:
            raise WireError(400, f"Specialists are trained on the base: model is {base!r}.", param="model")
        data = path_of(service, folder, body.training_file, owner, "training_file")
        test = path_of(service, folder, body.validation_file, owner, "validation_file")
        assert data is not None  # the file's id is required
        lesson = body.lesson(data, test)
        return jobs.start(owner, body.shown(lesson), lesson)

    @router.get("", openapi_extra=METADATA_FILTER, responses=sends(Page[Job]))
    async def list_jobs(request: Request, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        owner, metadata = visit_of(request).key.id, metadata_filter(request)
        records, more = store.page(JOB, owner, after=after, limit=limit, newest_first=True, metadata=metadata)
        return page_json([record.body["job"] for record in records], more)

    @router.get("/{job_id}", responses=sends(Job))
    async def retrieve_job(job_id: str, request: Request) -> Mapping[str, Any]:
        found: Mapping[str, Any] = store.get(JOB, job_id, visit_of(request).key.id).body["job"]
        return found

    @router.post("/{job_id}/cancel", responses=sends(Job))
    async def cancel_job(job_id: str, request: Request) -> Mapping[str, Any]:
        return jobs.cancel(job_id, visit_of(request).key.id)

    @router.post("/{job_id}/pause", responses=sends(Job))
    async def pause_job(job_id: str, request: Request) -> Mapping[str, Any]:
        return jobs.pause(job_id, visit_of(request).key.id)

    @router.post("/{job_id}/resume", responses=sends(Job))
    async def resume_job(job_id: str, request: Request) -> Mapping[str, Any]:
        return jobs.go_on(job_id, visit_of(request).key.id)

    @router.get("/{job_id}/checkpoints")
    async def list_job_checkpoints(
        job_id: str,
        request: Request,
        after: str | None = None,  # noqa: ARG001 - a page after the empty one is empty, too
        limit: Limit = 10,  # noqa: ARG001
    ) -> dict[str, Any]:
        """Always empty: what a training goes on from is no model that could be asked."""
        store.get(JOB, job_id, visit_of(request).key.id)
        return page_json([], False)

    @router.get("/{job_id}/events", responses=sends(Page[JobEvent]))
    async def list_job_events(
        job_id: str, request: Request, after: str | None = None, limit: Limit = 20
    ) -> dict[str, Any]:
        owner = visit_of(request).key.id
        store.get(JOB, job_id, owner)
        records, more = store.page(EVENT, owner, after=after, limit=limit, newest_first=True, model=job_id)
        return page_json([record.body for record in records], more)

    return router
