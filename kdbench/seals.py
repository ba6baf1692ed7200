"""Checksums that a file carries itself, so that any byte that changed is noticed when it is read.

A JSON record ends with the SHA-256 of everything before it, as its last field:

     "schema": 4,
     "checksum": "sha256:5f70bf18..."
    }

Other data are followed by a mark and the 32 bytes of their SHA-256. What was written before there
were checksums has none, and is taken as it is. Beside the file a checksum could not be replaced at
the same moment; inside, a file and its checksum are always of one writing.
"""

import hashlib
import re
from collections.abc import Callable

FIELD = "checksum"
MARK = b"\nkdbench-sha256:"
_DIGEST_BYTES = 32
_END = "\n}\n"
_LAST = re.compile(rf',\n "{FIELD}": "sha256:([0-9a-f]{{64}})"\n}}\n$')


class BrokenSealError(ValueError):
    """Content that is not what its checksum says."""


def seal_json(text: str) -> str:
    """`text`, an object of at least one field as `json.dumps(indent=1)` writes it, with its sum."""
    if not text.endswith(_END):
        return text
    return f'{text[: -len(_END)]},\n "{FIELD}": "sha256:{_sha(text)}"{_END}'


def unseal_json(text: str, *, names_one: Callable[[], bool]) -> str:
    """`text` without its checksum, which it must fit.

    Args:
        text: Of a JSON object.
        names_one: Whether the object has the field; asked where it is not its last line.

    Raises:
        BrokenSealError: It does not fit, or cannot be read.
    """
    last = _LAST.match(text, max(text.rfind(f',\n "{FIELD}"'), 0))
    if last is None:
        if names_one():
            raise BrokenSealError("its checksum cannot be read")
        return text
    body = text[: last.start()] + _END
    if _sha(body) != last[1]:
        raise BrokenSealError("its content is not what its checksum says")
    return body


def seal(data: bytes) -> bytes:
    """`data` and, behind it, its checksum."""
    return data + MARK + hashlib.sha256(data).digest()


def unseal(data: bytes) -> bytes:
    """`data` without the checksum behind it, which it must fit.

    Raises:
        BrokenSealError: It does not fit.
    """
    at = len(data) - len(MARK) - _DIGEST_BYTES
    if at < 0 or data[at : at + len(MARK)] != MARK:
        return data
    body = data[:at]
    if hashlib.sha256(body).digest() != data[at + len(MARK) :]:
        raise BrokenSealError("its content is not what its checksum says")
    return body


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
