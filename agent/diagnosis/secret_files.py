"""Where a secret of the configuration can be read from by whoever asks; the secret itself is not looked at."""

import os
from pathlib import Path
from typing import NamedTuple

CREDENTIALS = Path("/etc/vedette/credentials")
"""Where ``vedette-setup`` takes the service's credentials from."""
_SUDO = "run it with sudo"


class SecretFile(NamedTuple):
    """The file, or why there is none. ``unsure``: this user may not know, the service may well have it."""

    path: Path | None
    fault: str = ""
    remedy: str = ""
    unsure: bool = False


def secret_file(reference: str, folder: Path = CREDENTIALS) -> SecretFile:
    """Return where the secret ``reference`` (``file:PATH`` or ``credential:NAME``) points to stands."""
    kind, _, rest = reference.partition(":")
    if kind == "file":
        path, said, remedy = Path(rest), f"secret {rest}", "create it, readable by user vedette only"
    else:
        given = os.environ.get("CREDENTIALS_DIRECTORY")
        path, said = Path(given or folder, rest), f"credential {rest}"
        remedy = f"write it to {folder / rest} (mode 0600), then `sudo vedette-setup`"
    try:
        path.stat()
    except PermissionError:
        return SecretFile(None, f"{said}: only the service and root may read it", _SUDO, unsure=True)
    except OSError as error:
        return SecretFile(None, f"{said}: {error.strerror}", remedy)
    if not os.access(path, os.R_OK):
        return SecretFile(None, f"{said}: this user may not read it", _SUDO, unsure=True)
    return SecretFile(path)
