"""The shorter way to the range coder: CompressAI's bytes, symbols and indexes, always."""

import copy
import math
import pickle

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models.base import get_scale_table
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdbench.codecs.coder import FactorisedPrior, GaussianPrior

Both = tuple[GaussianPrior, GaussianConditional]
CHANNELS = 6
LARGE = 2.0**22  # from a table's end so many escapes of four bits


def gaussians(*, raised: bool = False) -> Both:
    """Ours and CompressAI's, with its 64 scales, `raised` as `LearnedCodec.finalise` does."""
    both = GaussianPrior(None), GaussianConditional(None)
    for prior in both:
        prior.update_scale_table(get_scale_table())
        if raised:
            prior.scale_table = prior.scale_table * 1.06
    return both


def bottlenecks(seed: int) -> tuple[FactorisedPrior, EntropyBottleneck]:
    """Ours and CompressAI's of the same random densities."""
    torch.manual_seed(seed)
    ours, theirs = FactorisedPrior(CHANNELS), EntropyBottleneck(CHANNELS)
    with torch.no_grad():
        for matrix in ours.matrices:
            matrix.add_(torch.rand_like(matrix))
    theirs.load_state_dict(ours.state_dict())
    for prior in (ours, theirs):
        prior.update(force=True, update_quantiles=True)
    return ours, theirs


def require_same_coding(both: Both, y: Tensor, scales: Tensor, means: Tensor | None) -> None:
    ours, theirs = both
    indexes = theirs.build_indexes(scales)
    assert torch.equal(ours.build_indexes(scales), indexes)
    strings = theirs.compress(y, indexes, means)
    assert ours.compress(y, indexes, means) == strings
    right = theirs.decompress(strings, indexes, means=means)
    found = ours.decompress(strings, indexes, means=means)
    assert torch.equal(found, right)
    assert (found.dtype, found.shape) == (right.dtype, y.shape)


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 3),
    side=st.integers(1, 9),
    spread=st.sampled_from([0.0, 0.3, 1.0, 5.0, 300.0]),
    has_means=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_latents_are_coded_to_the_bytes_of_compressai(
    seed: int, batch: int, side: int, spread: float, has_means: bool
) -> None:
    """Symbols within their tables and, where `spread` is above 1, far beyond."""
    torch.manual_seed(seed)
    shape = (batch, CHANNELS, side, side + 1)
    scales = torch.exp(torch.empty(shape).uniform_(math.log(0.05), math.log(300)))
    y = spread * scales * torch.randn(shape)
    means = 3 * torch.randn(shape) if has_means else None
    require_same_coding(gaussians(raised=bool(seed % 2)), y, scales, means)


@pytest.mark.parametrize("value", [0.5, -0.5, 1.5, LARGE, -LARGE, LARGE + 1])
def test_ties_and_escapes_are_coded_alike(value: float) -> None:
    y = torch.full((1, CHANNELS, 4, 4), value)
    y[0, 0, 0, 0] = -value
    require_same_coding(gaussians(), y, torch.full_like(y, 0.2), None)


def test_an_index_is_of_the_first_scale_that_is_not_below() -> None:
    ours, theirs = gaussians()
    table = ours.scale_table
    neighbours = [table, table.nextafter(table * 2), table.nextafter(table * 0)]
    special = torch.tensor([0.0, -1.0, 1e-30, 0.11, 1e30, math.inf, math.nan, -math.nan])
    scales = torch.cat([*neighbours, special])[None, None]
    found = ours.build_indexes(scales)
    assert torch.equal(found, theirs.build_indexes(scales))
    assert found.dtype == torch.int32
    assert found[0, 0, : len(table)].tolist() == list(range(len(table)))


def test_indexes_follow_a_table_that_changes_and_one_with_scales_close_together() -> None:
    ours, theirs = gaussians()
    scales = torch.linspace(0.05, 300, 4001)[None, None]
    close = ours.scale_table.clone()
    close[11], close[12] = close[10].nextafter(close[11]), close[10] * 1.0001
    for table in (ours.scale_table * 1.06, close, ours.scale_table):
        ours.scale_table, theirs.scale_table = table.clone(), table.clone()
        at_edges = torch.cat([scales, table[None, None], table.nextafter(table * 2)[None, None]], 2)
        assert torch.equal(ours.build_indexes(at_edges), theirs.build_indexes(at_edges))


@given(
    seed=st.integers(0, 2**31), side=st.integers(1, 5), spread=st.sampled_from([0.1, 4.0, 900.0])
)
@settings(max_examples=20, deadline=None)
def test_hyper_latents_are_coded_to_the_bytes_of_compressai(
    seed: int, side: int, spread: float
) -> None:
    ours, theirs = bottlenecks(seed)
    z = spread * torch.randn(2, CHANNELS, side, side)
    strings = theirs.compress(z)
    assert ours.compress(z) == strings
    assert torch.equal(
        ours.decompress(strings, (side, side)), theirs.decompress(strings, (side, side))
    )


def test_tables_that_change_are_noticed() -> None:
    """Even in place and behind autograd's back, as `load_state_dict` may change them."""
    ours, theirs = gaussians()
    y = torch.randn(1, CHANNELS, 5, 5)
    indexes = ours.build_indexes(torch.full_like(y, 0.8))
    before = ours.compress(y, indexes)
    for prior in (ours, theirs):
        prior.update_scale_table([s * 3 for s in get_scale_table()], force=True)
    after = ours.compress(y, indexes)
    assert after == theirs.compress(y, indexes)
    assert after != before
    for prior in (ours, theirs):
        prior._offset.data.add_(1)
    shifted = ours.compress(y, indexes)
    assert shifted == theirs.compress(y, indexes)
    assert shifted != after


def test_a_copy_codes_alike_and_carries_no_lists() -> None:
    ours, _ = gaussians()
    y = torch.randn(1, CHANNELS, 5, 5)
    indexes = ours.build_indexes(torch.full_like(y, 0.8))
    strings = ours.compress(y, indexes)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert twin._lists is None
        assert twin.compress(y, indexes) == strings
    assert set(ours.state_dict()) == set(GaussianConditional(None).state_dict())


def test_what_cannot_be_coded_is_an_error_as_in_compressai() -> None:
    ours, _ = gaussians()
    y = torch.zeros(1, CHANNELS, 2, 2)
    indexes = torch.zeros(1, CHANNELS, 2, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match="must be of one shape"):
        ours.compress(y, indexes[..., :1])
    with pytest.raises(ValueError, match="2 strings do not belong"):
        ours.decompress([b"", b""], indexes)
    with pytest.raises(ValueError, match=r"means .* do not belong"):
        ours.decompress([b""], indexes, means=torch.zeros(1, CHANNELS, 2, 1))
    with pytest.raises(ValueError, match="Uninitialized CDFs"):
        GaussianPrior(None).compress(y, indexes)
