"""Configuration: recipes, command line, types, refusals, and the exit status of a program."""

from __future__ import annotations

import copy
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

from model_utils import config as configuration
from model_utils.config import Config, DataError, UsageError, get_config

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """\
dataset_name: imagenet
lr_init: 0.1
weight_decay: 1e-4
epoch_size: 90
use_ema: False
resume: ""
file_name: model
lr_epochs: [30, 60]
mean: [0.5, 0, 1]
names: [cat, dog]
anchors: [[10, 13], [16, 30]]
extra:
anything: []
optimizer:
    name: momentum
    inner:
        beta: 0.9
---
lr_init: learning rate, 100 % of it
resume: checkpoint
---
dataset_name: [imagenet, cifar10]
names: [cat, dog, cow]
epoch_size: [1, 10, 90]
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "imagenet_config.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def read(recipe):
    """Reads the recipe with a command line, given as one text or as tokens."""

    def read(*argv: str) -> Config:
        tokens = argv[0].split() if len(argv) == 1 else list(argv)
        return get_config(
            recipe, tokens, recipe_key="dataset_name", aliases={"dataset": "dataset_name", "e": "epoch_size"}
        )

    return read


@pytest.fixture
def overlay(tmp_path, recipe):
    """Reads the recipe with another one over it, given as text."""

    def overlay(text: str, *argv: str) -> Config:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return get_config(recipe, ["--config_path", str(path), *argv])

    return overlay


def refusal(function, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        function(*arguments)
    return str(caught.value)


def test_defaults_have_the_types_of_the_recipe(read):
    config = read("")
    assert config.to_dict() == {
        "dataset_name": "imagenet", "lr_init": 0.1, "weight_decay": 1e-4, "epoch_size": 90, "use_ema": False,
        "resume": "", "file_name": "model", "lr_epochs": [30, 60], "mean": [0.5, 0.0, 1.0], "names": ["cat", "dog"],
        "anchors": [[10, 13], [16, 30]], "extra": None, "anything": [],
        "optimizer": {"name": "momentum", "inner": {"beta": 0.9}},
    }  # fmt: skip
    assert type(config.epoch_size) is int and type(config.weight_decay) is float and config.given == frozenset()
    assert [type(value) for value in config.mean] == [float] * 3


NUMBERS = {
    "0.5": 0.5, "-1e-3": -1e-3, "1e-3": 1e-3, "1E+2": 100.0, "-.5": -0.5, ".5": 0.5, "3": 3.0, "-3": -3.0, "+2": 2.0, "0": 0.0,
}  # fmt: skip
INTEGERS = {"10": 10, "90": 90, "1e1": 10, "10.0": 10, "010": 10, "+1": 1}
BOOLEANS = {
    word: word.lower() in ("true", "1", "yes", "on")
    for word in ("true", "True", "TRUE", "1", "yes", "on", "false", "False", "0", "no", "off", "OFF")
}
TEXTS = (
    "a", "", " ", "a b", "a=b", "x=", "=", "1e3", "007", "null", "yes", "~", "2024-99-99", "[1]", "ünï ✓ 中", "a: b", "#x",
    "obs://bucket/x?y=1&z", "%d %s", "'quoted'", '"', "C:\\x", "*.jpg", "-x y",
)  # fmt: skip
LISTS = {
    "10,20": [10, 20],
    "[10, 20]": [10, 20],
    "10": [10],
    "[10]": [10],
    " 10 , 20 ": [10, 20],
    "": [],
    "[]": [],
    "-1,-2": [-1, -2],
}


@pytest.mark.parametrize(
    "key, values", [("lr_init", NUMBERS), ("epoch_size", INTEGERS), ("use_ema", BOOLEANS), ("lr_epochs", LISTS)]
)
def test_flag_with_blank_and_with_equals_sign(read, overlay, key, values):
    for text, wanted in values.items():
        for argv in ([f"--{key}={text}"], [f"--{key}", text], [f"--{key.replace('_', '-')}", text]):
            found = read(*argv, "--file_name", "x")[key]
            assert found == wanted and type(found) is type(wanted), argv


@pytest.mark.parametrize("text", TEXTS)
def test_texts_stay_as_they_are(read, overlay, text):
    assert read(f"--file_name={text}", "--use_ema").file_name == text
    if not text.startswith("-"):
        assert read("--file_name", text, "--use_ema").file_name == text
    assert overlay(yaml.safe_dump({"file_name": text}, allow_unicode=True)).file_name == text


@pytest.mark.parametrize("text", ["yes", "007", "1e3", "1:30", "2024-01-01", "2024-99-99", "0x10", "True", "3.10"])
def test_a_text_needs_no_quotes_in_yaml(overlay, text):
    assert overlay(f"file_name: {text}").file_name == text


@pytest.mark.parametrize("text", ["", "null", "~", '""'])
def test_nothing_in_yaml_is_the_empty_text(overlay, text):
    assert overlay(f"file_name: {text}").file_name == ""


@pytest.mark.parametrize("text, wanted", [("1e-5", 1e-5), ("1", 1.0), ("-1", -1.0), ("1.5e3", 1500.0), ('"0.5"', 0.5)])
def test_numbers_in_yaml(overlay, text, wanted):
    found = overlay(f"lr_init: {text}").lr_init
    assert found == wanted and type(found) is float


def test_lists(read, overlay):
    assert read("--mean=1,2,3").mean == [1.0, 2.0, 3.0] and type(read("--mean=1,2,3").mean[0]) is float
    assert read("--mean", "-1,-2e-1").mean == [-1.0, -0.2]
    assert read("--names=cow").names == ["cow"]
    assert read("--anchors=[[1,2],[3,4]]").anchors == [[1, 2], [3, 4]]
    assert overlay("anchors: [[1, 2]]\nlr_epochs: 5\nnames:\n  - cow").to_dict().items() >= {
        "anchors": [[1, 2]], "lr_epochs": [5], "names": ["cow"]
    }.items()  # fmt: skip
    assert read("--anything=1,0.5,a,true").anything == [1, 0.5, "a", True]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("", None),
        ("null", None),
        ("abc", "abc"),
        ("a=b", "a=b"),
        ("1e-3", 1e-3),
    ],
)
def test_key_without_a_type(read, overlay, text, wanted):
    for config in (read(f"--extra={text}", "--use_ema"), overlay(f"extra: {text}")):
        assert config.extra == wanted and type(config.extra) is type(wanted)


def test_nested_keys(read, overlay):
    config = read("--optimizer.inner.beta=0.5 --optimizer.name adam")
    assert (config.optimizer.inner.beta, config["optimizer"]["name"]) == (0.5, "adam")
    config = overlay("optimizer:\n  inner:\n    beta: 1\n")
    assert (config.optimizer.inner.beta, config.optimizer.name) == (1.0, "momentum")


def test_authority(read, recipe, tmp_path):
    (tmp_path / "cifar10_config.yaml").write_text("dataset_name: cifar10\nepoch_size: 10\nlr_init: 0.2\n")
    (tmp_path / "mine.yaml").write_text("lr_init: 0.3\n")
    assert read("").lr_init == 0.1
    assert read("--dataset_name imagenet").lr_init == 0.1
    config = read("--dataset cifar10 --lr_init=0.4")
    assert (config.lr_init, config.epoch_size, config.given) == (0.4, 10, {"dataset_name", "dataset", "lr_init"})
    config = read(f"--config-path {tmp_path}/mine.yaml --dataset_name cifar10")
    assert (config.lr_init, config.epoch_size, config.dataset_name) == (0.3, 90, "cifar10")
    assert read("--lr_init 1 --lr_init 2").lr_init == 2.0
    assert read("-e 10").epoch_size == 10


def test_an_alias_reads_and_replaces_its_key(read):
    config = read("--dataset cifar10")
    assert config.dataset == config["dataset"] == config.dataset_name == "cifar10" and "dataset" in config.given
    changed = pickle.loads(pickle.dumps(config)).replace(dataset="imagenet")
    assert changed.dataset_name == changed.dataset == "imagenet" and "dataset" not in dict(changed)
    assert "dataset" not in read("").given


def test_bare_boolean_flag(read):
    assert read("--use_ema").use_ema is True
    assert read("--use_ema --resume auto").resume == "auto"
    assert read("--resume=").given == {"resume"}


@pytest.mark.parametrize("flag", ["--no-use_ema", "--no-use-ema"])
def test_negated_boolean_flag(read, flag):
    config = read(f"--use_ema true {flag}")
    assert config.use_ema is False and "use_ema" in config.given
    with pytest.raises(UsageError, match="unknown option '--no-resume'"):
        read("--no-resume")


@pytest.mark.parametrize(
    "argv, parts",
    [
        ("--lr_int 0.1", ["unknown option '--lr_int'", "'--lr_init'"]),
        ("--use-emma=1", ["unknown option '--use-emma=1'", "'--use_ema'"]),
        ("--lr 0.1", ["unknown option '--lr'"]),
        ("stray", ["unknown option 'stray'"]),
        ("--lr_init fast", ["command line", "lr_init='fast'", "number"]),
        ("--lr_init nan", ["lr_init='nan'", "number"]),
        ("--lr_init inf", ["lr_init='inf'", "number"]),
        ("--lr_init true", ["lr_init='true'", "number"]),
        ("--lr_init=", ["lr_init=''", "number"]),
        ("--lr_init", ["lr_init", "expected one argument"]),
        ("--lr_init --use_ema", ["lr_init", "expected one argument"]),
        ("--lr_init 1,2", ["lr_init='1,2'", "number"]),
        ("--epoch_size 0.5", ["epoch_size='0.5'", "integer"]),
        ("--epoch_size 1e400", ["epoch_size='1e400'", "integer"]),
        ("--lr_init " + "9" * 400, ["lr_init='999", "number"]),
        ("--epoch_size 2", ["epoch_size='2'", "1, 10, 90"]),
        ("--use_ema 2", ["use_ema='2'", "true or false"]),
        ("--use_ema=", ["use_ema=''", "true or false"]),
        ("--use_ema -1", ["use_ema='-1'", "true or false"]),
        ("--dataset_name coco", ["dataset_name='coco'", "imagenet, cifar10"]),
        ("--dataset_name ../x", ["dataset_name='../x'", "imagenet, cifar10"]),
        ("--lr_epochs 1,x", ["lr_epochs='1,x'", "list", "integer"]),
        ("--lr_epochs 1,,2", ["lr_epochs='1,,2'", "list"]),
        ("--lr_epochs [1", ["lr_epochs='[1'", "list"]),
        ("--lr_epochs [1,2],[3]", ["lr_epochs", "list"]),
        ("--lr_epochs [[1]]", ["lr_epochs", "list"]),
        ("--names cat,bird", ["names='cat,bird'", "cat, dog, cow"]),
        ("--mean a", ["mean='a'", "list", "number"]),
        ("--config_path missing.yaml", ["missing.yaml", "existing YAML file"]),
        ("--config_path .", ["config_path=.", "cannot be read"]),
    ],
)
def test_refused_command_line(read, argv, parts):
    message = refusal(read, argv)
    assert all(part in message for part in parts), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text, parts",
    [
        ("lr_init: 0.1\nlr_int: 0.2\n", [":2:", "unknown key 'lr_int'", "'lr_init'"]),
        ("\n\nlr_init: fast\n", [":3:", "lr_init='fast'", "number"]),
        ("lr_init:\n", [":1:", "lr_init=''", "number"]),
        ("lr_init: .inf\n", [":1:", "lr_init='.inf'", "number"]),
        ("epoch_size: .inf\n", [":1:", "epoch_size='.inf'", "integer"]),
        ("lr_init: [1, 2]\n", [":1:", "lr_init=['1', '2']", "number"]),
        ("lr_init: {}\n", [":1:", "mapping"]),
        ("lr_init: {a: 1}\n", [":1:", "unknown key 'lr_init.a'"]),
        ("optimizer: 5\n", [":1:", "unknown key 'optimizer'"]),
        ("file_name: [a, b]\n", [":1:", "file_name", "text"]),
        ("use_ema: maybe\n", [":1:", "use_ema='maybe'", "true or false"]),
        ("lr_epochs: [1, {a: 2}]\n", [":1:", "lr_epochs", "list"]),
        ("names: [bird]\n", [":1:", "names=['bird']", "cat, dog, cow"]),
        ("lr_init: 1\nuse_ema: 1\nlr_init: 2\n", [":3:", "duplicate key 'lr_init'"]),
        ("optimizer: {name: a}\noptimizer: {inner: {beta: 1}}\n", [":2:", "duplicate key 'optimizer'"]),
        ("optimizer:\n  name: a\n  name: b\n", [":3:", "duplicate key 'optimizer.name'"]),
        ("lr_init: [1,\nuse_ema: 1\n", ["broken YAML"]),
        ("lr_init: 1\n\tuse_ema: 1\n", [":2:", "broken YAML"]),
        ("lr_init: 'x\n", ["broken YAML"]),
        ("lr_init: *x\n", [":1:", "broken YAML"]),
        ("lr_init: &x [*x]\n", [":1:", "broken YAML"]),
        ("lr_init: 1\x07\n", ["broken YAML"]),
        ("- 1\n- 2\n", [":1:", "mapping"]),
        ("text\n", [":1:", "mapping"]),
        ("lr_init: 1\n---\n---\n---\na: 1\n", ["4 YAML documents", "three"]),
        (b"file_name: \xff\xfe\n", ["UTF-8"]),
        ("---\n---\n---\nlr_int: [1]\n", [":4:", "unknown key 'lr_int'"]),
        ("---\n---\n---\nlr_init: [a]\n", [":4:", "lr_init=['a']"]),
        ("lr_init: 3\n---\n---\nlr_init: [1, 2]\n", [":1:", "lr_init='3'", "1.0, 2.0"]),
        ("lr_init: 3\n---\n---\nlr_init: 2\n", [":1:", "lr_init='3'", "one of 2.0"]),
    ],
)
def test_refused_recipe(overlay, text, parts):
    message = refusal(overlay, text)
    assert all(part in message for part in [*parts, "mine.yaml"]), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "---\n---\n---\n", "\ufefflr_init: 0.1\n", "lr_init: 0.1\r\n"]
)
def test_recipes_that_change_nothing(overlay, read, text):
    assert overlay(text) == read("")


def test_unsafe_yaml_is_text_at_most(overlay):
    for tag in ("!!python/object/apply:os.system", "!!python/name:os.system", "!x"):
        assert "file_name" in refusal(overlay, f"file_name: {tag} ['touch x']\n")
    assert overlay("file_name: !!python/name:os.system x\n").file_name == "x"


def test_printed_configuration_reads_back(read, overlay):
    config = read(
        "--resume=1e3", "--file_name=ünï: ✓", "--lr_init=1e-7", "--lr_epochs=", "--anchors=[[5,6]]", "--use_ema"
    )
    assert overlay(config.to_yaml()).to_dict() == config.to_dict()


def test_config_is_read_only(read):
    config = read("")
    for change in (
        lambda: setattr(config, "lr_init", 1.0),
        lambda: setattr(config.optimizer, "name", "x"),
        lambda: config.__setitem__("lr_init", 1.0),
        lambda: delattr(config, "lr_init"),
    ):
        with pytest.raises(AttributeError):
            change()
    config.lr_epochs.append(99)
    config["mean"].clear()
    config.to_dict()["lr_init"] = 5
    config.to_dict()["optimizer"]["name"] = "x"
    assert config == read("")


def test_config_is_a_mapping(read):
    config = read("--lr_init=2")
    assert len(config) == 14 and "lr_init" in config and "lr" not in config and list(config)[0] == "dataset_name"
    assert dict(config)["lr_init"] == 2.0 and config.get("lr") is None
    for clone in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert clone == config and clone.given == {"lr_init"} and clone.optimizer.inner.beta == 0.9
    with pytest.raises(AttributeError, match="'lr_int'.*'lr_init'"):
        _ = config.lr_int
    with pytest.raises(KeyError):
        _ = config["lr_int"]


def test_replace(read):
    config = read("--lr_init=2")
    other = config.replace(lr_init=3.0, resume="auto")
    assert (other.lr_init, other.resume, config.lr_init, other.given) == (3.0, "auto", 2.0, {"lr_init"})
    with pytest.raises(KeyError, match="'lr_init'"):
        config.replace(lr_int=1)


def test_help(recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        get_config(recipe, ["--help"], description="Trains 5 % faster.")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for part in (
        "--lr_init",
        "learning rate, 100 % of it [0.1]",
        "--config_path",
        "imagenet",
        "cifar10",
        "Trains 5 % faster.",
    ):
        assert part in " ".join(text.split()), part


def test_nothing_is_read_at_import(tmp_path):
    """The programs and the shared runtime can be imported under any command line."""
    code = "import model_utils.config, model_utils.checkpoint, model_utils.callbacks, train, eval, export"
    folders = [str(ROOT / "utils"), str(ROOT / "tinydarknet")]
    code = f"import sys; sys.path[:0] = {folders}; {code}"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-such-flag", "stray"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(autouse=True)
def same_signals():
    """`run` blocks SIGINT for the rest of a program; here the process goes on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outcome(monkeypatch, capsys, action, *argv: str) -> tuple:
    """Exit status and stderr of a program that does `action`."""
    monkeypatch.setattr(sys, "argv", ["program", *argv])
    with pytest.raises(SystemExit) as stop:
        configuration.run(action)
    return stop.value.code, capsys.readouterr().err


