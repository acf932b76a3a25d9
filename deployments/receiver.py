"""`crowdsync receive`: what comes in by itself, proved, put into the inbox, and answered; in this order.

    GET|POST /webhooks/SOURCE    what an identity provider sends (`connectors.hooks`)
    POST     /events/SOURCE      security event tokens
    POST     /crowd/DIRECTORY    Crowd's own webhook, which says that something changed
             /scim/SOURCE/v2/…   what an identity provider pushes (`deployments.scim`)
    GET      /health  /ready  /metrics

Nothing is read from a source or from Crowd here, and nothing of Prefect is imported.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections import Counter as Counts
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router

from connectors.errors import ConfigurationError, CrowdsyncError, RecordError
from connectors.hook import Accepted, Answer, Delivery, Hook, MalformedError, NotVerifiedError
from connectors.hooks import events_of, hook_of, webhook_secrets
from connectors.hooks.crowd import Ping, ping_secrets
from connectors.idp.push import PushSettings
from connectors.settings import Settings
from connectors.store import Store, in_thread
from connectors.store.inbox import Incoming, forget
from connectors.transmitter import keys_of
from deployments.gate import Gate, Receive, Scope, Send
from deployments.grouped import Grouped
from deployments.scim import ScimEndpoint
from deployments.scim.app import PushedTo
from tasks.tell.dashboard import concerns

FRESH: Final = 10.0
"""Seconds after which secrets are read anew, so that they can be exchanged without a restart."""
PATIENCE: Final = 2.5
"""Seconds in which the store must have kept what came: senders wait for three."""
KEYS: Final = 600.0
"""Seconds after which the public keys of issuers are read anew."""

log = logging.getLogger("crowdsync.receive")


class Figures:
    """What Prometheus is told."""

    def __init__(self, store: Store, sources: Mapping[str, Sequence[str]]) -> None:
        mine = self.registry = CollectorRegistry()
        said, named = "Requests that came in, by what was answered.", "People and groups that were named."
        turned, lost = "Requests turned away before they were looked at.", "Requests that could not be taken (503)."
        self.deliveries = Counter("crowdsync_deliveries", said, ["source", "answer"], registry=mine)
        self.hints = Counter("crowdsync_hints", named, ["source", "via"], registry=mine)
        self.refused = Counter("crowdsync_requests_refused", turned, ["status"], registry=mine)
        self.failed = Counter("crowdsync_requests_failed", lost, registry=mine)
        self.seconds = Histogram("crowdsync_delivery_seconds", "From a request to its answer.", registry=mine)
        self.store, self.sources = store, sources
        self.registry.register(self)

    def collect(self) -> Sequence[GaugeMetricFamily]:
        """How much of the inbox is open, and how each source stands, as the store has it now."""
        by = ["source", "status"]
        rows = GaugeMetricFamily("crowdsync_inbox_hints", "Hints that wait, or are held.", labels=by)
        age = GaugeMetricFamily("crowdsync_inbox_oldest_seconds", "Age of the oldest of them.", labels=by)
        now = datetime.now(UTC)
        for one in self.store.waiting().to_dict("records"):
            labels = [one["source"] or one["directory"], one["status"]]
            rows.add_metric(labels, one["rows"])
            age.add_metric(labels, (now - one["oldest"]).total_seconds())
        return rows, age, *self._standing(now)

    def _standing(self, now: datetime) -> Sequence[GaugeMetricFamily]:
        """What `crowdsync status` says, in numbers."""
        by = ["directory", "source"]
        good, held, waits, pause = (
            GaugeMetricFamily(f"crowdsync_{name}", text, labels=by)
            for name, text in (
                ("last_good_run_timestamp_seconds", "When a run about everybody last left Crowd in step; 0: never."),
                ("held_records", "Records that are held."),
                ("concerns", "What waits for somebody, or is overdue, as crowdsync status lists it."),
                ("quarantined", "1 while the source is in quarantine."),
            )
        )
        found = self.store.overview(self.sources, now)
        told = Counts((one.directory, one.source) for one in concerns(found))
        for directory in found.directories:
            waits.add_metric([directory.directory, ""], told[directory.directory, ""])
            for one in directory.sources:
                labels = [directory.directory, one.source]
                good.add_metric(labels, one.in_step.timestamp() if one.in_step else 0)
                held.add_metric(labels, sum(one.held.values()))
                waits.add_metric(labels, told[directory.directory, one.source])
                pause.add_metric(labels, one.quarantine is not None)
        return good, held, waits, pause


@dataclass(slots=True)
class Keys:
    """The public keys of those who sign event tokens, read again now and then. A token under a key that is not known
    yet is turned away, and comes again."""

    settings: Settings
    hooks: dict[str, Hook] = field(default_factory=dict)

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            for name, source in self.settings.sources.items():
                if source.events is not None:
                    try:
                        self.hooks[name] = events_of(name, source, await keys_of(name, source.events))
                    except CrowdsyncError as error:  # those that are known stay so
                        log.error("%s", error)
            await asyncio.sleep(KEYS)


@dataclass(slots=True)
class Receiver:
    """The routes, and what they need."""

    settings: Settings
    store: Store
    inbox: Grouped[Incoming, int]
    figures: Figures
    keys: Keys
    secrets: dict[str, tuple[float, tuple[str, ...]]] = field(default_factory=dict)

    async def webhook(self, request: Request) -> Response:
        """What an identity provider sends."""
        name = request.path_params["source"]
        try:
            chosen = self.settings.source(name)
            hook = hook_of(name, chosen)
        except ConfigurationError:  # as where the secret is wrong: nobody learns which sources there are
            return await self._answered(name, request, None, ())
        return await self._answered(name, request, hook, self._secrets(name, lambda: webhook_secrets(name, chosen)))

    async def event(self, request: Request) -> Response:
        """A security event token."""
        name = request.path_params["source"]
        return await self._answered(name, request, self.keys.hooks.get(name), ())

    async def crowd(self, request: Request) -> Response:
        """Crowd says that something changed."""
        name = request.path_params["directory"]
        chosen = next((one for one in self.settings.all_directories() if one.name == name), None)
        secrets = self._secrets(f"directory {name}", lambda: ping_secrets(chosen)) if chosen else ()
        return await self._answered("", request, Ping() if chosen else None, secrets, directory=name)

    async def _answered(
        self, source: str, request: Request, hook: Hook | None, secrets: Sequence[str], *, directory: str = ""
    ) -> Response:
        began = time.perf_counter()
        body = await request.body()
        headers = {name.decode(): value.decode() for name, value in request.scope["headers"]}
        delivery = Delivery(request.method, request.url.path, dict(request.query_params), headers, body)
        label = source if source in self.settings.sources else directory if hook and directory else "unknown"
        try:
            if hook is None:
                raise NotVerifiedError
            accepted = hook.verify(delivery, secrets, datetime.now(UTC))
            await self._keep(source, directory, accepted)
            answer = accepted.answer
        except (NotVerifiedError, MalformedError) as error:
            answer = error.answer
        except RecordError as error:
            answer = Answer(400, str(error).encode(), "text/plain; charset=utf-8")
        self.figures.deliveries.labels(label, str(answer.status)).inc()
        self.figures.seconds.observe(time.perf_counter() - began)
        return Response(answer.body, answer.status, media_type=answer.content_type or None)

    async def _keep(self, source: str, directory: str, accepted: Accepted) -> None:
        """Puts the news into the inbox, for good."""
        if accepted.confirm:
            log.warning("%s: confirm the subscription once, by opening %s", source, accepted.confirm)
        if not accepted.news:
            return
        where = directory or self.settings.directory_of(source).name
        news = tuple((one.kind, one.key, one.via) for one in accepted.news)
        incoming = Incoming(where, source, news, accepted.delivery, datetime.now(UTC))
        # (What is kept after that, and sent again, is not taken twice.)
        await asyncio.wait_for(self.inbox.keep(incoming), PATIENCE)
        for one in accepted.news:
            self.figures.hints.labels(source or where, one.via).inc()

    def _secrets(self, name: str, read: Any) -> tuple[str, ...]:
        """The live secrets; none where they cannot be read, so that nobody is let in."""
        at, known = self.secrets.get(name, (0.0, ()))
        if time.monotonic() - at > FRESH:
            try:
                known = read()
            except ConfigurationError as error:
                log.error("%s", error)
                known = ()
            self.secrets[name] = time.monotonic(), known
        return known

    async def health(self, _: Request) -> Response:
        """That the process lives."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """That what comes in can be kept."""
        await in_thread(self.store.next_due, "")
        return PlainTextResponse("ready\n")

    async def metrics(self, _: Request) -> Response:
        """As Prometheus reads them."""
        text = await in_thread(generate_latest, self.figures.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@asynccontextmanager
async def receiving(settings: Settings, store: Store) -> AsyncIterator[Gate]:
    """The application, and what goes on beside it."""
    sources = {one.name: settings.sources_of(one.name) for one in settings.all_directories()}
    figures, keys = Figures(store, sources), Keys(settings)
    receiver = Receiver(settings, store, Grouped(lambda some: store.accept_all(some)), figures, keys)
    routes = [
        Route("/webhooks/{source}", receiver.webhook, methods=["GET", "POST"]),
        Route("/events/{source}", receiver.event, methods=["POST"]),
        Route("/crowd/{directory}", receiver.crowd, methods=["POST"]),
        Route("/health", receiver.health),
        Route("/ready", receiver.ready),
        Route("/metrics", receiver.metrics),
    ]
    # (Not `Starlette`, which would answer what goes wrong with a 500 before it is told.)
    others = Router(routes)
    pushed = {
        name: PushedTo(settings.directory_of(name).name, source.scim_address(name))
        for name, source in settings.sources.items()
        if isinstance(source, PushSettings)
    }
    scim = ScimEndpoint(store, pushed)

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        await (scim if scope["path"].startswith("/scim/") else others)(scope, receive, send)

    gate = Gate(
        inside,
        settings.receiver.max_megabytes << 20,
        lambda status: figures.refused.labels(str(status)).inc(),
        figures.failed.inc,
    )
    beside = [asyncio.create_task(keys.watch()), asyncio.create_task(forget(store))]
    try:
        yield gate
    finally:
        for one in beside:
            one.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


def _unheard(error: OSError) -> str:
    """Why an address cannot be listened on, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already (another crowdsync receive?); end it, or name another --port"
    return f"cannot be listened on: {error.strerror or error}; name another --host or --port"


async def serve(settings: Settings, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Listens until the process is told to end; `ready` is told the address. Raises `ConfigurationError`."""
    try:
        listening = socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise ConfigurationError(f"--host {host} --port {port}: {_unheard(error)}") from None
    with await in_thread(Store.open, settings.store_url(), busy=min(settings.store.busy, PATIENCE)) as store:
        async with receiving(settings, store) as application:
            config = uvicorn.Config(
                application, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none",
                timeout_keep_alive=75, timeout_graceful_shutdown=10,
            )  # fmt: skip
            ready("http://{}:{}".format(*listening.getsockname()[:2]))
            await uvicorn.Server(config).serve([listening])
