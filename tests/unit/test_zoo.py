"""CompressAI's zoo by name: what a name means, and files that are right, wrong or not there."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from compressai.zoo import image

from kdbench import zoo
from kdbench.errors import CodecError
from kdbench.records import Coordinates
from kdbench.zoo import ZooModel
from tests.support.desk import Trap
from tests.support.zoo import put, put_small, saved, state_of

MEAN = ZooModel("mbt2018-mean", 3)
Patch = pytest.MonkeyPatch

# --- names ---------------------------------------------------------------------------------------


def test_the_tables_are_compressais() -> None:
    assert {*zoo.CHANNELS} == {*image.model_urls}
    for name, channels in zoo.CHANNELS.items():
        cfgs = image.cfgs[name]
        assert {q: cfg[-1] for q, cfg in cfgs.items()} == dict(enumerate(channels, 1))
        assert {*image.model_urls[name]["mse"]} == {*cfgs}


def test_a_name_means_one_model_or_one_for_each_rate() -> None:
    assert zoo.parse("zoo:mbt2018-mean/3") == (MEAN,)
    assert [m.rd_lambda for m in zoo.parse("zoo:cheng2020-anchor/4-6")] == [0.013, 0.025, 0.0483]
    assert str(MEAN) == "zoo:mbt2018-mean/3"


def test_what_a_teacher_of_the_zoo_shares_with_a_student_is_known_by_its_name() -> None:
    assert zoo.coordinates("zoo:bmshj2018-hyperprior/5") == Coordinates(192, "scale")
    assert zoo.coordinates("zoo:mbt2018/5") == Coordinates(320, "mean_scale")
    assert zoo.coordinates("zoo:bmshj2018-factorized/3") == Coordinates(192, None, False)
    assert zoo.coordinates("zoo:mbt2018-mean/1-5") == Coordinates(192, None)


@pytest.mark.parametrize(
    ("name", "problem", "fix"),
    [
        ("zoo:mbt2018-men/3", "no zoo model 'mbt2018-men'", "nearest first: mbt2018-mean, "),
        ("zoo:mbt2018-mean", "qualities 1 to 8, not ''", "write zoo:mbt2018-mean/3 for one"),
        ("zoo:mbt2018-mean/0", "qualities 1 to 8, not '0'", "zoo:mbt2018-mean/1-8 for a range"),
        ("zoo:cheng2020-attn/7", "qualities 1 to 6, not '7'", "zoo:cheng2020-attn/1-6"),
        ("zoo:mbt2018/5-3", "qualities 1 to 8, not '5-3'", "range"),
        ("zoo:mbt2018/3-9", "qualities 1 to 8, not '3-9'", "range"),
        ("zoo:mbt2018/best", "qualities 1 to 8, not 'best'", "range"),
    ],
)
def test_a_name_that_means_nothing_is_an_error(name: str, problem: str, fix: str) -> None:
    with pytest.raises(CodecError, match=problem) as wrong:
        zoo.parse(name)
    assert fix in wrong.value.fix


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.CHANNELS)
def test_a_file_of_every_model_loads_as_compressai_builds_it(
    name: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    model = put_small(monkeypatch, tmp_path, name, 3)
    built, sha = zoo.load(model)
    assert type(built) is image.model_architectures[name]
    expected = state_of(model)
    assert all(torch.equal(v, expected[k]) for k, v in built.state_dict().items())
    file = zoo.zoo_file(model)
    assert sha == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert sha.startswith(file.sha_prefix)
    assert zoo.files_here() == {model: file}


def test_names_of_weights_from_before_compressai_renamed_them_load_too(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """The zoo's files are of 2020: `module.`, and lists of the factorised prior's parameters."""
    state = state_of(MEAN)
    old = {"_matrix": "_matrices.", "_bias": "_biases.", "_factor": "_factors."}

    def before(name: str) -> str:
        for new, was in old.items():
            if name.startswith(f"entropy_bottleneck.{new}"):
                return f"module.{name.replace(new, was)}"
        return f"module.{name}"

    put(monkeypatch, tmp_path, MEAN, saved({before(k): v for k, v in state.items()}))
    built, _ = zoo.load(MEAN)
    assert all(torch.equal(v, state[k]) for k, v in built.state_dict().items())


def test_the_real_table_names_a_real_url_and_a_hash(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = zoo.zoo_file(MEAN)
    assert file.path == tmp_path / "hub" / "checkpoints" / "mbt2018-mean-3-723404a8.pth.tar"
    assert file.url.startswith("https://compressai.s3.amazonaws.com/models/v1/")
    assert file.sha_prefix == "723404a8"
    assert zoo.files_here() == {}


def test_a_file_that_is_not_there_is_named_with_its_folder_and_url_and_not_fetched(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # would fail if it were asked
    with pytest.raises(CodecError, match="needs the file mbt2018-mean-3-723404a8") as missing:
        zoo.load(MEAN)
    file = zoo.zoo_file(MEAN)
    assert str(file.path.parent) in missing.value.problem
    assert f"curl --create-dirs -o {file.path} {file.url}" in missing.value.fix
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_hash_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    path = put(monkeypatch, tmp_path, MEAN, saved(state_of(MEAN)))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CodecError, match=r"damaged or another file: its SHA-256 begins with"):
        zoo.load(MEAN)


@pytest.mark.parametrize("data", [b"", b"nonsense" * 100, saved([1, 2]), saved({"a": 1})])
def test_a_file_that_holds_no_weights_is_an_error(
    data: bytes, tmp_path: Path, monkeypatch: Patch
) -> None:
    put(monkeypatch, tmp_path, MEAN, data)
    with pytest.raises(CodecError, match="holds no weights, or more than weights") as wrong:
        zoo.load(MEAN)
    assert "curl" in wrong.value.fix


def test_a_pickle_with_the_right_hash_is_not_run(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in (pickle.dumps(Trap()), saved({"a": Trap()})):
        put(monkeypatch, tmp_path, MEAN, data)
        with pytest.raises(CodecError, match="more than weights"):
            zoo.load(MEAN)
    assert not (tmp_path / "unpickled").exists()


def test_weights_of_another_architecture_are_an_error(tmp_path: Path, monkeypatch: Patch) -> None:
    for state in (state_of(MEAN, (8, 24)), state_of(ZooModel("mbt2018", 3)), {}):
        put(monkeypatch, tmp_path, MEAN, saved(state))
        with pytest.raises(CodecError, match="its weights are not those of zoo:mbt2018-mean/3: "):
            zoo.load(MEAN)


def test_weights_that_are_no_numbers_are_an_error(tmp_path: Path, monkeypatch: Patch) -> None:
    state = state_of(MEAN)
    state["g_a.0.weight"].fill_(torch.nan)
    put(monkeypatch, tmp_path, MEAN, saved(state))
    with pytest.raises(CodecError, match="no numbers"):
        zoo.load(MEAN)
