"""The SCIM 2.0 endpoint for identity providers that push (RFC 7643, RFC 7644), and the mirror that they write.

    request ─▶ app: token, size ─▶ dialects: one spelling ─▶ scim2-server: the protocol ─▶ mirror + inbox ─▶ answer

`scim2-server` reads and validates requests and makes answers. What it would do slowly is done here: searches are SQL by
index (`filters`), members are rows and no list in memory (`members`), and requests that write are committed together
(`deployments.grouped`), each answered after its commit.
"""

from deployments.scim.app import ScimEndpoint

__all__ = ["ScimEndpoint"]
