"""Write the labels of a folder that holds one folder of pictures for each class, as JSON: {"<file name>": class index}.

    python create_imagenet2012_label.py --img_path validation_preprocess

The class index is the place of the folder in the sorted list of class folders. The file imagenet_label.json is written
into the current directory; postprocess.py reads it (--label_path). Hidden files and folders do not count.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from src.model_utils import program
from src.model_utils.dataset_checks import check_image_folder
from src.model_utils.errors import DataError
from src.model_utils.image_folder import list_image_folder

OUTPUT = "imagenet_label.json"


def image_labels(folder: str | Path) -> dict[str, int]:
    """The class index of each file name, sorted by class folder and file name.

    Raises:
        DataError: another kind of folder, or a file name that two classes have.
    """
    labels: dict[str, int] = {}
    names = check_image_folder(folder, None, check_images="off")
    for index, files in enumerate(list_image_folder(folder).images.values()):
        for file in files:
            if file in labels:
                path = Path(folder, names[index], file)
                raise DataError(f"{path} has the name of a file of class {names[labels[file]]}; rename one of the two")
            labels[file] = index
    return labels


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--img_path", required=True, type=os.path.expanduser, help="folder with one folder of pictures for each class"
    )
    labels = image_labels(parser.parse_args(argv).img_path)
    content = json.dumps(labels, indent=0)
    path = Path(OUTPUT)
    if path.exists() and path.read_text(encoding="utf-8") != content:
        raise DataError(f"{path.absolute()} exists and holds something else; remove it or go to another directory")
    path.write_text(content, encoding="utf-8")
    print(f"[INFO] Completed! Total {len(labels)} data.")


if __name__ == "__main__":
    program.run(main)
