"""What a codec costs whatever its weights: parameters, multiply-accumulates, memory of a decode.

fvcore counts each part on its own, at the shapes of one full forward of a 768x512 photo:

    x --g_a--> y --h_a--> z --entropy bottleneck--> z --h_s--> sigma --gaussian conditional
               y --g_s--> x_hat

A convolution costs c_in k^2 MAC per output value (per input value and output channel if
transposed), groups divided out; bias, padding and reshapes cost nothing. Nor do |y| and the gains,
elementwise and between the parts. Everything here depends on the architecture alone, never on
weights, device or `update`: the figures may be cached under `Architecture.hash`.

Codecs of other families are counted whole, in one forward, and what their children cost goes to the
parts that the family names (`families.Family.parts`); an operation outside them is an error.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdbench.codecs.learned import LearnedCodec
from kdbench.errors import CountError
from kdbench.families import PARTS
from kdbench.records import Complexity, FamilyArchitecture

HEIGHT_PX, WIDTH_PX = 512, 768

# What fvcore meets and does not count, and neither do we: a few operations per value, in GDN, in
# activations, in rounding and in the likelihoods. Shapes, copies and ReLU are on fvcore's own list
# of zeros.
ELEMENTWISE = frozenset(
    {
        "aten::abs",
        "aten::add",
        "aten::add_",
        "aten::clamp",
        "aten::clone",
        "aten::div",
        "aten::erfc",
        "aten::exp",
        "aten::floor",
        "aten::gelu",
        "aten::leaky_relu",
        "aten::log",
        "aten::maximum",
        "aten::minimum",
        "aten::mul",
        "aten::neg",
        "aten::pad",
        "aten::pow",
        "aten::round",
        "aten::rsqrt",
        "aten::rsub",
        "aten::sigmoid",
        "aten::silu",
        "aten::softplus",
        "aten::sqrt",
        "aten::sub",
        "aten::sub_",
        "aten::tanh",
        "aten::where",
        "prim::PythonOp.LowerBoundFunction",
    }
)
# What fvcore counts in MAC. Its figures for norms and upsampling are guesses in flops.
PRODUCTS = frozenset({"addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"})


def measure_complexity(model: nn.Module) -> Complexity:
    """Parameters, kMAC per pixel of each part and peak memory of a decode, at 768x512.

    `model` is a `Hyperprior`, CompressAI's `ScaleHyperprior` or a codec of a family, and is left as
    it was. A context counts as h_s. The entropy model's share is the factorised prior of z: 33 MAC
    a value for each end of its rounding step. Nobody knows the memory of a family's decode.

    Raises:
        CountError: A part has an operation that nobody counts.
    """
    if isinstance(getattr(model, "architecture", None), FamilyArchitecture):
        return complexity_by_parts(model)  # type: ignore[arg-type]
    codec = copy.deepcopy(model).cpu().eval()
    shapes = part_inputs(codec)
    macs = {name: count_macs(getattr(codec, name), name, shapes[name]) for name in shapes}
    kmac_per_px = {name: n / (HEIGHT_PX * WIDTH_PX) / 1000 for name, n in macs.items()}
    return Complexity(
        params=sum(parameter.numel() for parameter in model.parameters()),
        g_a=kmac_per_px["g_a"],
        h_a=kmac_per_px["h_a"],
        h_s=kmac_per_px["h_s"] + kmac_per_px.get("context", 0.0),
        g_s=kmac_per_px["g_s"],
        entropy_model=kmac_per_px["entropy_bottleneck"] + kmac_per_px["gaussian_conditional"],
        peak_memory_bytes=peak_decode_bytes(codec, shapes),
    )


@torch.no_grad()
def complexity_by_parts(model: LearnedCodec) -> Complexity:
    """Parameters and kMAC per pixel of each part of one forward at 768x512.

    Every multiply-accumulate belongs to a child of the model, every child to one of its `parts`.

    Raises:
        CountError: One does not, or nobody counts it.
    """
    codec = copy.deepcopy(model).cpu().eval()
    analysis = FlopCountAnalysis(codec, torch.zeros(1, 3, HEIGHT_PX, WIDTH_PX))
    _require_counted(analysis, "the codec")
    by_module = analysis.by_module()
    macs = dict.fromkeys(PARTS, 0)
    for name, child in codec.named_children():
        if (part := codec.parts.get(name)) is not None:
            macs[part] += by_module[name]
        elif by_module[name] or any(True for _ in child.parameters()):
            raise CountError(
                f"{name} of the codec belongs to none of {', '.join(PARTS)}",
                fix="name its part in the family's `parts`",
            )
    if outside := by_module[""] - sum(macs.values()):
        raise CountError(
            f"{outside} multiply-accumulates of the codec lie outside its children",
            fix="put every layer and product into a child module, and call that",
        )
    kmac_per_px = {part: n / (HEIGHT_PX * WIDTH_PX) / 1000 for part, n in macs.items()}
    return Complexity(
        params=sum(parameter.numel() for parameter in model.parameters()),
        g_a=kmac_per_px["g_a"],
        h_a=kmac_per_px["h_a"],
        h_s=kmac_per_px["h_s"],
        g_s=kmac_per_px["g_s"],
        entropy_model=kmac_per_px["entropy_model"],
    )


Shapes = Sequence[tuple[int, ...]]


@torch.no_grad()
def part_inputs(codec: nn.Module) -> Mapping[str, Shapes]:
    """Shapes each part is given in one forward of a 768x512 photo, by the part's name."""
    parts = {name: _on_meta(part) for name, part in codec.named_children()}
    x = torch.empty(1, 3, HEIGHT_PX, WIDTH_PX, device="meta")
    y = parts["g_a"](x)
    seen = y.new_empty(1, parts["h_a"][0].in_channels, *y.shape[2:])  # type: ignore[index]
    z = parts["h_a"](seen)
    inputs = {
        "g_a": [x],
        "h_a": [seen],
        "h_s": [z],
        "g_s": [y],
        "entropy_bottleneck": [z],
        "gaussian_conditional": [y, y],  # values and scales
    }
    if "context" in parts:
        inputs["context"] = [y, y, y]  # values, scales and means
    return {name: [tuple(t.shape) for t in tensors] for name, tensors in inputs.items()}


