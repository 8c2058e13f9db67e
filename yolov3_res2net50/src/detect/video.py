"""Video files as pictures, and pictures as a video file, by OpenCV; sound is not copied."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ..model_utils.errors import DataError
from ..model_utils.files import require_regular

ENDINGS = (".mp4", ".avi", ".mov", ".mkv")
WRITERS = ((".mp4", "mp4v"), (".avi", "MJPG"))  # the second is in every build of OpenCV
USUAL_FRAME_RATE = 25.0  # of a file that does not tell it


class UnreadableVideo(Exception):
    """What is wrong with a video file."""


class VideoReader:
    """The frames of a video file, upright, from the first to the last that can be read.

    Attributes:
        frame_rate: frames a second.
        announced: number of frames that the file promises; 0 where it does not.

    Raises:
        UnreadableVideo: not a file that OpenCV can read, or no frame in it.
    """

    def __init__(self, path: Path):
        try:
            size = require_regular(path, "it")
        except (OSError, DataError) as error:
            raise UnreadableVideo(getattr(error, "strerror", None) or str(error)) from error
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UnreadableVideo("not a video that OpenCV can read" if size else "empty file")
        self._first = self._capture.read()
        if not self._first[0]:
            raise UnreadableVideo("a video without a frame that OpenCV can read")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if math.isfinite(rate) and rate > 0 else USUAL_FRAME_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.announced = int(count) if math.isfinite(count) and count > 0 else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 RGB, once."""
        sound, frame = self._first
        try:
            while sound:
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                sound, frame = self._capture.read()
        finally:
            self._capture.release()


class VideoWriter:
    """Writes frames into a video file; the first decides its size, and a side of odd length gets one pixel more.

    Args:
        path: the file without its ending; `path` has the ending afterwards: .mp4, or .avi where OpenCV cannot write that.
        frame_rate: frames a second.
    """

    def __init__(self, path: Path, frame_rate: float):
        self.path, self._frame_rate = path, frame_rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 RGB.

        Raises:
            DataError: no video file can be written.
        """
        if self._writer is None:
            # Codecs halve the resolution of colours, and OpenCV would cut an odd last row or column off.
            self._size = (frame.shape[1] + frame.shape[1] % 2, frame.shape[0] + frame.shape[0] % 2)
            self._writer = self._open()
        width, height = self._size
        rows, columns = height - frame.shape[0], width - frame.shape[1]
        if rows in (0, 1) and columns in (0, 1):
            frame = np.pad(frame, ((0, rows), (0, columns), (0, 0)), "edge")
        else:  # the size changes within the video
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()

    def _open(self) -> cv2.VideoWriter:
        for ending, codec in WRITERS:
            path = self.path.with_name(self.path.name + ending)
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), self._frame_rate, self._size)
            if writer.isOpened():
                self.path = path
                return writer
        raise DataError(
            f"{self.path} can be written neither as .mp4 nor as .avi; is the disk full, or OpenCV's build bare?"
        )
