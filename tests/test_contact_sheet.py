"""Tests of scripts/contact_sheet.py: every picture is in its cell, and the colour tells right from wrong."""

import json

import contact_sheet

import pytest
from PIL import Image

CELL_WIDTH = 64 + 2 * contact_sheet.MARGIN
CELL_HEIGHT = CELL_WIDTH + contact_sheet.TEXT_HEIGHT


@pytest.fixture
def predictions(tmp_path):
    """Seven pictures, blue of rising brightness; all are predicted to be of class 1."""
    entries = []
    for number in range(7):
        path = tmp_path / f"p{number}.png"
        Image.new("RGB", (20, 10 if number == 0 else 20), (0, 0, 100 + 20 * number)).save(path)
        classes = ((1, "one", 0.9), (0, "z", 0.1))
        top = [{"class_index": index, "class_name": name, "score": score} for index, name, score in classes]
        entries.append({"file": str(path), "top": top})
    (tmp_path / "predictions.json").write_text(json.dumps({"model": "m", "predictions": entries}))
    return tmp_path / "predictions.json"


def run(predictions, *arguments):
    output = predictions.with_name("sheet.png")
    names = ["--predictions", str(predictions), "--output", str(output)]
    return contact_sheet.main([*names, "--side", "64", "--columns", "3", *arguments])


def draw(predictions, *arguments):
    assert run(predictions, *arguments) == 0
    with Image.open(predictions.with_name("sheet.png")) as sheet:
        assert sheet.format == "PNG"
        return sheet.convert("RGB")


def colours(sheet, column, row):
    box = (column * CELL_WIDTH, row * CELL_HEIGHT, (column + 1) * CELL_WIDTH, (row + 1) * CELL_HEIGHT)
    return {colour for _, colour in sheet.crop(box).getcolors(1 << 16)}


def test_pictures_lie_in_rows_in_their_order(predictions):
    sheet = draw(predictions)
    assert sheet.size == (3 * CELL_WIDTH, 3 * CELL_HEIGHT)
    for number in range(7):
        assert (0, 0, 100 + 20 * number) in colours(sheet, number % 3, number // 3)
    assert colours(sheet, 1, 2) == {(255, 255, 255)}


def test_aspect_ratio_is_kept(predictions):
    sheet = draw(predictions)
    middle = contact_sheet.MARGIN + 32
    column = [sheet.getpixel((middle, y)) for y in range(CELL_WIDTH)]
    row = [sheet.getpixel((x, middle)) for x in range(CELL_WIDTH)]
    assert column.count((0, 0, 100)) == 32 and row.count((0, 0, 100)) == 64


def test_frame_tells_right_from_wrong_and_unknown(predictions, capsys):
    labels = predictions.with_name("label.txt")
    labels.write_text("p0:1\np1:0\n\n")
    sheet = draw(predictions, "--labels", str(labels))
    known = [contact_sheet.GREEN, contact_sheet.RED, contact_sheet.GREY]
    assert [colours(sheet, number, 0) & set(known) for number in range(3)] == [{colour} for colour in known]
    assert capsys.readouterr().out.endswith("7 pictures, 1 of 2 right\n")


def changed(predictions, **values):
    """The same predictions, the first one with other values."""
    content = json.loads(predictions.read_text())
    content["predictions"][0]["top"][0].update(values)
    path = predictions.with_name("changed.json")
    path.write_text(json.dumps(content))
    return path


def test_prediction_and_score_are_written_below(predictions):
    text = (contact_sheet.MARGIN, CELL_WIDTH, CELL_WIDTH, CELL_HEIGHT)
    before = draw(predictions).crop(text)
    for values in ({"score": 0.1}, {"class_name": "two"}):
        assert draw(changed(predictions, **values)).crop(text).tobytes() != before.tobytes()


def test_a_long_class_name_stays_in_its_cell(predictions):
    cell = draw(changed(predictions, class_name="very " * 30)).crop((0, 0, CELL_WIDTH, CELL_HEIGHT))
    for x in (*range(contact_sheet.MARGIN - 3), *range(CELL_WIDTH - contact_sheet.MARGIN + 3, CELL_WIDTH)):
        assert {cell.getpixel((x, y)) for y in range(CELL_WIDTH, CELL_HEIGHT)} == {(255, 255, 255)}


GONE = '{"predictions": [{"file": "gone.png", "top": [{"class_index": 0, "class_name": "a", "score": 1}]}]}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "predictions.json cannot be read: No such file or directory"),
        ("{", "is not JSON"),
        ("[]", "is not a predictions.json of infer.py"),
        ('{"predictions": [{"file": "a.png", "top": []}]}', "is not a predictions.json of infer.py"),
        ('{"predictions": []}', "holds no prediction"),
        (GONE, "picture gone.png"),
    ],
)
def test_wrong_predictions_are_an_error(predictions, capsys, content, message):
    predictions.unlink() if content is None else predictions.write_text(content)
    assert run(predictions) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not predictions.with_name("sheet.png").exists()


def test_wrong_labels_are_an_error(predictions, capsys):
    labels = predictions.with_name("label.txt")
    assert run(predictions, "--labels", str(labels)) == 1
    assert capsys.readouterr().err == f"error: label file {labels} cannot be read: No such file or directory\n"
    labels.write_text("p0:1\np1 one\n")
    assert run(predictions, "--labels", str(labels)) == 1
    assert "label.txt, line 2: 'p1 one' is not NAME:CLASS_INDEX" in capsys.readouterr().err
