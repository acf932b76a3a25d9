"""Crowd's webhook, looked after: Crowd drops one that fails for long enough, and forgets all that a backup lacks.

The store keeps the registration under the stream `webhook:DIRECTORY`: its id as the cursor, and as the scope the
address with a digest of it and the token, so that a new address or token is seen.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from connectors.crowd_webhook import registered, unregister
from connectors.http import Http
from connectors.store import ReadCursor, Store, in_thread


async def look_after(store: Store, directory_name: str, client: Http, endpoint: str, token: str) -> str:
    """Makes sure that Crowd pings our address → what was found or done, in one sentence or two for a log.

    To be called on schedule, by one process of a directory at a time; nothing is written where all is well. `client`
    speaks to Crowd as the application (`Crowd.clients`); `endpoint` and `token` as in `connectors.crowd_webhook`.
    Wherever the answer does not begin with "Crowd's webhook stands", changes may have gone untold until now: the next
    read of Crowd's events finds them. Raises as `registered`, and `RetryableError` where the store does not answer.
    """
    stream, now = f"webhook:{directory_name}", datetime.now(UTC)
    scope = f"{endpoint} {hashlib.sha256(f'{endpoint} {token}'.encode()).hexdigest()[:16]}"
    row = await in_thread(store.cursor, stream)
    changed = row is not None and row.scope != scope
    if row is not None and changed:
        await unregister(client, row.cursor, row.scope.partition(" ")[0])
    known = None if row is None or changed else row.cursor
    found = await registered(client, endpoint, token, known)
    if found is None:
        if row is not None:
            await in_thread(store.save_cursor, stream, None, at=now)
        return "This Crowd offers no webhooks (it has them from 2.7 on): its changes are found on schedule only."
    if found == known:
        return f"Crowd's webhook stands ({found})."
    await in_thread(store.save_cursor, stream, ReadCursor(found, scope, now, 0), at=now)
    if row is None:
        return f"Crowd's webhook is registered ({found})."
    why = "our address or its token changed" if changed else "it was there no more; look whether its pings reach us"
    return f"Crowd's webhook is registered anew ({found} for {row.cursor}): {why}."
