"""Words as the page may show them: without any place on the box or in its network.

Whoever may see the page need not know where cameras, upstream and files are. It would rather hide too much of a line
than too little; ``vedette status`` shows the whole line to the agent's group.
"""

import re
from collections.abc import Iterable

from agent.redact import redact

ADDRESS, PATH = "(address)", "(path)"
_KNOWN = "\0"  # stands for a known path until the addresses, of which it may be a part, are found
# What ends a sentence's part is left behind an address: "rtsp://camera/1: no answer".
_END = r"[^\s:;,.)'\"]"
_ADDRESSES = re.compile(
    rf"""[a-z][a-z0-9+.-]*://(?:\S*{_END})?  # an URL
    | \[(?=[^\]]*:[^\]]*:)[0-9a-f:.]+(?:%\w+)?\](?::\d{{1,5}})?  # [2001:db8::7]:443
    | (?<![\w:.])(?=:*[0-9a-f])(?=[0-9a-f:]*::|(?:[0-9a-f]+:){{7}})[0-9a-f:.]{{2,}}(?:%\w+)?(?![\w:])  # 2001:db8::7
    | (?<![\w.])\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?::\d{{1,5}})?(?!\w)  # 192.0.2.7:443
    | (?<![\w.-])(?=[\w.-]*[a-z])\w[\w.-]*:\d{{2,5}}(?!\w|:\d\d(?!\d))  # camera.lan:554, and no time of day
    """, re.IGNORECASE | re.VERBOSE)
_PATHS = re.compile(
    rf"""(?P<quote>['"])(?:~|\.\.?)?/(?:(?!(?P=quote))[^\n])+(?P=quote)  # one in quotes may hold blanks, other quotes
    | (?<![\w/.~])(?:~|\.\.?)?/(?=\w|[.~-])(?:\S*{_END})?""", re.VERBOSE)


def public(text: str, places: Iterable[str] = ()) -> str:
    """Return ``text`` with each address as ``(address)`` and each absolute path as ``(path)``.

    Args:
        text: What the agent says of itself.
        places: Paths that are known: of one that holds blanks nobody could tell where it ends.
    """
    text = redact(text)
    for place in sorted(filter(None, places), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(place)}(?!\w)", _KNOWN, text)
    return _PATHS.sub(PATH, _ADDRESSES.sub(ADDRESS, text)).replace(_KNOWN, PATH)
