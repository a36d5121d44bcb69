"""What a child process is told to try: handed over in a file of mode 0600, with secrets by the file they stand in."""

import msgspec


class SourceInquiry(msgspec.Struct, frozen=True, kw_only=True):
    """A source to open; see :class:`agent.capture.opening.SourceOptions`. ``password_file``: where its secret is."""

    name: str
    url: str
    username: str | None = None
    password_file: str | None = None
    open_timeout_s: float = 10.0
    read_timeout_s: float = 5.0
    width: int | None = None
    height: int | None = None
    rate: float | None = None


class UpstreamInquiry(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream to ask; see :class:`agent.https.HttpsOptions`. ``token_file``: where the bearer token is."""

    url: str
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    token_file: str | None = None
    proxy: str | None = None
    format: str = "cloudevents"
    compression: str = "gzip"
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0


class SensorsInquiry(msgspec.Struct, frozen=True, kw_only=True):
    """Which reader of sensors to open, and what stands for ``/sys``."""

    telemetry: str
    sysfs: str
