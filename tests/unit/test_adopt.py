"""A model of the zoo as a codec of ours: the same forward pass, real files, known rates."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kdbench import zoo
from kdbench.adopt import adopted
from kdbench.anchor import codec_files
from kdbench.codecs.bitfile import decode_image, encode_image
from kdbench.codecs.weights import load_codec
from kdbench.errors import CodecError
from tests.support.zoo import put_small

Patch = pytest.MonkeyPatch


def test_it_computes_what_the_zoo_s_computes_and_codes_files(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    model = put_small(monkeypatch, tmp_path, zoo.OWN, 2)
    path = adopted(model, tmp_path / "cache")
    ours, card = load_codec(path)
    theirs, sha = zoo.load(model)
    x = torch.rand(1, 3, 64, 128)
    theirs.eval()
    with torch.no_grad():
        assert torch.allclose(ours.g_a(x), theirs.g_a(x))  # type: ignore[operator]
        expected = theirs.g_s(ours.g_a(x).round())  # type: ignore[operator]
        assert torch.allclose(ours(x)["x_hat"], expected, atol=1e-5)
    assert card["training"]["rd_lambdas"] == [0.0035]
    assert card["sha"] == sha
    photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    assert decode_image(ours, encode_image(ours, photo, 0)).shape == photo.shape
    written = path.stat().st_mtime_ns
    assert adopted(model, tmp_path / "cache").stat().st_mtime_ns == written


def test_a_range_is_a_file_a_rate(tmp_path: Path, monkeypatch: Patch) -> None:
    for quality in (1, 2):
        put_small(monkeypatch, tmp_path, zoo.OWN, quality, seed=quality)
    files = codec_files(f"zoo:{zoo.OWN}/1-2", cache=tmp_path / "cache")
    assert len(set(files)) == 2


def test_other_models_teach_and_do_not_code(tmp_path: Path, monkeypatch: Patch) -> None:
    model = put_small(monkeypatch, tmp_path, "mbt2018-mean", 2)
    with pytest.raises(CodecError, match="can teach, but kdbench does not code with it"):
        adopted(model, tmp_path)
