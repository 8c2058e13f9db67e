"""Accuracy of the result files of infer.py and of the Ascend 310 application; see --help."""

from __future__ import annotations

from src.model_utils import program
from src.model_utils.classification import postprocess
from src.recipe import MODEL


def main(argv: list[str] | None = None) -> None:
    postprocess.run(MODEL, argv)


if __name__ == "__main__":
    program.run(main)
