"""COCO's measures of the result files of infer.py and of the Ascend 310 application; see --help."""

from __future__ import annotations

from src.detect import postprocess
from src.model_utils import program
from src.recipe import MODEL


def main(argv: list[str] | None = None) -> None:
    postprocess.run(MODEL, argv)


if __name__ == "__main__":
    program.run(main)
