"""A teacher of one rate that is not ours: any model with CompressAI's forward pass.

What is asked of it, on crops (B, 3, H, W) in [0, 1] with H and W multiples of 64:

    forward(x)["x_hat"]     (B, 3, H, W)           its reconstruction
    g_a                     (B, M, H/16, W/16)     a module; what it returns is the latent y
    h_a                     (B, Z, H/64, W/64)     likewise, the hyper-latent z; may be missing
    gaussian_conditional    called as f(y, scales[, means]) with y's shape; may be missing

Nothing of a model is computed here: one forward pass is listened to, so that context models and
attention give what they really use. The unit of y must be the quantisation step, as everywhere in
CompressAI.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor, nn

from kdbench import plugins
from kdbench.errors import CodecError
from kdbench.features import is_shared, listening
from kdbench.records import Offer

STRIDES = {"y": 16, "z": 64, "scales": 16, "means": 16, "x_hat": 1}
PROBE_PX = 64  # the smallest crop a study may have
FIX = "docs/method.md says what a teacher must be"


@dataclass(frozen=True, kw_only=True)
class OneRate:
    """A frozen teacher of one rate.

    Attributes:
        sha: Hash of what it consists of.
        rd_lambda: What it was trained for.
    """

    name: str
    sha: str
    rd_lambda: float
    model: nn.Module
    offer: Offer

    @property
    def rd_lambdas(self) -> tuple[float, ...]:
        """Its one level."""
        return (self.rd_lambda,)

    def levels_for(self, rd_lambdas: Sequence[float]) -> tuple[int, ...]:
        """Its level for each of `rd_lambdas`.

        Raises:
            CodecError: One of them is not its own.
        """
        if any(v != self.rd_lambda for v in rd_lambdas):
            raise CodecError(
                f"{self.name} was trained for rd_lambda {self.rd_lambda:g} alone",
                fix="let it guide the level of that rd_lambda",
            )
        return tuple(0 for _ in rd_lambdas)

    def gains(self, levels: Sequence[int]) -> Tensor:
        """Ones: its y is in quantisation steps."""
        return torch.ones(len(levels), 1, 1, 1)

    def rounded_hyper_latent(self, z: Tensor) -> Tensor:
        """See `contract.Teaches`; plainly rounded where the model has no prior of CompressAI's."""
        prior = getattr(self.model, "entropy_bottleneck", None)
        if not isinstance(prior, EntropyBottleneck):
            return z.round()
        medians: Tensor = prior._get_medians().detach().reshape(1, -1, 1, 1)
        return (z - medians).round() + medians

    def outputs(
        self, crops: Tensor, levels: Sequence[int], feature_layer: str | None = None
    ) -> dict[str, Tensor]:
        """What the cache stores; see `contract.Teaches`."""
        with listening(self.name, self.model, feature_layer) as tap:
            found = heard(self.name, self.model, crops.float() / 255)
        if tap is not None:
            found["features"] = tap.features
        x_hat = found.pop("x_hat").clamp(0, 1).mul(255).round().to(torch.uint8)
        halves = {name: values.half() for name, values in found.items()} | {"x_hat": x_hat}
        return {
            name: v if is_shared(name, feature_layer) else torch.stack([v for _ in levels])
            for name, v in halves.items()
        }


def from_plugin(name: str) -> tuple[OneRate, ...]:
    """The models that an installed package brings as `plugin:NAME`, by ascending rd_lambda.

    Raises:
        CodecError: No such teacher, it cannot be imported, or what it gives cannot teach.
    """
    point = plugins.find(name)
    try:
        brought = point.load()()
    except plugins.FAILURES as why:
        raise CodecError(
            f"{name} ({point.value}) cannot be loaded: {type(why).__name__}: {_first_line(why)}",
            fix="repair or update the package that brings it",
        ) from why
    if not isinstance(brought, Mapping) or not brought or not all(map(_is_rate, brought.items())):
        raise CodecError(
            f"{name} ({point.value}) gives no models by their rd_lambda",
            fix="its function must return a mapping such as {0.013: model}, each model a torch "
            f"module; {FIX}",
        )
    several = len(brought) > 1
    return tuple(
        one_rate(
            f"{name} at rd_lambda {rd_lambda:g}" if several else name,
            brought[rd_lambda],
            sha=_sha(point.value, brought[rd_lambda]),
            rd_lambda=float(rd_lambda),
        )
        for rd_lambda in sorted(brought)
    )


