"""The local page for whoever aims a camera: read-only, off unless ``[status] listen`` says where. See docs/page.md."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.config import Config
    from agent.page.server import Page
    from agent.snapshot import Snapshot

PAGE_THREADS = frozenset({"page", "page-client"})
"""A defect that ends one of these is told, and does not end the agent."""


def open_page(config: "Config", device: str, snapshot: "Callable[[], Snapshot]", classes: Sequence[str]
              ) -> "Page | None":
    """Return the page, or None where the configuration names no address for one."""
    if not config.status.listen:
        return None
    from agent.page.server import Page  # noqa: PLC0415 -- only a box with a page pays for it

    return Page(config, device, snapshot, classes)
