"""The secret of the service's own Ray cluster.

Ray's processes listen on every interface of the machine, and whoever they listen to may run code there. So
each call carries this token.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path


def ray_token(folder: Path) -> Path:
    """The file in ``folder`` that has the token; made where there is none, readable by its owner alone."""
    path = folder / "ray-token"
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        # Another start may do the same at this moment.
        fcntl.flock(file, fcntl.LOCK_EX)
        if not file.read():
            file.write(secrets.token_hex(32))
    return path


def authorization(token: Path) -> dict[str, str]:
    """The HTTP header with which Ray's dashboard answers."""
    return {"Authorization": f"Bearer {token.read_text()}"}
