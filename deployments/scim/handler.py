"""The operations of SCIM on a mirror: requests are read and answered outside of transactions, and do their work inside.

`scim2-server` calls its storage in the middle of its own steps, as often as it needs. Here each request has one
transaction: what reads has its own, and what writes is a job of the group that is committed next. In a job nothing else
writes, so that a PATCH never meets a resource that changed under it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from scim2_models import PatchOp, Resource, ResourceType, ResponseParameters
from scim2_server.conditions import Conditions
from scim2_server.handler import ScimHandler
from scim2_server.requests import ScimRequest
from scim2_server.responses import ScimResponse
from scim2_server.routing import Operation
from scim2_server.service import ScimService

from connectors.store import Store, in_thread
from connectors.store.mirror import MirrorJob, MirrorReading, MirrorWriting
from deployments.grouped import Grouped
from deployments.scim import members
from deployments.scim.dialects import spelled
from deployments.scim.resources import Resources, kind_of

T = TypeVar("T")

_SPELLED: Final = (Operation.create, Operation.replace, Operation.patch, Operation.bulk)


class Transaction(ScimHandler):
    """The operations in one transaction, members as rows."""

    storage: Resources

    def __init__(self, service: ScimService, mirror: MirrorReading) -> None:
        super().__init__(service, Resources(service, mirror))

    def patch_resource(
        self, resource_type: ResourceType, resource_id: str, patch_op: PatchOp[Any], conditions: Conditions
    ) -> Resource[Any]:
        """As `ScimHandler.patch_resource`. A group's members are changed without being read; what comes back of one
        that only had its members changed is id and version."""
        if kind_of(resource_type) == "user":
            return super().patch_resource(resource_type, resource_id, patch_op, conditions)
        row = self.storage.row("group", resource_id)
        stub = self.storage.stub(resource_type, row)
        self.service.check_preconditions(stub, "PATCH", conditions)
        parts = members.split(patch_op)
        if parts is None:
            return self._patch_whole(resource_type, resource_id, patch_op)
        done, rest = parts
        if rest is not None:
            super().patch_resource(resource_type, resource_id, rest, Conditions())
        self._members(resource_id, done)
        return self.storage.stub(resource_type, self.storage.row("group", resource_id))

    def _patch_whole(self, resource_type: ResourceType, resource_id: str, patch_op: PatchOp[Any]) -> Resource[Any]:
        """A PATCH that only makes sense with the members before it: slow where these are many."""
        group: Any = self.storage.get(resource_type, resource_id)
        group.members = [
            group.Members(value=one, type=kind.title()) for one, kind in self.storage.members.pop(resource_id)
        ]
        patched: Any = self.service.apply_patch(group, patch_op, Conditions())
        if patched is not None:
            listed = [one.model_dump() for one in patched.members or ()]
            self._members(resource_id, members.Membership(whole=True, join=members.entries(listed) if listed else {}))
            self.storage.update(resource_type, patched)
        return self.storage.stub(resource_type, self.storage.row("group", resource_id))

    def replace_resource(
        self,
        resource_type: ResourceType,
        current: Resource[Any],
        replacement: Resource[Any],
        conditions: Conditions,
    ) -> Resource[Any]:
        """As `ScimHandler.replace_resource`; a group without `members` has none afterwards (RFC 7644 3.5.1)."""
        if kind_of(resource_type) == "user":
            return super().replace_resource(resource_type, current, replacement, conditions)
        identity, given = str(current.id), cast(Any, replacement)
        listed = [one.model_dump() for one in given.members or ()]
        given.members = None
        super().replace_resource(resource_type, current, given, conditions)
        self._members(identity, members.Membership(whole=True, join=members.entries(listed) if listed else {}))
        return self.storage.get(resource_type, identity)

    def delete_resource(self, resource_type: ResourceType, resource_id: str, conditions: Conditions) -> None:
        """As `ScimHandler.delete_resource`, without reading more than the version."""
        row = self.storage.row(kind_of(resource_type), resource_id)
        self.service.check_deletion(self.storage.stub(resource_type, row), conditions)
        self.storage.delete(resource_type, resource_id)

    def _members(self, group: str, done: members.Membership) -> None:
        if not done.asked:
            return
        mirror = self.storage.writing
        leave = list(done.leave)
        if done.whole:
            leave = [one for one, _ in mirror.members(group) if one not in done.join]
        if leave:
            mirror.leave(group, leave)
        if done.join:
            mirror.join(group, done.join)


class PushHandler:
    """The operations of SCIM on the mirror of one source, for one request each."""

    def __init__(
        self, service: ScimService, store: Store, writer: Grouped[MirrorJob, Any], source: str, directory: str
    ) -> None:
        self._service, self._store, self._writer = service, store, writer
        self._source, self._directory = source, directory

    async def handle(self, request: ScimRequest) -> ScimResponse:
        """The answer to a request. Raises SCIM's errors, `RetryableError` and `RefusedError`."""
        with self._service.provider:
            target = self._service.match(request)
            if target.operation in _SPELLED:
                request.body = spelled(request.body)
            serve: Callable[[ScimRequest], Awaitable[ScimResponse]] = getattr(
                self, f"_{target.operation.value}", self._read
            )
            return await serve(request)

    def read(self, request: ScimRequest) -> ScimResponse:
        """The answer to a request that only reads; it blocks."""
        with self._service.provider, self._store.mirror(self._source) as mirror:
            transaction = Transaction(self._service, mirror)
            return _with_members(transaction.handle(request), transaction.storage, request)

    async def _read(self, request: ScimRequest) -> ScimResponse:
        return await in_thread(self.read, request)

    async def _create(self, request: ScimRequest) -> ScimResponse:
        resource_type = self._type(request, Operation.create)
        resource = self._service.read_creation(resource_type, request.body, request.header("Content-Type"))

        def create(transaction: Transaction) -> tuple[Resource[Any], Resources]:
            return transaction.storage.create(resource_type, resource), transaction.storage

        created, storage = await self._write(create)
        return _with_members(self._service.creation_response(request.base_url, created), storage, request)

    async def _replace(self, request: ScimRequest) -> ScimResponse:
        resource_type, identity, parameters = self._target(request, Operation.replace)
        given = self._service.read_replacement(resource_type, request.body, request.header("Content-Type"))
        conditions = self._service.read_conditions(request)

        def put(transaction: Transaction) -> tuple[Resource[Any], Resources]:
            current = transaction.storage.resource(
                resource_type, transaction.storage.row(kind_of(resource_type), identity)
            )
            replaced = transaction.replace_resource(resource_type, current, given, conditions)
            return _asked(transaction, resource_type, replaced, parameters), transaction.storage

        replaced, storage = await self._write(put)
        answer = self._service.replacement_response(request.base_url, replaced, parameters)
        return _with_members(answer, storage, request)

    async def _patch(self, request: ScimRequest) -> ScimResponse:
        resource_type, identity, parameters = self._target(request, Operation.patch)
        patch = self._service.read_patch(resource_type, request.body, request.header("Content-Type"))
        conditions = self._service.read_conditions(request)

        def change(transaction: Transaction) -> tuple[Resource[Any], Resources]:
            patched = transaction.patch_resource(resource_type, identity, patch, conditions)
            if parameters.attributes or parameters.excluded_attributes:
                patched = _asked(transaction, resource_type, patched, parameters)
            return patched, transaction.storage

        patched, storage = await self._write(change)
        answer = self._service.patch_response(request.base_url, patched, parameters)
        return _with_members(answer, storage, request)

    async def _delete(self, request: ScimRequest) -> ScimResponse:
        resource_type, identity, _ = self._target(request, Operation.delete)
        conditions = self._service.read_conditions(request)
        await self._write(lambda transaction: transaction.delete_resource(resource_type, identity, conditions))
        return self._service.deletion_response()

    async def _bulk(self, request: ScimRequest) -> ScimResponse:
        plan = self._service.read_bulk(request.body, request.header("Content-Type"))

        def steps(transaction: Transaction) -> None:
            for step in plan:
                plan.record(step, *transaction.run_bulk_step(request, plan, step))

        await self._write(steps)
        return self._service.bulk_response(plan)

    async def _write(self, work: Callable[[Transaction], T]) -> T:
        """Do work in the transaction of the next group; it is committed when this returns."""

        def run(mirror: MirrorWriting) -> T:
            with self._service.provider:  # (it runs in a thread that knows of no request)
                return work(Transaction(self._service, mirror))

        return cast(T, await self._writer.keep(MirrorJob(self._directory, self._source, run)))

    def _type(self, request: ScimRequest, operation: Operation) -> ResourceType:
        target = self._service.route(request, operation)
        return self._service.resource_type_at(str(target.endpoint))

    def _target(self, request: ScimRequest, operation: Operation) -> tuple[ResourceType, str, ResponseParameters[Any]]:
        target = self._service.route(request, operation)
        resource_type = self._service.resource_type_at(str(target.endpoint))
        parameters = self._service.read_response_parameters(resource_type, request.query)
        return resource_type, str(target.resource_id), parameters


def _asked(
    transaction: Transaction, resource_type: ResourceType, written: Resource[Any], parameters: ResponseParameters[Any]
) -> Resource[Any]:
    """What was written as it is now, with the members that the answer shows."""
    transaction.storage.members = {}
    return transaction.storage.get(resource_type, str(written.id), response_parameters=parameters)


def _with_members(answer: ScimResponse, storage: Resources, request: ScimRequest) -> ScimResponse:
    """The answer, with the members of its groups: the core would take 70 µs for each."""
    if answer.body and storage.parts:
        base = request.base_url
        for group in answer.body.get("Resources", [answer.body]):
            if found := storage.members.get(group.get("id")):
                group["members"] = members.shown(found, storage.parts, base)
    return answer