def _is_rate(item: tuple[Any, Any]) -> bool:
    rd_lambda, model = item
    is_number = isinstance(rd_lambda, int | float) and not isinstance(rd_lambda, bool)
    return is_number and 0 < rd_lambda < math.inf and isinstance(model, nn.Module)


def _sha(value: str, model: nn.Module) -> str:
    """Of the code's name and of every weight."""
    digest = hashlib.sha256(f"{value} {type(model).__qualname__}".encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _first_line(why: Exception) -> str:
    return (str(why).splitlines() or ["no reason given"])[0]


def one_rate(name: str, model: nn.Module, *, sha: str, rd_lambda: float) -> OneRate:
    """`model` as a teacher, frozen, in eval mode.

    Raises:
        CodecError: It does not do what this module's docstring asks.
    """
    model.eval().requires_grad_(False)
    found = heard(name, model, torch.full((1, 3, PROBE_PX, PROBE_PX), 0.5))
    predicted = "mean_scale" if "means" in found else "scale"
    offer = Offer(
        channels=found["y"].shape[1],
        hyper_width=found["z"].shape[1] if "z" in found else None,
        prior=predicted if "scales" in found else None,  # type: ignore[arg-type]
    )
    return OneRate(name=name, sha=sha, rd_lambda=rd_lambda, model=model, offer=offer)


@torch.no_grad()
def heard(name: str, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """`y`, `x_hat` and, of a model that has them, `z`, `scales`, `means`, of one forward pass.

    Raises:
        CodecError: The pass fails, or gives other shapes than the docstring above.
    """
    found: dict[str, Tensor] = {}
    try:
        with _listening(model, found):
            found["x_hat"] = model(x)["x_hat"]
    except plugins.FAILURES as why:
        raise CodecError(
            f"{name} cannot code images of {x.shape[-1]}x{x.shape[-2]} px: "
            f"{type(why).__name__}: {_first_line(why)}",
            fix=f"its forward must take (B, 3, H, W) and return a dict with x_hat; {FIX}",
        ) from why
    if "y" not in found:
        raise CodecError(
            f"{name} has no latent: its forward calls no module g_a", fix=f"give it one; {FIX}"
        )
    for what, values in found.items():
        _require_shape(name, what, values, x, found["y"].shape[1])
    return {what: values.float() for what, values in found.items()}


def _require_shape(name: str, what: str, values: Any, x: Tensor, M: int) -> None:
    side = tuple(n // STRIDES[what] for n in x.shape[-2:])
    channels = {"x_hat": 3, "scales": M, "means": M}.get(what, "any")
    shape = tuple(getattr(values, "shape", ()))
    fits = len(shape) == x.ndim and shape[0] == len(x) and shape[2:] == side
    if not fits or channels not in ("any", shape[1]):
        raise CodecError(
            f"{name}: {what} of a {x.shape[-1]}x{x.shape[-2]} px image has the shape {shape}; "
            f"students meet it at ({len(x)}, {channels}, {side[0]}, {side[1]})",
            fix="take a teacher with a student's strides: y 1/16 and z 1/64 of the photo a side, "
            "x_hat as large as it",
        )


@contextmanager
def _listening(model: nn.Module, found: dict[str, Any]) -> Iterator[None]:
    """Inside, what `model` computes first of each latent lands in `found`."""

    def keep(what: str, values: Any) -> None:
        if isinstance(values, Tensor):
            found.setdefault(what, values.clone())  # what comes next may work in place

    def returns(what: str) -> Any:
        return lambda module, args, out: keep(what, out)

    def asks(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("inputs", "scales", "means"), args, strict=False)) | kwargs
        for what in ("scales", "means"):
            keep(what, given.get(what))

    modules = {name: getattr(model, name, None) for name in ("g_a", "h_a", "gaussian_conditional")}
    hooks = []
    for what, module in (("y", modules["g_a"]), ("z", modules["h_a"])):
        if isinstance(module, nn.Module):
            hooks.append(module.register_forward_hook(returns(what)))
    if isinstance(modules["gaussian_conditional"], nn.Module):
        gaussians = modules["gaussian_conditional"]
        hooks.append(gaussians.register_forward_pre_hook(asks, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
