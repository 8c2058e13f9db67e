"""Checkpoints: whole or not at all, damage is always seen, the newest are kept, a training state comes back whole."""

from __future__ import annotations

import resource
import stat
from pathlib import Path

from model_utils import checkpoint
from model_utils.checkpoint import STATE_PREFIX, CheckpointFolder, load, restore, save
from model_utils.errors import DataError, UsageError

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

PARAMETERS = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "step": np.array(3, np.int32),
    "half": np.ones(4, np.float16),
    "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
}
METADATA = {"class_names": ["Käse", "猫", "a\nb"], "network": {"slope": 0.1}, "steps": 7, "nothing": None}


def written(path: Path, parameters=PARAMETERS, metadata=METADATA) -> Path:
    save(path, parameters, metadata)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- one file


def test_what_is_saved_is_loaded(tmp_path):
    """Bit for bit, by this module and by MindSpore."""
    path = written(tmp_path / "new" / "folder" / "a.ckpt")
    parameters, metadata = load(path)
    assert metadata == METADATA and list(parameters) == list(PARAMETERS)
    for name, value in PARAMETERS.items():
        found = parameters[name].asnumpy()
        assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())
    assert set(PARAMETERS) <= set(ms.load_checkpoint(str(path), crc_check=True))


def test_parameters_tensors_and_arrays_can_be_saved(tmp_path):
    """Also over an earlier file, which is read-only."""
    value, path = np.float32([[1.5, -2.0]]), written(tmp_path / "a.ckpt")
    assert not stat.S_IMODE(path.stat().st_mode) & stat.S_IWUSR
    kinds = {"array": value, "tensor": Tensor(value), "parameter": Parameter(Tensor(value), name="other")}
    parameters, metadata = load(written(path, kinds, {"second": True}))
    assert metadata == {"second": True} and names(tmp_path) == ["a.ckpt"]
    assert all(np.array_equal(parameters[name].asnumpy(), value) for name in kinds)