@torch.no_grad()
def count_macs(part: nn.Module, name: str, shapes: Shapes) -> int:
    """MACs of one forward of `part` on inputs of these shapes.

    Raises:
        CountError: An operation is neither a counted product nor in `ELEMENTWISE`.
    """
    analysis = FlopCountAnalysis(part, tuple(torch.zeros(shape) for shape in shapes))
    return sum(_require_counted(analysis, name).values())


def _require_counted(analysis: FlopCountAnalysis, name: str) -> Mapping[str, int]:
    """MACs by operator; raises CountError for one that nobody counts."""
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counted = analysis.by_operator()
    unknown = sorted(
        (analysis.unsupported_ops().keys() - ELEMENTWISE) | (counted.keys() - PRODUCTS)
    )
    if unknown:
        raise CountError(
            f"nobody counts the multiplies of {', '.join(unknown)} in {name}",
            fix="build the part from convolutions, or add the operation to ELEMENTWISE in "
            "kdbench/complexity.py if it costs a few operations a value",
        )
    return {operator: int(n) for operator, n in counted.items()}


@torch.no_grad()
def peak_decode_bytes(codec: nn.Module, shapes: Mapping[str, Shapes]) -> int:
    """Largest sum of live fp32 tensors in h_s, then g_s [byte], weights of the decoder included.

        z, weights | h_s ... sigma | (context) | y_hat | g_s ... x_hat
                     every tensor from the operation that makes it until Python lets it go

    The decoder holds every parameter but those of g_a and h_a. Counted on tensors without storage,
    so the figure is the same on every machine. Not counted: what a backend allocates inside one
    operation (im2col, cuDNN workspaces), CDF tables, the range coder, the 8-bit image.
    """
    decoder = {name: _on_meta(p) for name, p in codec.named_children() if name not in _ENCODER}
    live = _LiveBytes(p for part in decoder.values() for p in part.parameters())
    with live:
        for name in ("h_s", "context"):
            if name in shapes:
                decoder[name](*(torch.empty(*shape, device="meta") for shape in shapes[name]))
        decoder["g_s"](torch.empty(*shapes["g_s"][0], device="meta"))
    return live.peak_bytes


_ENCODER = ("g_a", "h_a")


def _on_meta(part: nn.Module) -> nn.Module:
    """A copy that computes shapes and nothing else."""
    return copy.deepcopy(part).to("meta")


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of all storages that are alive, from `held` on, and their peak."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._n_bytes: dict[StorageWeakRef, int] = {}
        self.peak_bytes = 0
        self._note(held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._note(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def _note(self, tensors: Iterable[Tensor]) -> None:
        for ref in [ref for ref in self._n_bytes if ref.expired()]:  # type: ignore[no-untyped-call]
            del self._n_bytes[ref]
        for tensor in tensors:
            storage = tensor.untyped_storage()
            ref = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self._n_bytes[ref] = storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, sum(self._n_bytes.values()))
