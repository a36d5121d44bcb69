"""The local page for whoever aims a camera: read-only, off unless ``[status] listen`` says where. See docs/page.md."""
