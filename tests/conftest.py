"""The tests here import the source of the shared runtime as `model_utils`, and the tools of utils/ and scripts/."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
for folder in ("utils", "utils/sample_data", "scripts"):
    sys.path.insert(0, str(ROOT / folder))


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """Folders train and val with 40 JPEG digits each, four of each class, 24 pixels wide."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("few") / "digits"
    write_image_folder(folder, size=24, limit=40)
    return folder


@pytest.fixture(scope="module")
def programs():
    """For tests that call programs in this process: the framework's mode and the logger are put back after them."""
    import model_utils  # noqa: F401  (sets the environment before MindSpore is imported)
    from model_utils.logger import get_logger

    import mindspore as ms

    mode = ms.get_context("mode")
    yield
    ms.set_context(mode=mode)
    logger = get_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def eager_mode():
    """Without compilation, unless the test says otherwise."""
    import mindspore as ms

    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=mode)


@pytest.fixture
def graph_mode():
    """The mode in which the programs run."""
    import mindspore as ms

    mode = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=mode)


@pytest.fixture(scope="session")
def toy_state(few_digits, tmp_path_factory) -> Path:
    """A training state of the toy model after one epoch, with a moving average that differs from the weights."""
    from toy.programs import run_train
    from toy_runs import last, small_run

    out = tmp_path_factory.mktemp("toy")
    assert run_train(small_run(few_digits, out, epochs=1, ema_decay=0.5, eval_interval=1)) == 0
    return last(out)
