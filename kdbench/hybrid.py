"""Hybrid teachers: one for the latent, another for the hyper-latent, another for the output.

    teacher: {latent: zoo:A/5, hyper_latent: zoo:A/1, output: zoo:A/5}

A spec names it by one text, `hybrid:latent=zoo:A/5,hyper_latent=zoo:A/1,output=zoo:A/5`. The
entropy term goes with the latent: it is about the Gaussians of those channels; and so do features.
"""

from collections.abc import Mapping

from kdbench.records import Coordinates

KIND = "hybrid:"
TERMS = ("latent", "hyper_latent", "output")
SERVES: Mapping[str, tuple[str, ...]] = {
    "latent": ("latent", "entropy", "features"),
    "hyper_latent": ("hyper_latent",),
    "output": ("output",),
}
"""Terms of the loss that a teacher of each key serves."""


def name_of(parts: Mapping[str, str]) -> str:
    """The name of a hybrid by its teachers, which are named in the order of `TERMS`."""
    return KIND + ",".join(f"{term}={parts[term]}" for term in TERMS if term in parts)


def parts(name: str) -> dict[str, str]:
    """Teacher of each term of a hybrid; of any other teacher, itself for all."""
    if not name.startswith(KIND):
        return dict.fromkeys(TERMS, name)
    pairs = (part.partition("=") for part in name.removeprefix(KIND).split(","))
    return {term: teacher for term, _, teacher in pairs}


def duties(name: str) -> dict[str, frozenset[str]]:
    """Each different teacher of `name` and the terms of the loss that it serves."""
    found: dict[str, frozenset[str]] = {}
    for term, teacher in parts(name).items():
        found[teacher] = found.get(teacher, frozenset()) | {*SERVES[term]}
    return found


def coordinates(name: str, each: Mapping[str, Coordinates]) -> Coordinates:
    """What `name` offers to a student, `each` of its teachers offering what is given by name.

    Latent and Gaussians are those of the latent's teacher, the hyper-latent is that of its own.
    """
    own = parts(name)
    has_hyper = "hyper_latent" in own and each[own["hyper_latent"]].has_hyper
    if "latent" not in own:
        return Coordinates(next(iter(each.values())).channels, None, has_hyper)
    return each[own["latent"]]._replace(has_hyper=has_hyper)
