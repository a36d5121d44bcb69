"""How important an event is: who goes first when not all can stay. Pure."""

NEVER = 3
# What has no class of its own is ordinary.
_CLASSES = {"detection": 0, "watermark.identified": 2, "gap": NEVER, "update.outcome": NEVER}
_ORDINARY = 1


def class_of(type_: str) -> int:
    """Return how important events of a type are: 0 goes first, :data:`NEVER` never."""
    return _CLASSES.get(type_, _ORDINARY)
