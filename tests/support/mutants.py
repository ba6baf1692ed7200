"""Files like valid ones, with what a hand, a disk or an enemy did to them; the same for a seed."""

import random
from collections.abc import Sequence

ODD_VALUES = (
    "-1", "0", "1e400", "-.inf", ".nan", "9" * 400, "9" * 5000, "1e-400", "true", "null", "~", "[]",
    "{}", '""', "[[]]", "{a: {b: {c: 1}}}", "'\\0'", '"\\0"', '"\\ud800"', '"\\U0010ffff"',  "é",
    "x" * 3000, "../../etc", "/etc/passwd", "!!python/object/apply:os.system ['true']",
    "!!binary aGk=", "!!set {a}", "2026-11-28", "0x10", "1_000", "&a [*a]", "&a {b: *a}",
    "&a [1, 2]\nz: *a", "*nowhere", "<<: {a: 1}", "? [1, 2]\n: 3", "|\n  text", "%YAML 9.9", "---",
    "...", "\t", "\x07", "\ufeff", "@", "`", "file:" + "x" * 300, "teacher:../x", "zoo:x/999999",
    "cuda:99999999999999999999", "best",
)  # fmt: skip


def text_mutants(valid: Sequence[str], n: int, seed: int) -> list[bytes]:
    """`n` mutants of YAML texts."""
    rng = random.Random(seed)
    return [_text_mutant(valid, rng) for _ in range(n)]


def _text_mutant(valid: Sequence[str], rng: random.Random) -> bytes:
    text = rng.choice(valid)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        text = rng.choice(CHANGES)(text, valid, rng)
    data = text.encode("utf-8", errors="surrogatepass")
    if rng.random() < 0.15:
        data = bytes_mutant(data, rng)
    return data


def _lines(text: str) -> list[str]:
    return text.split("\n")


def _value(text: str, valid: Sequence[str], rng: random.Random) -> str:
    """Something odd in the place of what follows a colon or a comma."""
    places = [i for i, letter in enumerate(text) if letter in ":,["]
    if not places:
        return text
    at = rng.choice(places) + 1
    end = at
    while end < len(text) and text[end] not in ",]}\n":
        end += 1
    return f"{text[:at]} {rng.choice(ODD_VALUES)}{text[end:]}"


def _line(text: str, valid: Sequence[str], rng: random.Random) -> str:
    """A line less, twice, elsewhere, or of another file."""
    lines = _lines(text)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(4)
    if what == 0:
        del lines[i]
    elif what == 1:
        lines.insert(i, lines[i])
    elif what == 2:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines.insert(i, rng.choice(_lines(rng.choice(valid))))
    return "\n".join(lines)


def _letter(text: str, valid: Sequence[str], rng: random.Random) -> str:
    """A letter less, more or another."""
    at = rng.randrange(len(text) + 1)
    odd = rng.choice("{}[]:,#&*!|>'\"%@`- \t\n0aé\x00\x85\u2028")
    return text[:at] + odd * rng.randrange(3) + text[at + rng.randrange(2) :]


def _indent(text: str, valid: Sequence[str], rng: random.Random) -> str:
    lines = _lines(text)
    i = rng.randrange(len(lines))
    lines[i] = " " * rng.choice((1, 2, 3, 8, 200)) + lines[i]
    return "\n".join(lines)


def _key(text: str, valid: Sequence[str], rng: random.Random) -> str:
    return f"{text}\n{rng.choice(('a', 'name', 'space', 'encoder', 'é', '1', '~'))}: 1\n"


def _cut(text: str, valid: Sequence[str], rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


CHANGES = (_value, _value, _value, _line, _letter, _indent, _key, _cut)


def bytes_mutant(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, doubled, or of the largest numbers."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        head = rng.random() < 0.6  # most of what a format says stands at its beginning
        at = rng.randrange(min(len(changed), 200) if head else len(changed))
        what = rng.randrange(6)
        if what == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            changed[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)))
        elif what == 2:
            changed[at] = rng.randrange(256)
        elif what == 3:
            del changed[at:]
        elif what == 4:
            end = at + rng.randrange(1, 64)
            changed[at:at] = changed[at:end]
        else:
            del changed[at : at + rng.randrange(1, 16)]
    return bytes(changed)
