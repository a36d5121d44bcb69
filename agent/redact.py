"""Text without the secrets of the URLs in it; every message that may hold an address passes through here.

It knows secrets by their place only (before an ``@``, behind a query key such as ``token``), not by their value, and
would rather hide too much of a line than too little.
"""

import re

HIDDEN = "***"

# A password typed raw may hold "/", "?", blanks and even "@": only the last "@" of the line surely ends it.
_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\n]*@")
# Raw values may hold "&" too, so everything up to the next blank goes. Some cameras take a login in the path:
# rtsp://cam/user=admin_password=…_channel=1.
_QUERY = re.compile(
    r"([?&;/][\w.=-]*(?:token|pass|pwd|key|auth|secret|credential|signature)[\w.-]*=)\S+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return ``text`` without user and password of any URL and without the values of secret query keys.

    In a line with an ``@`` behind a URL's ``://`` all that lies between the two is hidden.
    """
    return _QUERY.sub(rf"\1{HIDDEN}", _LOGIN.sub(rf"\1{HIDDEN}@", text))
