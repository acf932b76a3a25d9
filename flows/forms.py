"""The forms of the deployments: which sources there are to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

from tasks.tell.page import say

Schema = dict[str, Any]
"""The JSON schema of a flow's parameters, as Prefect keeps it with a deployment."""


def with_sources(schema: Schema, sources: Iterable[str], *, also: bool = False) -> Schema:
    """A form in which the sources are a choice; `also`: beside those that it has. A form without any stays as it is."""
    made = deepcopy(schema)
    for field in _fields(made):
        field["enum"] = sorted({*sources, *(field.get("enum", ()) if also else ())})
        field.pop("examples", None)
    return made


def offers(schema: Schema, source: str) -> bool:
    """Whether a form takes this source."""
    return all(source in field["enum"] for field in _fields(schema) if "enum" in field)


async def offer(sources: Iterable[str]) -> None:
    """Puts sources that crowdsync.toml has by now into the forms that have others: Prefect's server starts no run of a
    source that its form does not know. (`crowdsync deploy` also takes those out that are gone.)"""
    wanted = sorted(sources)
    try:
        async with get_client() as client:
            ours = DeploymentFilter(tags=DeploymentFilterTags(all_=["crowdsync"]))
            for one in await client.read_deployments(deployment_filter=ours):
                schema = one.parameter_openapi_schema or {}
                if not all(offers(schema, source) for source in wanted):
                    form = with_sources(schema, wanted, also=True)
                    await client.update_deployment(one.id, DeploymentUpdate(parameter_openapi_schema=form))
                    say("The form of %s has new sources to choose from", one.name)
    except Exception as error:  # a form is not worth the sync of the others
        say("The forms keep their sources (%s): run crowdsync deploy", error or type(error).__name__)


def _fields(schema: Schema) -> Iterator[Schema]:
    """Where a source is named: `source`, each of `sources`, and `source` in a `request`."""
    properties = schema.get("properties", {})
    reference = properties.get("request", {}).get("$ref", "")
    request = schema.get("definitions", {}).get(reference.rpartition("/")[2], {})
    for one in (properties, request.get("properties", {})):
        if "source" in one:
            yield one["source"]
        if "sources" in one:
            yield one["sources"]["items"]
