"""The application: endpoints, page, guard and jobs around one worker."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from openlance import __version__
from openlance.apps.serve import chat, errors, images, videos
from openlance.apps.serve.guard import Guard
from openlance.apps.serve.jobs import JobStore
from openlance.apps.serve.media import MediaDoor
from openlance.apps.serve.pool import Pool
from openlance.apps.serve.runner import JobRunner
from openlance.apps.serve.service import Service, ServiceOf
from openlance.apps.serve.settings import ServeSettings
from openlance.apps.serve.worker import Worker

if TYPE_CHECKING:
    from openlance.pipeline import Lance


def build_app(lance: "Lance", settings: ServeSettings, pool: Pool | None = None) -> FastAPI:
    """The whole server for one loaded model, with a worker of its own or a pool. Worker and jobs run while the app's lifespan does."""
    worker = pool or Worker(lance, settings.worker)
    door = MediaDoor(settings)
    store = JobStore(settings.data_dir / "videos", settings.job_seconds, settings.jobs_bytes)
    service = Service(worker, settings, door, int(time.time()))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runner = app.state.runner = JobRunner(worker, store, door, settings.jobs_at_once)
        worker.start()
        runner.start()
        try:
            yield
        finally:
            await runner.stop()
            await asyncio.to_thread(worker.stop)
            store.close()

    app = FastAPI(
        title="openlance",
        version=__version__,
        summary="One model that understands, generates and edits images and videos, behind the OpenAI API",
        lifespan=lifespan,
        responses={code: {"description": text, "model": None} for code, text in ERRORS.items()},
    )
    app.state.service, app.state.jobs = service, store
    for router in (chat.router, images.router, videos.router):
        app.include_router(router)
    _add_overview(app)
    errors.install(app)
    if settings.web:
        from openlance.apps.serve.web.page import mount_page

        app = mount_page(app, service)
    app.add_middleware(Guard, settings=settings, metrics=worker.metrics)
    return app


ERRORS: dict[int | str, str] = {
    400: "The request cannot be done as it is",
    401: "No valid API key",
    403: "Not from here",
    404: "Not found",
    408: "The body came too slowly",
    413: "The body is too long",
    429: "The queue is full; Retry-After says when to try again",
    503: "Not now: shutting down or out of memory",
    504: "Not finished in time",
}


def _add_overview(app: FastAPI) -> None:
    def model_of(service: Service) -> dict[str, Any]:
        return {"id": service.model_id, "object": "model", "created": service.created, "owned_by": "openlance"}

    @app.get("/v1/models", tags=["models"], summary="The loaded model")
    def models(service: ServiceOf) -> dict[str, Any]:
        return {"object": "list", "data": [model_of(service)]}

    @app.get("/v1/models/{model}", tags=["models"], summary="One model")
    def model(service: ServiceOf, model: str) -> dict[str, Any]:
        service.check_model(model)
        return model_of(service)

    @app.get("/health", tags=["operation"], summary="Whether requests are served")
    def health(service: ServiceOf) -> JSONResponse:
        alive = service.worker.alive
        return JSONResponse({"status": "ok" if alive else "failed", "model": service.model_id}, 200 if alive else 503)

    @app.get("/metrics", tags=["operation"], summary="Numbers for Prometheus", response_class=Response)
    def metrics(service: ServiceOf, request: Request) -> Response:
        return Response(service.worker.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
