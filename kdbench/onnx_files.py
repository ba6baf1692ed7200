"""The transforms of a student as ONNX files, each compared with torch in ONNX Runtime.

    encoder.onnx        x (1, 3, H, W) in [0, 1], level () -> y gained (1, M, h, w), z
    hyper_decoder.onnx  z_hat -> sigma, or sigma and mu, of the gained latent
    context.onnx        symbols coded first (others 0), sigma, mu -> sigma, mu; where there is one
    decoder.onnx        y_hat gained, level () -> x_hat, not clamped

H and W are free, multiples of 64. A codec of one level has no input `level`. Rounding, tables and
range coder are not in them: `kdbench.load` has these. An integer h_s and its context must come out
the same to the last bit; float ones need not, which is why files of a float h_s stay on machines of
one kind.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdbench.codecs.bitfile import Image, to_tensor
from kdbench.codecs.context import coded_first
from kdbench.codecs.hyperprior import Hyperprior, quantised
from kdbench.codecs.learned import LearnedCodec
from kdbench.errors import CodecError

OPSET = 17
TOLERANCE = 1e-4  # of the largest value, or of 1 where that is less
EXTRA = "pip install 'kdbench[onnx]'"
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One file and how it compares with torch.

    Attributes:
        max_abs_difference: Over all outputs, every level and one between each two.
        largest: Largest magnitude among them.
    """

    name: str
    max_abs_difference: float
    largest: float


