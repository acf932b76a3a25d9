"""The SCIM endpoint in this process, and a client of it with a token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson

from connectors.store import Store
from deployments.scim import ScimEndpoint
from deployments.scim.app import PushedTo

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
BULK = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
BASE = "https://sync.example.org/scim/acme/v2"


def endpoint(store: Store) -> ScimEndpoint:
    """The endpoint with the sources acme and other."""
    return ScimEndpoint(
        store, {name: PushedTo("crowd", f"https://sync.example.org/scim/{name}/v2") for name in ("acme", "other")}
    )


class Client:
    """Calls the endpoint as an identity provider does."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """One request; a body that is no bytes is sent as JSON."""
        if body is not None:
            more["content"] = body if isinstance(body, bytes) else orjson.dumps(body)
            more.setdefault("headers", {}).setdefault("content-type", "application/scim+json")
        return await self.http.request(method, path, **more)

    async def user(self, username: str, **fields: Any) -> str:
        """A new user → its id."""
        made = await self.call("POST", "/Users", {"schemas": [USER], "userName": username, **fields})
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    async def group(self, name: str, *members: str) -> str:
        """A new group → its id."""
        listed = {"members": [{"value": one} for one in members]} if members else {}
        made = await self.call("POST", "/Groups", {"schemas": [GROUP], "displayName": name, **listed})
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    async def patch(self, path: str, *operations: Any, **more: Any) -> httpx.Response:
        """A PATCH with these operations."""
        return await self.call("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)}, **more)

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET that succeeds."""
        found = await self.call("GET", path, params=query)
        assert found.status_code == 200, found.text
        return found.json()

    async def members(self, group: str) -> set[str]:
        """The ids of a group's members."""
        return {one["value"] for one in (await self.get(f"/Groups/{group}")).get("members", ())}


@asynccontextmanager
async def client(store: Store, source: str = "acme", app: Any = None) -> AsyncIterator[Client]:
    """A client with a fresh token of a source."""
    _, token = store.make_token(source, days=30, now=datetime.now(UTC))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app or endpoint(store)),
        base_url=f"http://internal.example/scim/{source}/v2",
        headers={"authorization": f"Bearer {token}"},
    ) as http:
        yield Client(http)
