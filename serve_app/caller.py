"""Which member a request is of. The only place that reads ``X-Limner-User``.

The header is believed as it comes: until requests are authenticated here, a gateway in front of Limner has
to set it on every request, and has to drop what clients send under its name.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Request

from core.errors import MalformedRequest
from core.training import LOCAL_USER

USER_HEADER = "X-Limner-User"
MAX_USER_CHARS = 128
# What e-mail addresses, UUIDs, URNs and most subject identifiers are made of.
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+|=~-]{0,127}")
_ALLOWED = "letters, digits and ._:@+|=~- after a first letter or digit, in ASCII"
_DESCRIPTION = (
    "The member that the request is of: adapters and jobs are that member's alone. Set by the gateway in "
    f"front of the service, which authenticates members; `{LOCAL_USER}` if left out. 1 to {MAX_USER_CHARS} "
    f"characters: {_ALLOWED}."
)


async def _caller(
    request: Request,
    # For the OpenAPI document; a header that is sent twice shows in the request alone.
    x_limner_user: Annotated[
        str, Header(alias=USER_HEADER, description=_DESCRIPTION, examples=["member-4711"])
    ] = LOCAL_USER,
) -> str:
    sent = request.headers.getlist(USER_HEADER)
    if not sent:
        return LOCAL_USER
    if len(sent) > 1 or not _USER.fullmatch(sent[0]):
        raise MalformedRequest(
            f"The header is sent once, with 1 to {MAX_USER_CHARS} characters: {_ALLOWED}.",
            field=USER_HEADER,
            limit=MAX_USER_CHARS,
        )
    return sent[0]


CallingMember = Depends(_caller)
Caller = Annotated[str, CallingMember]
