"""Entry point of MindSpore Hub."""

from __future__ import annotations

from src.yolo import YOLOv3, yolov3_res2net50


def create_network(name: str, *args, **kwargs) -> YOLOv3:
    """Build the network with random weights; the arguments are those of `yolov3_res2net50`.

    Raises:
        NotImplementedError: another name than yolov3_res2net50 or yolov3_res2net, its older spelling.
    """
    if name in ("yolov3_res2net50", "yolov3_res2net"):
        return yolov3_res2net50(*args, **kwargs)
    raise NotImplementedError(f"{name} is not implemented here; yolov3_res2net50 is")
