"""Models of the zoo as codecs of ours, so that they code real files and are measured like any.

Of the zoo `bmshj2018-hyperprior` is what `Hyperprior` is with one level. The others have transforms
or entropy models that it has not: they teach, and code nothing here.
"""

from pathlib import Path

from kdbench import zoo
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import codec_bytes, load_codec
from kdbench.errors import CodecError, notice
from kdbench.files import write_atomic
from kdbench.records import Architecture, Hyper, Latent, Transform
from kdbench.zoo import ZooModel


def adopted(model: ZooModel, folder: Path) -> Path:
    """The codec file of `model` under `folder`; written once a file of the zoo.

    Weights are the zoo's, CDF tables are built as for every codec of ours.

    Raises:
        CodecError: Not one of our models; or as `zoo.load`.
        StoreError: `folder` cannot be written.
    """
    if model.name != zoo.OWN:
        raise CodecError(
            f"{model} can teach, but kdbench does not code with it: of the zoo only {zoo.OWN} is a "
            "model of its own kind",
            fix=f"name zoo:{zoo.OWN}/QUALITY",
        )
    _, sha = zoo.read(model)
    path = folder / f"zoo-{sha[:16]}.safetensors"
    if not _is_whole(path):
        built, _ = zoo.load(model)
        codec = Hyperprior(architecture_of(int(built.N), int(built.M)))  # type: ignore[arg-type]
        codec.load_state_dict(built.state_dict())
        codec.finalise()
        card = {"name": str(model), "training": {"rd_lambdas": [model.rd_lambda]}, "sha": sha}
        write_atomic(path, codec_bytes(codec, card, summed=True))
    return path


def _is_whole(path: Path) -> bool:
    """Whether the codec has been written before; a damaged one is told, and written again."""
    if not path.is_file():
        return False
    try:
        load_codec(path)
    except CodecError as why:
        notice(f"{why.problem}; it is made again")
        return False
    return True


def architecture_of(N: int, M: int) -> Architecture:
    """CompressAI's `ScaleHyperprior(N, M)`."""
    side = Transform(width=N)
    return Architecture(
        encoder=side, decoder=side, hyper=Hyper(width=N), latent=Latent(channels=M), n_levels=1
    )
