# ---- environment


@pytest.mark.parametrize(
    "version, avx512, before, after",
    [
        ((2, 10), True, None, "AVX2"), ((2, 9), True, None, "AVX2"), ((2, 8), True, None, None), ((2, 10), False, None, None),
        ((2, 10), True, "ALL", "ALL"), ((2, 10), True, "", ""), (None, True, None, None),
    ],
)  # fmt: skip
def test_cpu_kernels(version, avx512, before, after, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if before is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", before)
    monkeypatch.setattr(model_utils, "mindspore_version", lambda: version)
    monkeypatch.setattr(model_utils, "_has_avx512", lambda: avx512)
    model_utils.set_cpu_kernels()
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == after


@pytest.mark.parametrize("flags, wanted", [("fpu avx2 avx512f avx512bw", True), ("fpu avx2", False)])
def test_instruction_set_is_read(flags, wanted, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"model name\t: avx512f by name only\nflags\t\t: {flags}\nbugs\t\t:\n")
    monkeypatch.setattr("builtins.open", lambda path, **_: (tmp_path / "cpuinfo").open())
    assert model_utils._has_avx512() is wanted


def test_unreadable_instruction_set(monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", fail)
    assert model_utils._has_avx512() is False


@pytest.mark.parametrize(
    "version, text",
    [("2.6.0", "2.6.*2.7 to 2.10"), ("2.11.0", "2.11.*2.7 to 2.10"), ("1.10.1", "1.10"), (None, "not installed")],
)
def test_version_that_is_not_supported(version, text, monkeypatch):
    def installed(package: str) -> str:
        if version is None or package != "mindspore":
            raise metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(metadata, "version", installed)
    with pytest.raises(ImportError, match=text) as caught:
        model_utils.check_version()
    assert "pip install -r requirements.txt" in str(caught.value)


@pytest.mark.parametrize(
    "version, package", [("2.7.0", "mindspore"), ("2.8.0rc1", "mindspore-ascend"), ("2.10.0", "mindspore")]
)
def test_version_that_is_supported(version, package, monkeypatch):
    def installed(name: str) -> str:
        if name != package:
            raise metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(metadata, "version", installed)
    model_utils.check_version()
    assert model_utils.mindspore_version() == tuple(int(part) for part in version.split(".")[:2])


def test_import_sets_the_environment_before_the_framework():
    """In a fresh process: the user's value wins, and the variable stands when MindSpore is imported."""
    code = (
        "import sys, os\n"
        f"sys.path.insert(0, {UTILS!r})\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'mindspore':\n"
        "            print(os.environ.get('ONEDNN_MAX_CPU_ISA'))\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import model_utils.device_adapter\n"
    )
    needed = model_utils.mindspore_version() >= (2, 9) and model_utils._has_avx512()
    for before, after in ((None, "AVX2" if needed else "None"), ("AVX512_CORE", "AVX512_CORE")):
        environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
        environment.update({"ONEDNN_MAX_CPU_ISA": before} if before else {})
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == after
