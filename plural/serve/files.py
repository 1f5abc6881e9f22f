"""/v1/files: what specialists are trained on. A file lies under an id of ours; its own name is only remembered."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse

from plural.errors import StorageError
from plural.serve.errors import WireError
from plural.serve.service import Service, needs, visit_of
from plural.serve.shapes import Deleted, File, Page, sends
from plural.serve.store import Record, page_json
from plural.serve.stored import Order

KIND = "file"
_FIELDS = {"file", "purpose"}
_MOST_FIELDS = 16  # so many that one that is not supported can be named
# For the schema: the form is read by hand, so that a field that is not supported can be named.
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "const": "fine-tune"},
                    },
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                }
            }
        },
    }
}
_CONTENT: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}


def file_routes(service: Service, folder: Path) -> APIRouter:
    router = APIRouter(dependencies=[needs("train")])
    store = service.store

    @router.post("/v1/files", openapi_extra=_FORM, responses=sends(File))
    async def create_file(request: Request) -> Mapping[str, Any]:
        owner = visit_of(request).key.id
        async with request.form(max_files=1, max_fields=_MOST_FIELDS) as form:
            unknown = sorted(set(form) - _FIELDS)
            if unknown:
                raise WireError(400, f"{', '.join(unknown)} is not supported.", param=unknown[0])
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                raise WireError(400, "file is missing: send it as multipart/form-data.", param="file")
            if form.get("purpose") != "fine-tune":
                raise WireError(400, "purpose must be fine-tune: files are for training.", param="purpose")
            id = f"file-{secrets.token_hex(12)}"
            size = await asyncio.to_thread(_keep, upload, folder / id)
            body = {
                "id": id,
                "object": "file",
                "bytes": size,
                "created_at": int(time.time()),
                "filename": (upload.filename or "data.jsonl")[:255],
                "purpose": "fine-tune",
                "status": "processed",
            }
        # Asked when it is there, with no await until it is counted: others may have been uploaded meanwhile.
        if (total := store.bytes_of(KIND, owner) + size) > service.settings.upload_total:
            (folder / id).unlink()
            raise _too_many(total, service.settings.upload_total)
        store.put(Record(KIND, id, owner, body))
        return body

    @router.get("/v1/files", responses=sends(Page[File]))
    async def list_files(
        request: Request,
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Order = "desc",
    ) -> dict[str, Any]:
        if purpose not in (None, "fine-tune"):
            return page_json([], False)
        owner = visit_of(request).key.id
        records, more = store.page(KIND, owner, after=after, limit=limit, newest_first=order == "desc")
        return page_json([record.body for record in records], more)

    @router.get("/v1/files/{file_id}", responses=sends(File))
    async def retrieve_file(file_id: str, request: Request) -> Mapping[str, Any]:
        return store.get(KIND, file_id, visit_of(request).key.id).body

    @router.get("/v1/files/{file_id}/content", responses=_CONTENT, response_class=FileResponse)
    async def retrieve_content(file_id: str, request: Request) -> FileResponse:
        record = store.get(KIND, file_id, visit_of(request).key.id)
        return FileResponse(folder / record.id, media_type="application/octet-stream")

    @router.delete("/v1/files/{file_id}", responses=sends(Deleted))
    async def delete_file(file_id: str, request: Request) -> dict[str, Any]:
        store.delete(KIND, file_id, visit_of(request).key.id)
        (folder / file_id).unlink(missing_ok=True)
        return {"id": file_id, "object": "file", "deleted": True}

    return router


def path_of(service: Service, folder: Path, file_id: str | None, owner: str, param: str) -> Path | None:
    """Where a file that somebody has uploaded lies. Raises WireError for one that is not theirs."""
    if file_id is None:
        return None
    try:
        return folder / service.store.get(KIND, file_id, owner).id
    except WireError as error:
        raise WireError(400, error.message, code="file_not_found", param=param) from error


def _too_many(total: int, most: int) -> WireError:
    said = f"This API key's files would be {total} bytes, of {most} at most: delete some (DELETE /v1/files/ID)."
    return WireError(413, said, code="upload_total_exceeded", param="file")


def _keep(upload: UploadFile, path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("xb") as file:
            path.chmod(0o600)
            shutil.copyfileobj(upload.file, file)
        return path.stat().st_size
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StorageError(f"The file could not be kept: {error.strerror}.", hint="Free some space.") from error
