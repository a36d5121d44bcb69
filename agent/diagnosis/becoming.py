"""As whom root looks: cameras, models and libraries are for the service's user, as they are in the service itself."""

import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

import agent
from agent.diagnosis.accounts import access, account_of
from agent.machine import User

NAME = "vedette"
ROOTS = frozenset({"disk", "upstream", "sensors", "jtop"})
"""The probes that keep the rights of who asks: they load nothing that a camera or the service wrote."""


def service_user(find: Callable[[str], pwd.struct_passwd] = pwd.getpwnam) -> User | None:
    """Return the user as whom root's probes run; None for everybody but root, and where there is no such user.

    Also None where that user cannot read this program: a checkout in root's home, say.

    Args:
        find: Looks an account up by its name, and raises KeyError where there is none.
    """
    if os.geteuid() != 0:
        return None
    try:
        found = find(NAME)
    except KeyError:
        return None
    who = account_of(found)
    if who.uid == 0 or any(access(who, Path(file)) != "yes" for file in _program()):
        return None
    return User(uid=who.uid, gid=found.pw_gid, groups=who.gids, name=found.pw_name, home=found.pw_dir)


def _program() -> list[str]:
    return [file for file in (sys.executable, os.__file__, agent.__file__, msgspec.__file__) if file]
