"""The codec family `elic` of kdbench; no torch here, for a space is read without it."""

from typing import TYPE_CHECKING, Any

from kdbench.families import Family, Values, whole_number
from kdbench.records import Offer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


def _offer(values: Values) -> Offer:
    """Its Gaussians stand on a context that no teacher has, so they are compared with nobody's."""
    return Offer(channels=int(values["latent"]), hyper_width=int(values["hyper"]), prior=None)


def _build(values: Values, n_levels: int) -> "nn.Module":
    from kdbench_elic.model import Elic

    return Elic(
        encoder=int(values["encoder"]),
        decoder=int(values["decoder"]),
        blocks=int(values["blocks"]),
        latent=int(values["latent"]),
        hyper=int(values["hyper"]),
        n_levels=n_levels,
    )


def _start(model: Any, crops: "Tensor", rd_lambdas: "Sequence[float]") -> None:
    from kdbench_elic.model import start

    start(model, crops, rd_lambdas)


FAMILY = Family(
    axes={
        "encoder": whole_number(2, 1024),  # channels between the strided layers
        "decoder": whole_number(2, 1024),
        "blocks": whole_number(0, 8),  # residual bottlenecks after each strided layer
        "latent": whole_number(1, 1024),
        "hyper": whole_number(1, 1024),  # of z, and of all that predicts y
    },
    example={"encoder": 16, "decoder": 16, "blocks": 1, "latent": 32, "hyper": 16},
    offer=_offer,
    build=_build,
    start=_start,
    parts={
        "g_a": "g_a",
        "h_a": "h_a",
        "h_s": "h_s",
        "context": "h_s",
        "predict": "h_s",
        "g_s": "g_s",
        "entropy_bottleneck": "entropy_model",
        "gaussian_conditional": "entropy_model",
    },
)
