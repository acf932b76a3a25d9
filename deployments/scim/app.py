"""The ASGI app: who asks, what is read of a request, and an answer whatever comes in.

It is mounted at `/scim/{source}/v2`. A wrong source, no token, a wrong, an ended or a revoked one are one and the same
401, before anything of the request is read.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from pydantic import ValidationError
from scim2_models import (
    AuthenticationScheme,
    Bulk,
    ChangePassword,
    Context,
    Error,
    ETag,
    External,
    Filter,
    InvalidFilterException,
    InvalidSyntaxException,
    NotFoundException,
    Patch,
    PayloadTooLargeException,
    Reference,
    ResourceType,
    Returned,
    Schema,
    SCIMException,
    ScimPolicy,
    ScimProvider,
    SearchRequest,
    ServiceProviderConfig,
    Sort,
)
from scim2_server.requests import ScimRequest
from scim2_server.responses import ScimResponse
from scim2_server.service import ScimService, scim_exception_of
from scim2_server.storage import SearchPage
from scim2_server.utils import load_default_resource_types, load_default_schemas

from connectors.errors import CrowdsyncError, RetryableError
from connectors.store import Store, in_thread
from connectors.store.mirror import MirrorJob
from connectors.store.tokens import Token
from deployments.grouped import Grouped
from deployments.scim import filters
from deployments.scim.dialects import unholdable
from deployments.scim.handler import PushHandler

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LARGEST: Final = 8 * 2**20
"""Bytes of a body: a group of 100,000 members."""
BULK: Final = 2**20
PAGE: Final = 200
FIELDS: Final = 50
"""Parameters of a query."""
READERS: Final = 2
"""So many requests read at once: more take turns at one interpreter, which costs a fifth, and what is to be kept
waits for none of them."""

_PATH: Final = re.compile(r"/scim/([A-Za-z0-9_-]{1,40})/v2(/.*)?\Z", re.DOTALL)
_BEARER: Final = re.compile(rb"(?i:bearer) +([A-Za-z0-9._~+/=-]{1,200})")

log: Final = logging.getLogger("crowdsync.scim")


@dataclass(frozen=True, slots=True)
class PushedTo:
    """Where what a source pushes goes: the directory that is told of it, and the public address of its SCIM root."""

    directory: str
    base_url: str


class Service(ScimService):
    """`scim2-server` with our settings. One for all sources."""

    def error_of(self, exception: Exception) -> Error:  # type: ignore[override]
        """An error that is nobody's fault is one for later: a sender who is told 4xx drops what it sent."""
        if isinstance(exception, ValidationError):
            return scim_exception_of(exception).to_error()
        if isinstance(exception, SCIMException):
            return exception.to_error()
        return Error(status=503, detail="This cannot be taken at the moment; send it again.")

    def search_response(
        self,
        base_url: str,
        resource_types: list[ResourceType],
        page: SearchPage,
        search_request: SearchRequest[Any],
    ) -> ScimResponse:
        """As `ScimService.search_response`, which validates what it made of each resource, and makes it once more: a
        fifth of the time of a search."""
        listed = SearchPage(page.total, [])
        answer = super().search_response(base_url, resource_types, listed, search_request)
        shown = [
            self.publish(base_url, one).model_dump(
                scim_ctx=Context.RESOURCE_QUERY_RESPONSE, response_parameters=search_request
            )
            for one in page.resources
        ]
        assert answer.body is not None
        if shown:
            answer.body |= {"itemsPerPage": len(shown), "Resources": shown}
        return answer


@cache
def service() -> Service:
    """What we serve, and how much of what clients do differently is understood. Made once: its models take a while."""
    config = ServiceProviderConfig(
        patch=Patch(supported=True),
        bulk=Bulk(supported=True, max_operations=1000, max_payload_size=BULK),
        filter=Filter(supported=True, max_results=PAGE),
        change_password=ChangePassword(supported=False),
        sort=Sort(supported=False),
        etag=ETag(supported=True),
        authentication_schemes=[
            AuthenticationScheme(
                type=AuthenticationScheme.Type.oauthbearertoken,
                name="Bearer token",
                description="Made by `crowdsync tokens make`",
                spec_uri=Reference[External]("https://datatracker.ietf.org/doc/html/rfc6750"),
                primary=True,
            )
        ],
    )
    policy = ScimPolicy(
        unknown=ScimPolicy.Unknown.ignore,
        remove_value_as_filter=ScimPolicy.RemoveValue.apply,
        unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create,
    )
    kinds = load_default_resource_types().values()
    return Service(ScimProvider.from_discovery(schemas(), kinds, config=config, policy=policy))


