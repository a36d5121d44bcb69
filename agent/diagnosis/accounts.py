"""May another user open this file? Told from owner, group and mode, without becoming that user."""

import grp
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

from agent.diagnosis.service_facts import Access, Account

_ACL = "system.posix_acl_access"


def account(name: str, more_groups: Iterable[str] = ()) -> Account | None:
    """Return the user ``name`` with its groups and those in ``more_groups`` that exist; None: there is none."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return None
    return account_of(user, more_groups)


def account_of(user: pwd.struct_passwd, more_groups: Iterable[str] = ()) -> Account:
    """Return ``user`` with its groups and those in ``more_groups`` that exist."""
    gids = set(os.getgrouplist(user.pw_name, user.pw_gid))
    for group in more_groups:
        try:
            gids.add(grp.getgrnam(group).gr_gid)
        except KeyError:
            continue
    return Account(name=user.pw_name, uid=user.pw_uid, gids=tuple(sorted(gids)),
                   groups=tuple(sorted(group_name(gid) for gid in gids)))


def group_name(gid: int) -> str:
    """Return a group's name, its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def user_name(uid: int) -> str:
    """Return a user's name, its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def access(who: Account, path: Path, *, write: bool = False) -> Access:
    """Tell whether ``who`` may read (and write) ``path``, and may get there.

    ``not known`` where this process may not look itself, or an access list says more than the mode does.
    """
    real = Path(os.path.realpath(path))
    wanted = 0o6 if write else 0o4
    for step in (*reversed(real.parents), real):
        try:
            found = step.stat()
            listed = _ACL in os.listxattr(step)
        except PermissionError:
            return "not known"
        except FileNotFoundError:
            return "not there"
        except OSError:
            listed = False
            try:
                found = step.stat()
            except OSError:
                return "not known"
        needed = (wanted | (0o1 if stat.S_ISDIR(found.st_mode) else 0)) if step == real else 0o1
        if not _grants(who, found, needed):
            return "not known" if listed else "no"
    return "yes"


def _grants(who: Account, found: os.stat_result, needed: int) -> bool:
    if who.uid == 0:
        return True
    shift = 6 if found.st_uid == who.uid else 3 if found.st_gid in who.gids else 0
    return (found.st_mode >> shift) & needed == needed
