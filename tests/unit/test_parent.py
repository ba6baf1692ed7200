"""What a study's students start as slices of, where it names a trained codec."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import codec_bytes, file_sha
from kdbench.data import load_images
from kdbench.errors import CodecError
from kdbench.files import write_json
from kdbench.guides import joined_sha
from kdbench.lesson import study_crops
from kdbench.parent import descends, load_parent, require_shared_coordinates
from kdbench.records import Architecture, Transform, TrialSpec
from kdbench.search.ground import survey
from kdbench.store import Store
from kdbench.teacher import load_teacher
from tests.support import search as stub
from tests.support.codecs import RD_LAMBDAS, architecture, finished, save_teacher
from tests.support.lessons import opened, spec_of
from tests.support.results import make_study

FIVE = (0.001, 0.003, 0.01, 0.03, 0.1)  # of the stub's study
CROPS = study_crops(load_images("builtin", "train"), 16, 64)


@pytest.fixture
def parent(tmp_path: Path) -> str:
    """A codec of 16 channels."""
    return f"file:{save_teacher(tmp_path / 'parent.safetensors', architecture(16))}"


def narrow(teacher: str | None, encoder: int, decoder: int) -> TrialSpec:
    spec = spec_of("", RD_LAMBDAS)
    return replace(
        spec,
        encoder=Transform(width=encoder),
        decoder=Transform(width=decoder),
        distillation=replace(spec.distillation, teacher=teacher),
    )


@pytest.mark.parametrize(
    ("encoder", "decoder", "latent", "is_slice"),
    [
        (16, 16, 16, True),
        (12, 12, 16, True),
        (12, 12, 8, True),
        (8, 12, 16, False),
        (12, 8, 16, False),
        (17, 16, 16, False),
        (16, 16, 32, False),
    ],
)
def test_a_student_descends_that_has_three_quarters_of_its_parents_widths(
    parent: str, encoder: int, decoder: int, latent: int, is_slice: bool
) -> None:
    student = Hyperprior(architecture(encoder, decoder, latent=latent))
    assert descends(student, load_parent(parent)) == is_slice


def test_a_descendant_has_filters_and_latents_of_its_parent(parent: str, tmp_path: Path) -> None:
    theirs = load_parent(parent).model
    whole = opened(narrow(None, 16, 16), tmp_path, CROPS, start=parent).started()
    for name, weights in whole.g_a.state_dict().items():
        assert torch.equal(weights, theirs.g_a.state_dict()[name])
    sliced = opened(narrow(None, 12, 12), tmp_path, CROPS, start=parent).started()
    filters, kept = (model.g_a.state_dict()["0.weight"] for model in (theirs, sliced))
    assert {w.numpy().tobytes() for w in kept} <= {w.numpy().tobytes() for w in filters}
    x = torch.from_numpy(np.array(CROPS.crops(tmp_path / "cache"))).float() / 255
    with torch.no_grad():
        ours, wanted = sliced.g_a(x), theirs.g_a(x)
    assert (ours - wanted).square().mean() < 0.5 * wanted.square().mean()


def test_who_cannot_descend_starts_as_if_no_parent_were_named(parent: str, tmp_path: Path) -> None:
    spec = narrow(None, 8, 8)
    named, alone = (opened(spec, tmp_path, CROPS, start=s).started() for s in (parent, None))
    for name, weights in named.state_dict().items():
        assert torch.equal(weights, alone.state_dict()[name])


def other_latents(path: Path, plan: Architecture, rd_lambdas: Sequence[float]) -> str:
    """The file of a codec whose latents stand in another order."""
    card = {"training": {"rd_lambdas": list(rd_lambdas)}}
    model = finished(plan, rd_lambdas=rd_lambdas)
    for values in model.g_a[-1].parameters():
        values.data.copy_(values.data.flip(0))
    path.write_bytes(codec_bytes(model, card))
    return f"file:{path}"


def test_a_parent_must_have_the_teachers_latents(parent: str, tmp_path: Path) -> None:
    pixels = CROPS.crops(tmp_path / "cache")
    other = load_teacher(
        other_latents(tmp_path / "other.safetensors", architecture(16), RD_LAMBDAS)
    )
    require_shared_coordinates(load_parent(parent), [load_teacher(parent), object()], pixels)
    with pytest.raises(CodecError, match=r"parent.safetensors are not those of file:.*other"):
        require_shared_coordinates(load_parent(parent), [other], pixels)


# --- studies -------------------------------------------------------------------------------------


def test_a_study_stands_on_the_file_that_its_students_are_slices_of(tmp_path: Path) -> None:
    store = make_study(tmp_path / "runs")
    folder, result = store.trial("tiny", 0), store.load_trial("tiny", 0).result
    save_teacher(folder.student, architecture(n_levels=5), rd_lambdas=FIVE)
    assert result is not None
    hashes = {**result.hashes, "weights": joined_sha([file_sha(folder.student)])}
    write_json(folder.result, replace(result, hashes=hashes))
    found = survey(stub.study(tmp_path, "anchor=jpeg", "start=trial:tiny/0"), store)
    assert found.start is not None
    assert found.fixed["start"] == found.stands_on(None)["start"] == found.start
    assert "start" not in survey(stub.study(tmp_path, "anchor=jpeg"), store).fixed


def test_a_study_whose_parent_will_not_do_is_refused_before_it_begins(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    plan = architecture(n_levels=5)
    own = f"file:{save_teacher(tmp_path / 'own.safetensors', plan, rd_lambdas=FIVE)}"
    other = other_latents(tmp_path / "other.safetensors", plan, FIVE)
    taught = f"space.distillation={{teacher: '{own}', latent: 0.5}}"
    for start, why in (
        (f"start={other}", "are not those of"),
        (f"start=file:{tmp_path / 'none.safetensors'}", "none.safetensors"),
        ("start=teacher:default", "has no level for rd_lambda"),
        ("start=trial:nobody/3", "nobody"),
    ):
        cfg = stub.study(tmp_path, "anchor=jpeg", "data.crops=16", taught, start)
        with pytest.raises(Exception, match=why) as refused:
            survey(cfg, store)
        assert getattr(refused.value, "fix", "")