def schemas() -> list[Schema]:
    """Those of RFC 7643, less what is not kept, so that nobody is told that it was: passwords, and what a member is
    called. A user's groups are never returned: they are found by `members.value eq`."""
    found = load_default_schemas()
    for schema in found.values():
        schema.attributes = [one for one in schema.attributes or () if one.name != "password"]
        for one in schema.attributes:
            if one.name == "members":
                one.sub_attributes = [part for part in one.sub_attributes or () if part.name != "display"]
            elif one.name == "groups":
                one.returned = Returned.never
    return list(found.values())


class ScimEndpoint:
    """`sources`: those that push, by name. Whatever comes in, the answer is one of SCIM, and never a 500."""

    def __init__(self, store: Store, sources: Mapping[str, PushedTo]) -> None:
        self._store, self._sources = store, dict(sources)
        self._service = service()
        self._writer = Grouped[MirrorJob, Any](lambda jobs: store.write_mirror(jobs))
        self._reading = asyncio.Semaphore(READERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, whatever the mount: the path holds `/scim/{source}/v2`."""
        try:
            answer = await self._answer(scope, receive)
        except Exception as error:
            answer = self._wrong(error)
        answer.headers.setdefault("Cache-Control", "no-cache")
        body = b"" if answer.body is None else orjson.dumps(answer.body)
        if answer.body is None:
            del answer.headers["Content-Type"]
        else:
            answer.headers["Content-Length"] = str(len(body))
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": int(answer.status), "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> ScimResponse:
        if scope["method"] == "GET":  # (what it has of a body means nothing)
            async with self._reading:
                return await in_thread(self._read, scope)
        opened = await in_thread(self._opened, scope)
        if opened is None:
            return _unauthorized()
        handler, request = opened
        request.body = await _body(receive, BULK if request.path.lower() == "/bulk" else LARGEST)
        return await handler.handle(request)

    def _read(self, scope: Scope) -> ScimResponse:
        """The answer to a request that only reads: with its token in one call of a thread, which costs as much as
        either."""
        opened = self._opened(scope)
        return _unauthorized() if opened is None else opened[0].read(opened[1])

    def _opened(self, scope: Scope) -> tuple[PushHandler, ScimRequest] | None:
        """A request but for its body, and what handles it, if its token opens the source that it names."""
        found, token = _PATH.search(scope["path"]), self._token(scope["headers"])
        source = found[1] if found else ""
        if found is None or token is None or token.source != source or source not in self._sources:
            return None
        to, path = self._sources[source], found[2] or "/"
        if unholdable(path) or not path.isprintable():
            raise NotFoundException(detail="There is nothing here.")
        request = ScimRequest(
            method=scope["method"],
            base_url=to.base_url,
            path=path.removesuffix(".scim"),
            query=_query(scope["query_string"]),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
        )
        return PushHandler(self._service, self._store, self._writer, source, to.directory), request

    def _token(self, headers: Iterable[tuple[bytes, bytes]]) -> Token | None:
        """The token of a request, if it lives."""
        given = [value for name, value in headers if name.lower() == b"authorization"]
        fits = _BEARER.fullmatch(given[0].strip()) if len(given) == 1 else None
        if fits is None:
            return None
        now = datetime.now(UTC)
        # (Each time anew: one that is revoked opens nothing more.)
        token = self._store.token(fits[1].decode())
        if token is None or not token.lives(now):
            return None
        if token.used_on != now.date():
            self._store.used_token(token.id, now.date())
        return token

    def _wrong(self, error: Exception) -> ScimResponse:
        """The answer to a request that failed. What went wrong here is logged, without a word of what was sent."""
        answer = self._service.error_response(error)
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            wait = error.retry_after if isinstance(error, RetryableError) else None
            answer.headers["Retry-After"] = str(int(wait or 30))
            if isinstance(error, CrowdsyncError):
                log.error("not taken: %s", error)
            else:
                where = "".join(traceback.format_tb(error.__traceback__))
                log.error("not taken: %s\n%s", type(error).__name__, where)
        return answer


def _unauthorized() -> ScimResponse:
    error = Error(status=401, detail="A valid bearer token is needed.")
    return ScimResponse(HTTPStatus.UNAUTHORIZED, error.model_dump(), {"WWW-Authenticate": 'Bearer realm="SCIM"'})


def _query(raw: bytes) -> dict[str, str]:
    try:
        found = dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=FIELDS, errors="strict"))
    except ValueError:
        raise InvalidSyntaxException(detail="The query is no UTF-8, or has too many parameters.") from None
    if any(unholdable(value) for value in found.values()):
        raise InvalidSyntaxException(detail="The query has a character that cannot be kept.")
    if len(found.get("filter", "")) > filters.LONGEST:
        raise InvalidFilterException(detail=f"A filter has {filters.LONGEST} characters at most.")
    return found


async def _body(receive: Receive, largest: int) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidSyntaxException(detail="The request ended before its body did.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > largest:
            raise PayloadTooLargeException(detail=f"A body has {largest} bytes at most.")
        more = message.get("more_body", False)
    return b"".join(parts)