class Encoder(nn.Module):
    """g_a, gain and h_a."""

    def __init__(self, model: Hyperprior) -> None:
        super().__init__()
        self.model, self.gain = model, _Gain(model, "log_gain")

    def forward(self, x: Tensor, level: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent in quantisation steps, and hyper-latent."""
        y = self.gain(self.model.g_a(x), level)
        return y, self.model.hyper_latent(y)


class HyperDecoder(nn.Module):
    """h_s."""

    def __init__(self, model: Hyperprior) -> None:
        super().__init__()
        self.model = model

    def forward(self, z_hat: Tensor) -> tuple[Tensor, ...]:
        """Scales; means where there are any."""
        return tuple(each for each in self.model.gaussians(z_hat) if each is not None)


class Decoder(nn.Module):
    """Inverse gain and g_s."""

    def __init__(self, model: Hyperprior) -> None:
        super().__init__()
        self.model, self.gain = model, _Gain(model, "log_inverse_gain")

    def forward(self, y_hat: Tensor, level: Tensor | None = None) -> Tensor:
        """Reconstruction."""
        x_hat: Tensor = self.model.g_s(self.gain(y_hat, level))
        return x_hat


class _Gain(nn.Module):
    """Gains at a level that the graph is told, interpolated as `LearnedCodec.gain` does."""

    def __init__(self, model: Hyperprior, name: str) -> None:
        super().__init__()
        self.n = model.architecture.n_levels
        if self.n > 1:
            self.register_buffer("logarithms", getattr(model, name).detach().clone())
        self.logarithms: Tensor

    def forward(self, y: Tensor, level: Tensor | None) -> Tensor:
        if level is None:
            return y
        below = level.floor().clamp(0, self.n - 2).long()
        low, high = self.logarithms[below], self.logarithms[below + 1]
        return y * torch.lerp(low, high, level - below)[None, :, None, None].exp()


def require_runtime() -> None:
    """Raises CodecError where the optional packages are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as why:
        raise CodecError(
            f"ONNX files are written and checked with packages that are not here: {why}",
            fix=EXTRA,
        ) from None


@torch.no_grad()
def write_onnx(model: LearnedCodec, folder: Path, image: Image) -> tuple[Checked, ...]:
    """Writes the files into `folder` and compares each with torch on `image`.

    Args:
        model: Finalised, on the CPU, fp32.
        folder: Which is there.
        image: A photo.

    Raises:
        CodecError: A codec of another family; ONNX Runtime is not installed, or computes something
            else.
    """
    require_runtime()
    if not isinstance(model, Hyperprior):
        raise CodecError(
            f"a codec of the family {model.architecture.codec.family} has no ONNX form here",
            fix="leave `--onnx` away",
        )
    n = model.architecture.n_levels
    levels = [torch.tensor(i / 2) for i in range(2 * n - 1)] if n > 1 else [None]
    x = to_tensor(image)
    names = ("encoder", "hyper_decoder", "context", "decoder")
    seen: dict[str, list[Sequence[Tensor | None]]] = {name: [] for name in names}
    for level in levels:
        y, z = Encoder(model)(x, level)
        z_hat = model.rounded_hyper_latent(z)
        said, coding = model.gaussians(z_hat), model.coding_gaussians(y, z_hat)
        seen["encoder"].append((x, level))
        seen["hyper_decoder"].append((z_hat,))
        means = torch.zeros_like(y) if said.means is None else said.means
        first = (y - means).round() * coded_first(y)
        seen["context"].append((first, said.scales, means))
        seen["decoder"].append((quantised(y, coding.means), level))
    parts: dict[str, tuple[nn.Module, list[str], list[str]]] = {
        "encoder": (Encoder(model), ["x", "level"], ["y", "z"]),
        "hyper_decoder": (
            HyperDecoder(model),
            ["z_hat"],
            ["scales", *(["means"] if model.has_means else [])],
        ),
        "decoder": (Decoder(model), ["y_hat", "level"], ["x_hat"]),
    }
    if model.context is not None:
        outputs = ["scales", "means"]
        inputs = ["symbols", *(f"{name}_before" for name in outputs)]
        parts["context"] = (model.context, inputs, outputs)
    return tuple(
        _checked(
            part,
            folder / f"{name}.onnx",
            inputs,
            outputs,
            seen[name],
            exact=name in ("hyper_decoder", "context") and model.has_integer_prior,
        )
        for name, (part, inputs, outputs) in parts.items()
    )


def run_onnx(path: Path, inputs: Mapping[str, Array]) -> list[Array]:
    """The outputs of one file in ONNX Runtime, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, dict(inputs))
    return found


def _checked(
    part: nn.Module,
    path: Path,
    inputs: list[str],
    outputs: list[str],
    seen: Sequence[Sequence[Tensor | None]],
    *,
    exact: bool,
) -> Checked:
    names = [name for name, value in zip(inputs, seen[0], strict=True) if value is not None]
    _write(part, path, names, outputs, [value for value in seen[0] if value is not None])
    difference, largest = 0.0, 0.0
    for values in seen:
        given = {name: v.numpy() for name, v in zip(inputs, values, strict=True) if v is not None}
        wanted = part(*values)
        wanted = [wanted] if isinstance(wanted, Tensor) else list(wanted)
        for ours, theirs in zip(wanted, run_onnx(path, given), strict=True):
            difference = max(difference, float(np.abs(ours.numpy() - theirs).max()))
            largest = max(largest, float(ours.abs().max()))
    if not difference <= (0.0 if exact else TOLERANCE * max(1.0, largest)):
        raise CodecError(
            f"{path.name} in ONNX Runtime differs from torch by {difference:.3g} where the largest "
            f"value is {largest:.3g}",
            fix="report this with the versions that `kdbench doctor` lists; leave `--onnx` away "
            "until then",
        )
    return Checked(name=path.name, max_abs_difference=difference, largest=largest)


def _write(
    part: nn.Module, path: Path, inputs: list[str], outputs: list[str], example: list[Tensor]
) -> None:
    maps = [name for name in (*inputs, *outputs) if name != "level"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on its exporters, and on shapes that are traced
        torch.onnx.export(
            part.eval(),
            tuple(example),
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {2: f"{name}_height", 3: f"{name}_width"} for name in maps},
            opset_version=OPSET,
            dynamo=False,  # the other exporter needs one more package
        )
