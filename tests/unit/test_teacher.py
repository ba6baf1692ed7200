"""Teachers by name, and their cached outputs: what the live teacher would have given."""

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdbench.cards import list_teachers
from kdbench.codecs.context import Context
from kdbench.codecs.weights import codec_bytes, file_sha
from kdbench.data import CropList, draw_crops
from kdbench.errors import CodecError, StoreError
from kdbench.records import Hyper
from kdbench.teacher import (
    CHUNK,
    Teacher,
    TeacherCache,
    load_teacher,
    teacher_architecture,
    teacher_outputs,
    teacher_path,
)
from tests.support.codecs import architecture, finished, photos, save_teacher
from tests.support.hosts import Host, finish

RD_LAMBDAS = (0.0018, 0.0067, 0.025)
PLAN = architecture(12, hyper=8, latent=24, n_levels=3)
N_CROPS = CHUNK + 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    return save_teacher(folder / "tiny.safetensors", PLAN, rd_lambdas=RD_LAMBDAS)


@pytest.fixture(scope="module")
def teacher(path: Path) -> Teacher:
    return load_teacher(f"file:{path}")


@pytest.fixture(scope="module")
def with_means(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    plan = replace(PLAN, hyper=Hyper(width=8, prior="mean_scale"))
    path = tmp_path_factory.mktemp("teachers") / "means.safetensors"
    return load_teacher(f"file:{save_teacher(path, plan, rd_lambdas=RD_LAMBDAS)}")


@pytest.fixture(scope="module")
def with_context(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    plan = replace(PLAN, hyper=Hyper(width=8, context="checkerboard"))
    path = tmp_path_factory.mktemp("teachers") / "context.safetensors"
    teacher = load_teacher(f"file:{save_teacher(path, plan, rd_lambdas=RD_LAMBDAS)}")
    assert isinstance(teacher.model.context, Context)
    with torch.no_grad():
        torch.manual_seed(0)
        teacher.model.context.to_mean.weight.uniform_(-0.2, 0.2)
        teacher.model.context.to_scale.weight.uniform_(0, 0.2)
    return teacher


@pytest.fixture(params=["teacher", "with_means", "with_context"])
def either(request: pytest.FixtureRequest) -> Teacher:
    """A teacher without means, with them, or with a context."""
    found: Teacher = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def crops() -> CropList:
    return draw_crops(photos(), N_CROPS, 64, seed=0)


def _open(
    teacher: Teacher, crops: CropList, folder: Path, *, cache_gib: float = 1.0
) -> TeacherCache:
    return TeacherCache.open(teacher, crops, RD_LAMBDAS, folder, cache_gib=cache_gib)


# --- names -------------------------------------------------------------------------------------


def test_a_teacher_knows_its_file_and_its_levels(teacher: Teacher, path: Path) -> None:
    assert teacher.sha == file_sha(path)
    assert teacher.rd_lambdas == RD_LAMBDAS
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert teacher_architecture(f"file:{path}") == PLAN


def test_a_study_names_any_of_the_teachers_levels_in_its_own_order(teacher: Teacher) -> None:
    assert teacher.levels_for(RD_LAMBDAS) == (0, 1, 2)
    assert teacher.levels_for((0.025, 0.0018)) == (2, 0)


def test_a_level_the_teacher_lacks_is_an_error_that_lists_what_it_has(teacher: Teacher) -> None:
    with pytest.raises(CodecError, match=r"rd_lambda 0\.05; it has 0\.0018, 0\.0067, 0\.025"):
        teacher.levels_for((0.0018, 0.05))


def test_a_teacher_in_the_working_folder_goes_before_a_built_in_one(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = list_teachers()
    (tmp_path / "teachers").mkdir()
    for name in ("mine", *before):
        (tmp_path / "teachers" / f"{name}.safetensors").write_bytes(path.read_bytes())
    assert load_teacher("teacher:mine").model.architecture == PLAN
    assert {p.parent for p in list_teachers().values()} == {Path("teachers")}


def test_an_unknown_teacher_is_an_error_that_lists_the_known_ones_nearest_first(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teachers").mkdir()
    for name in ("small", "smart"):
        (tmp_path / "teachers" / f"{name}.safetensors").write_bytes(path.read_bytes())
    for name in ("teacher:smar", "smar"):
        with pytest.raises(CodecError, match=f"no teacher '{name}'") as unknown:
            teacher_path(name)
        assert unknown.value.fix.startswith("use one of teacher:smart, teacher:small")


def test_a_codec_without_a_teachers_card_is_an_error(tmp_path: Path) -> None:
    student = tmp_path / "student.safetensors"
    student.write_bytes(codec_bytes(finished(architecture()), {"spec": {}}))
    with pytest.raises(CodecError, match=r"no `training\.rd_lambdas` in its card"):
        load_teacher(f"file:{student}")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="there is no codec file"):
        load_teacher(f"file:{tmp_path / 'gone.safetensors'}")


# --- outputs -----------------------------------------------------------------------------------


@torch.no_grad()
def test_what_is_cached_is_what_a_forward_pass_gives(either: Teacher, crops: CropList) -> None:
    pixels = torch.from_numpy(np.stack([crops.crop(i) for i in range(4)]))
    out = teacher_outputs(either.model, pixels, (2, 0))
    for i, level in enumerate((2, 0)):
        full = either.model(pixels.float() / 255, level)
        ungained = full["y"] / either.model.gain(level)
        torch.testing.assert_close(out["y"], ungained.half(), rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(out["z"][i], full["z"].half(), rtol=2e-3, atol=1e-4)
        compares = either.offer.prior is not None
        assert ("scales" in out) is compares
        assert ("means" in out) is (compares and "means" in full)
        if "scales" in out:
            scales = full["scales"].half()
            torch.testing.assert_close(out["scales"][i], scales, rtol=2e-3, atol=1e-4)
        if "means" in out:
            torch.testing.assert_close(out["means"][i], full["means"].half(), rtol=2e-3, atol=1e-4)
        x_hat = (full["x_hat"].clamp(0, 1) * 255).round().to(torch.uint8)
        assert torch.equal(out["x_hat"][i], x_hat)


def test_the_cache_gives_exactly_what_the_live_teacher_gives(
    either: Teacher, crops: CropList, tmp_path: Path
) -> None:
    cache = _open(either, crops, tmp_path)
    pixels = torch.from_numpy(np.array(crops.crops(tmp_path)))
    levels = either.levels_for(RD_LAMBDAS)
    live = [teacher_outputs(either.model, chunk, levels) for chunk in pixels.split(CHUNK)]  # type: ignore[no-untyped-call]
    y = torch.cat([out["y"] for out in live])
    rest = {name: torch.cat([out[name] for out in live], 1) for name in live[0] if name != "y"}
    indices = np.array([0, 3, CHUNK - 1, CHUNK, N_CROPS - 1])
    drawn = torch.tensor([2, 0, 1, 2, 0])
    found = cache.targets(indices, drawn, "cpu")
    gains = torch.cat([either.model.gain(int(level)) for level in drawn])
    assert torch.equal(either.gains(drawn.tolist()), gains)
    assert torch.equal(found.y, y[indices].float() * gains)
    assert found.z is not None
    assert torch.equal(found.z, rest["z"][drawn, indices].float())
    if found.scales is not None:
        assert torch.equal(found.scales, rest["scales"][drawn, indices].float())
    assert torch.equal(found.x_hat, rest["x_hat"][drawn, indices].float() / 255)
    if found.means is not None:
        assert torch.equal(found.means, rest["means"][drawn, indices].float())
    assert (found.means is None) is ("means" not in rest)
    assert torch.equal(cache.latents(5), y[:5].float())


def test_rounded_latents_are_those_the_teacher_decodes_from(
    either: Teacher, crops: CropList, tmp_path: Path
) -> None:
    cache = _open(either, crops, tmp_path)
    indices, levels = np.array([1, 4]), torch.tensor([2, 0])
    plain = cache.targets(indices, levels, "cpu")
    assert (plain.y_hat, plain.z_hat) == (None, None)
    found = cache.targets(indices, levels, "cpu", with_rounded=True)
    assert torch.equal(found.y, plain.y)
    with torch.no_grad():
        live = either.model.forward_latent(cache.latents(5)[indices], levels)
    assert found.y_hat is not None
    assert found.z_hat is not None
    share_equal = (found.y_hat.round() == live["y_hat"].round()).float().mean()  # type: ignore[union-attr]
    assert float(share_equal) > 0.98  # fp16 decides ties, and means, otherwise
    torch.testing.assert_close(found.z_hat, live["z_hat"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_bits_of_channels_are_those_of_the_teachers_own_rate(
    either: Teacher, crops: CropList, tmp_path: Path
) -> None:
    cache = _open(either, crops, tmp_path)
    x = torch.from_numpy(np.array(crops.crops(tmp_path)[:8])).float() / 255
    live = [either.model(x, level)["likelihoods"]["y"] for level in (0, 1, 2)]
    expected = torch.stack([-p.log2().sum((2, 3)).mean(0) for p in live]).mean(0)
    found = cache.channel_bits(either.model, 8)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)  # cached in fp16
    assert torch.equal(found, _open(either, crops, tmp_path).channel_bits(either.model, 8))


def test_the_levels_of_a_cache_are_the_studys(
    teacher: Teacher, crops: CropList, tmp_path: Path
) -> None:
    """A study of two levels asks for 0 and 1, whatever the teacher calls them."""
    every = _open(teacher, crops, tmp_path)
    some = TeacherCache.open(teacher, crops, (0.0067, 0.025), tmp_path, cache_gib=1.0)
    indices = np.array([1, 2])
    expected = every.targets(indices, torch.tensor([1, 2]), "cpu")
    found = some.targets(indices, torch.tensor([0, 1]), "cpu")
    assert some.levels == (1, 2)
    for a, b in zip(found, expected, strict=True):
        assert (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


# --- the cache on disk -------------------------------------------------------------------------

OPEN = """
import os, sys, time
from pathlib import Path
from kdbench.data import draw_crops
from kdbench.store import Store
from kdbench.teacher import TeacherCache, load_teacher
from tests.support.codecs import photos
path, n, n_processes, root = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[-1])
teacher, crops, told = load_teacher(f"file:{path}"), draw_crops(photos(), n, 64, seed=0), []
(root / f"ready{os.getpid()}").touch()
while len(list(root.glob("ready*"))) < n_processes:
    time.sleep(0.01)
cache = TeacherCache.open(
    teacher, crops, (0.0018, 0.0067, 0.025), Store(root).cache,
    cache_gib=1.0, on_progress=lambda done, n: told.append(done),
)
print(len(told), float(cache.latents(n).abs().sum()))
"""


@pytest.mark.parametrize("own", [False, True], ids=["in their root", "each its own"])
def test_two_hosts_of_two_workers_that_ask_at_once_build_a_cache_once(
    path: Path, tmp_path: Path, own: bool
) -> None:
    """Once for all in a shared root; with KDBENCH_CACHE once per host."""
    hosts = [Host(name, tmp_path, url="") for name in ("home", "away")]
    (tmp_path / "runs").mkdir()
    program = (sys.executable, "-c", OPEN, str(path), str(N_CROPS), "4")
    runs = []
    for host in hosts:
        there = {"KDBENCH_CACHE": str(tmp_path / host.name)} if own else {}
        runs += [host.start(program=program, **there) for _ in range(2)]
    ended = [finish(run) for run in runs]
    assert [code for code, _ in ended] == [0] * 4, ended
    said = [printed.splitlines()[-1].split() for _, printed in ended]
    assert len({latents for _, latents in said}) == 1
    built = [int(n_told) // 2 for n_told, _ in said]  # two chunks each time
    assert ([sum(built[:2]), sum(built[2:])] == [1, 1]) if own else (sum(built) == 1)
    folders = [tmp_path / host.name for host in hosts] if own else [tmp_path / "runs" / "cache"]
    assert [len(_caches(folder)) for folder in folders] == [1] * len(folders)


def test_a_second_look_builds_nothing(teacher: Teacher, crops: CropList, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for _ in range(2):
        TeacherCache.open(
            teacher,
            crops,
            RD_LAMBDAS,
            tmp_path,
            cache_gib=1.0,
            on_progress=lambda done, n: told.append((done, n)),
        )
    assert told == [(CHUNK, N_CROPS), (N_CROPS, N_CROPS)]


def _caches(folder: Path) -> set[Path]:
    return {p for p in folder.glob("teacher-*") if p.is_dir()}


def test_another_teacher_other_crops_or_other_levels_make_another_cache(
    teacher: Teacher, crops: CropList, tmp_path: Path
) -> None:
    _open(teacher, crops, tmp_path)
    retrained = tmp_path / "retrained.safetensors"
    other = load_teacher(f"file:{save_teacher(retrained, PLAN, seed=1, rd_lambdas=RD_LAMBDAS)}")
    _open(other, crops, tmp_path)
    _open(teacher, draw_crops(photos(), N_CROPS, 64, seed=1), tmp_path)
    TeacherCache.open(teacher, crops, RD_LAMBDAS[:2], tmp_path, cache_gib=1.0)
    assert len(_caches(tmp_path)) == 4


def test_a_cache_above_the_bound_is_refused_before_anything_is_written(
    teacher: Teacher, crops: CropList, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"20 crops need 0\.00 GiB, more than .* = 1e-06") as full:
        _open(teacher, crops, tmp_path, cache_gib=1e-6)
    assert "data.cache_gib" in full.value.fix
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "missing", "interrupted"])
def test_a_cache_that_is_not_whole_is_built_again(
    teacher: Teacher, crops: CropList, tmp_path: Path, damage: str
) -> None:
    expected = _open(teacher, crops, tmp_path).latents(N_CROPS)
    (folder,) = _caches(tmp_path)
    if damage == "truncated":
        os.truncate(folder / "y.f16", 100)
    elif damage == "missing":
        (folder / "x_hat.u8").unlink()
    else:
        (folder / "complete.json").unlink()
    assert torch.equal(_open(teacher, crops, tmp_path).latents(N_CROPS), expected)


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(
    teacher: Teacher, crops: CropList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is taken before the map is written: a map on a full disk kills the process."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        _open(teacher, crops, tmp_path)
    assert not _caches(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(
    teacher: Teacher, crops: CropList, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        _open(teacher, crops, tmp_path / "file" / "cache")
