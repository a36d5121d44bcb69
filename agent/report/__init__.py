"""From results to delivered events: CloudEvents, the durable spool, the uploader."""