@pytest.fixture
def full_disk():
    """Files cannot grow beyond 100,000 bytes, as on a disk that fills up while a checkpoint is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
def test_failure_in_the_middle(tmp_path, monkeypatch, error, function):
    path = written(tmp_path / "a.ckpt")

    def fail(*_):
        raise error

    monkeypatch.setattr(function, fail)
    with pytest.raises(DataError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        save(path, {"x": np.zeros(3, np.float32)}, {})
    monkeypatch.undo()
    assert names(tmp_path) == ["a.ckpt"] and load(path)[1] == METADATA
    assert not isinstance(error, OSError) or f"{path} cannot be written: No space left" in str(caught.value)


def test_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr("os.fsync", lambda handle: events.append("flush"))
    replace = checkpoint.os.replace
    monkeypatch.setattr("os.replace", lambda a, b: (events.append("rename"), replace(a, b)))
    written(tmp_path / "a.ckpt")
    assert events == ["flush", "rename", "flush"]


def test_folder_that_cannot_be_flushed_is_no_failure(tmp_path, monkeypatch):
    flush = checkpoint._flush

    def only_files(path):
        if Path(path).is_dir():
            raise OSError(22, "Invalid argument")
        flush(path)

    monkeypatch.setattr(checkpoint, "_flush", only_files)
    assert load(written(tmp_path / "a.ckpt"))[1] == METADATA


@pytest.mark.parametrize("place", ["file.ckpt/a.ckpt", "folder.ckpt", "x" * 300 + ".ckpt"])
def test_places_that_cannot_be_written(tmp_path, place):
    written(tmp_path / "file.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        written(tmp_path / place)
    assert names(tmp_path) == ["file.ckpt", "folder.ckpt"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    return written(tmp_path_factory.mktemp("sound") / "a.ckpt").read_bytes()


@pytest.fixture
def refused(tmp_path):
    """Whether a file of these bytes is refused; anything but a DataError fails the test."""
    path = tmp_path / "b.ckpt"

    def refused(content: bytes) -> bool:
        path.write_bytes(content)
        try:
            load(path)
        except DataError as error:
            return f"{path}" in str(error) and "damaged" in str(error)
        return False

    return refused


def test_every_truncation_and_other_damage_is_seen(sound, refused):
    assert [length for length in range(len(sound)) if not refused(sound[:length])] == []
    assert not refused(sound)
    cut = sound[:20] + sound[30:]
    for content in (sound + b"\0", sound + sound, bytes(len(sound)), b"text\n" * 20, sound[10:], cut):
        assert refused(content)


def test_flipped_bits_are_seen(sound, refused):
    """One in each byte, and each one of the head and of the checksum with its mark."""
    bits, edges = 8 * len(sound), 8 * 18
    places = {8 * byte + byte % 8 for byte in range(len(sound))} | set(range(edges)) | set(range(bits - edges, bits))
    for place in places:
        damaged = bytearray(sound)
        damaged[place // 8] ^= 1 << place % 8
        assert refused(bytes(damaged)), place


@pytest.mark.parametrize(
    "name, text",
    [("missing.ckpt", "not a file"), ("folder", "a folder"), ("model.onnx", "an ONNX model"),
     ("model.mindir", "a MINDIR model"), ("model.pth", "of another kind")],
)  # fmt: skip
def test_files_of_another_kind(tmp_path, name, text):
    (tmp_path / "folder").mkdir()
    for file in ("model.onnx", "model.mindir", "model.pth"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert f"{tmp_path / name} is {text}" in str(caught.value) and ".ckpt" in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"crc_check": True}, {"append_dict": {"epoch_num": 3, "note": "x"}}])
def test_foreign_checkpoint_has_no_metadata(tmp_path, options):
    ms.save_checkpoint(nn.Dense(4, 3), str(tmp_path / "foreign.ckpt"), **options)
    parameters, metadata = load(tmp_path / "foreign.ckpt")
    assert metadata == {} and set(parameters) >= {"weight", "bias"}


# ---- the folder of a run


@pytest.fixture
def folder(tmp_path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "0", "train_net_data", 3)


def test_the_newest_are_kept(folder):
    save(folder.best, PARAMETERS, {})
    save(folder.folder / "train_other-1_1.ckpt", PARAMETERS, {})
    for epoch, step in ((1, 9), (2, 9), (9, 9), (10, 3), (10, 9)):
        path = folder.save(epoch, step, PARAMETERS, METADATA)
        assert load(path)[1] == {**METADATA, "epoch": epoch, "step": step}
    kept = [f"train_net_data-{place}.ckpt" for place in ("10_3", "10_9", "9_9")]
    assert names(folder.folder) == sorted([*kept, "train_net_data_best.ckpt", "train_other-1_1.ckpt"])


def test_what_was_just_saved_stays(folder):
    """A run that was resumed from an early checkpoint does not lose its own to those of the longer run."""
    for epoch in (8, 9, 10):
        folder.save(epoch, 9, PARAMETERS, {})
    for epoch in (3, 4, 5, 6):
        assert folder.save(epoch, 9, PARAMETERS, {}).is_file()
    assert [path.name for path in folder.files()][:3] == [f"train_net_data-{epoch}_9.ckpt" for epoch in (4, 5, 6)]


def test_none_kept_is_refused(tmp_path):
    with pytest.raises(UsageError, match="keep_checkpoint_max=0"):
        CheckpointFolder(tmp_path, "x", 0)


def test_full_disk_leaves_the_old_files(folder, full_disk):
    for epoch in (1, 2, 3):
        folder.save(epoch, 9, PARAMETERS, {})
    before = names(folder.folder)
    with pytest.raises(DataError, match=r"train_net_data-4_9\.ckpt.*too large"):
        folder.save(4, 9, {"x": np.zeros(1_000_000, np.float32)}, {})
    assert names(folder.folder) == before and [load(path)[1]["epoch"] for path in folder.files()] == [1, 2, 3]


def test_leftovers_of_killed_processes_are_removed(folder):
    folder.folder.mkdir()
    for name in ("-1_1.123.tmp.ckpt", "-1_1.123.tmp.tmp", "_best.9.tmp.tmp"):
        (folder.folder / f".train_net_data{name}").write_bytes(b"x")
    assert folder.files() == [] and folder.find("auto") is None
    folder.save(1, 2, PARAMETERS, {})
    assert names(folder.folder) == ["train_net_data-1_2.ckpt"]


def test_find_takes_the_newest_that_is_sound(folder, monkeypatch):
    for epoch, step in ((2, 3), (10, 1), (9, 9)):
        folder.save(epoch, step, {"x": np.float32([epoch])}, METADATA)
    warnings = []
    monkeypatch.setattr(checkpoint.get_logger(), "warning", lambda text, *values: warnings.append(text % values))
    parameters, metadata, path = folder.find("auto")
    assert (metadata["epoch"], metadata["step"], path.name) == (10, 1, "train_net_data-10_1.ckpt")
    assert parameters["x"].asnumpy() == 10 and not warnings
    for path, keep in zip(folder.files()[1:], (0.9, 0.0)):
        content = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(content[: int(len(content) * keep)])
    assert folder.find("auto")[1]["epoch"] == 2
    assert len(warnings) == 2 and "data-10_1.ckpt" in warnings[0] and "data-9_9.ckpt" in warnings[1]
    with pytest.raises(DataError, match=r"data-10_1\.ckpt .*damaged"):
        folder.find(str(folder.files()[-1]))
    folder.files()[0].unlink()
    with pytest.raises(DataError, match="none of the 2 checkpoints"):
        folder.find("auto")


def test_find_nothing(folder):
    save(folder.best, PARAMETERS, {})
    assert folder.find("auto") is None
    for path, message in ((folder.best, "weights only"), (folder.folder / "none.ckpt", "not a file")):
        with pytest.raises(DataError, match=message):
            folder.find(str(path))


def test_start_fresh_moves_aside(folder):
    folder.start_fresh()
    assert not folder.folder.exists()
    folder.save(1, 9, PARAMETERS, {"run": 1})
    save(folder.best, PARAMETERS, {})
    folder.start_fresh()
    (moved,) = folder.folder.iterdir()
    assert moved.name.startswith("earlier_")
    assert names(moved) == ["train_net_data-1_9.ckpt", "train_net_data_best.ckpt"]


def test_checkpoints_in_the_current_directory(tmp_path, monkeypatch):
    """A folder without a name of its own, which holds other files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").write_text("kept")
    folder = CheckpointFolder("./", "net", 3)
    for epoch in (1, 2):
        folder.save(epoch, 1, PARAMETERS, {})
    folder.set_aside_after({"epoch": 1, "step": 1})
    assert names(tmp_path)[-2:] == ["log", "net-1_1.ckpt"]
    folder.start_fresh()
    assert folder.files() == [] and (tmp_path / "log").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.rglob("*.ckpt")) == ["net-1_1.ckpt", "net-2_1.ckpt"]


