"""Classify pictures with a trained or exported model; `python infer.py --help` says how."""

from __future__ import annotations

from src.model_utils import program
from src.model_utils.classification import infer
from src.recipe import MODEL


def main(argv: list[str] | None = None) -> None:
    infer.run(MODEL, argv, (*infer.SHOWN, "Network"))


if __name__ == "__main__":
    program.run(main)
