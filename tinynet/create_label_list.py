"""Write the label list of a folder of pictures, for postprocess.py; see --help."""

from __future__ import annotations

from src.model_utils import program
from src.model_utils.classification import label_list
from src.recipe import MODEL


def main(argv: list[str] | None = None) -> None:
    label_list.run(MODEL, argv)


if __name__ == "__main__":
    program.run(main)