# ---- the whole training state


class Step(nn.Cell):
    """What restore needs of a training step."""

    def __init__(self, arrays):
        super().__init__()
        self.state = {name: Parameter(Tensor(value), name=name) for name, value in arrays.items()}

    def training_state(self):
        return self.state


ARRAYS = {"w": np.float32([1, 2]), STATE_PREFIX + "n": np.int32([3]), STATE_PREFIX + "scale": np.array(8, np.float32)}


def test_restore(tmp_path):
    step = Step({name: np.zeros_like(value) for name, value in ARRAYS.items()})
    restore(step, load(written(tmp_path / "a.ckpt", ARRAYS))[0], "a.ckpt")
    for name, value in ARRAYS.items():
        assert step.state[name].asnumpy().tobytes() == value.tobytes()


@pytest.mark.parametrize(
    "change, text",
    [
        ({"w": None}, "w is missing"),
        ({STATE_PREFIX + "n": None}, "train_state.n is missing"),
        ({"v": np.float32([1])}, "v is unexpected"),
        ({"w": np.float32([1, 2, 3])}, r"w has shape \(3,\)"),
        ({"w": np.float16([1, 2])}, "w has .*Float16"),
    ],
)
def test_restore_refuses_what_does_not_fit(change, text):
    step = Step(ARRAYS)
    source = {name: value for name, value in {**ARRAYS, **change}.items() if value is not None}
    with pytest.raises(DataError, match=f"a.ckpt.*{text}"):
        restore(step, Step(source).state, "a.ckpt")
    assert all(np.array_equal(step.state[name].asnumpy(), value) for name, value in ARRAYS.items())


def test_metadata_must_be_json(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path / "a.ckpt", PARAMETERS, {"path": Path("x")})
    assert names(tmp_path) == []
