"""OpenCV, loaded so that neither it nor the FFmpeg inside writes to stderr: their lines may hold camera logins.

What went wrong with a source is said by the errors of this package instead.
"""

import os
from typing import Any

from agent.errors import SourceError, missing_extra

_FFMPEG_SAYS_NOTHING = "-8"  # AV_LOG_QUIET; FFmpeg's default prints whole addresses, login included


def load_cv2() -> Any:
    """Return the ``cv2`` module, silenced for the whole process.

    Raises:
        SourceError: OpenCV is not installed.
    """
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = _FFMPEG_SAYS_NOTHING  # read once, when the first video is opened
    # Process-wide, too: OpenCV takes no FFmpeg options a capture. Files ignore it. UDP loses packets, so TCP.
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
    # OpenCV opens one capture at a time in the whole process unless it is told that FFmpeg can do more (it can, since
    # version 4): a host that accepts and never answers would stop every other source for its open timeout.
    os.environ["OPENCV_FFMPEG_IS_THREAD_SAFE"] = "1"
    try:
        import cv2  # noqa: PLC0415  (the two lines above must run before its first use)
    except ImportError as error:
        raise SourceError(f"OpenCV cannot be loaded: {error}",
                          "on a Jetson install the system's python3-opencv, elsewhere " + missing_extra("cpu")
                          ) from error
    logging = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # 4.6 has the first, 4.14 the second
    logging.setLogLevel(0)  # LOG_LEVEL_SILENT
    cv2.setNumThreads(1)  # a resize is too short to share, and the other cores belong to the engine and the decoders
    return cv2