def raiser(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    "error, status, text",
    [
        (UsageError("wrong flag"), 2, "error: wrong flag\n"),
        (DataError("wrong file"), 1, "error: wrong file\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: [Errno 13] Permission denied: '/x'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(7), 7, ""),
    ],
)
def test_exit_status(monkeypatch, capsys, error, status, text):
    assert outcome(monkeypatch, capsys, raiser(error)) == (status, text)


@pytest.mark.parametrize("value, status", [(None, None), (0, 0), (130, 130)])
def test_status_of_the_program_is_kept(monkeypatch, capsys, value, status):
    assert outcome(monkeypatch, capsys, lambda: value) == (status, "")


LONG_CALL = """
import hashlib, sys
sys.path.insert(0, {utils!r})
from model_utils import config
def main():
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})  # returns to no handler before its end
config.run(main)
"""


@pytest.mark.parametrize("signals, rounds, text", [(1, 3_000_000, "interrupted\n"), (2, 2_000_000_000, "")])
def test_ctrl_c_in_a_long_call(signals, rounds, text):
    """The first one waits for the end of the call, the second one ends the process at once."""
    code = LONG_CALL.format(utils=str(ROOT / "utils"), rounds=rounds)
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "begun\n"
    for _ in range(signals):
        time.sleep(0.1)
        program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 130 and errors.endswith(text) and "Traceback" not in errors, errors


def test_a_bug_is_not_hidden(monkeypatch, capsys):
    with pytest.raises(ZeroDivisionError):
        configuration.run(lambda: 1 // 0)


@pytest.mark.parametrize(
    "argv, wanted",
    [
        ("--debug", True), ("--debug true", True), ("--debug=1", True), ("--debug --lr_init 1", True),
        ("--debug=false", False), ("--debug false", False), ("--debug 0", False), ("--debugger", False), ("", False),
        ("--debug --debug=off", False),
    ],
)  # fmt: skip
def test_traceback_only_with_debug(monkeypatch, capsys, argv, wanted):
    status, text = outcome(monkeypatch, capsys, raiser(DataError("wrong file")), *argv.split())
    assert status == 1 and text.endswith("error: wrong file\n")
    assert ("Traceback" in text) is wanted


DEFAULTS = ("default_config.yaml", "imagenet_config.yaml")


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("*/*_config.yaml")), ids=lambda path: path.name)
def test_recipes_of_the_models(recipe):
    """Each is accepted, and the default one has a line of help for each key."""
    default = next(recipe.with_name(name) for name in DEFAULTS if recipe.with_name(name).is_file())
    config = get_config(default, ["--config_path", str(recipe)])
    values, helps, choices = configuration._read_documents(default)
    assert set(helps) == set(values) and set(choices) <= set(values) and set(config) == set(values)
