"""A picture for people: one frame of a clip with what was found on it. Not part of the loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.capture.quiet import load_cv2
from agent.errors import SourceError

_GREEN, _YELLOW = (80, 220, 80), (60, 220, 250)
_LEAST_WIDTH = 640


def draw(clip: Path, index: int, found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write frame ``index`` of ``clip`` as a JPEG with the boxes and landmarks of a delivered event.

    Args:
        clip: A video file.
        index: Frame number from 0.
        found: The event's ``data.detections``: ``box`` [x1, y1, x2, y2], ``label``, ``score``, maybe ``landmarks``.
        path: Where the JPEG goes; small frames are enlarged to at least 640 pixels wide.

    Raises:
        SourceError: the frame cannot be read or the picture not be written.
    """
    cv2 = load_cv2()
    capture = cv2.VideoCapture(str(clip))
    try:
        for _ in range(index):
            capture.grab()
        ok, picture = capture.read()
    finally:
        capture.release()
    if not ok:
        raise SourceError(f"{clip}: frame {index} cannot be read", "is it the clip the events are about?")
    zoom = max(1, -(-_LEAST_WIDTH // picture.shape[1]))
    picture = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * zoom), round(y * zoom)

    for item in found:
        x1, y1, x2, y2 = item["box"]
        cv2.rectangle(picture, at(x1, y1), at(x2, y2), _GREEN, 2)
        label, corner = f"{item['label']} {item['score']:.2f}", at(x1, y1)
        cv2.putText(picture, label, (corner[0], max(corner[1] - 6, 14)), cv2.FONT_HERSHEY_SIMPLEX, 0.6, _GREEN, 2,
                    cv2.LINE_AA)
        for x, y in item.get("landmarks") or ():
            cv2.circle(picture, at(x, y), 3, _YELLOW, -1, cv2.LINE_AA)
    if not cv2.imwrite(str(path), picture):
        raise SourceError(f"{path}: cannot be written", "is the folder writable and the disk not full?")
