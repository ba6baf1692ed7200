"""Decodes .kdb files in a process of its own, which sees a codec file and bitstreams, nothing else.

::

    this process                                  the decoder
    {"codec": PATH, "folder": PATH, "device": D}  -> loads the codec from its file
                                                     decodes each .kdb of the folder into an .rgb
    {"sha": {NAME: SHA}, "seconds": {NAME: S}}    <- or {"problem": WHAT}, with "fix" of its disk

One decoder serves all codecs of a process, one after the other, since its start (interpreter,
torch, CompressAI) takes more CPU seconds than the photos of a student; it holds half a gigabyte
beside the libraries that processes share. What must be fresh is the codec: it is read anew for
every request. A decoder ends with its process, however that one ends; it is replaced where the
environment changed since, and after an error.
"""

import atexit
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
import torch

from kdbench.codecs.base import Image
from kdbench.codecs.bitfile import decode_image, lay_out
from kdbench.codecs.weights import load_codec
from kdbench.device import keep_freed_memory, resolve, return_freed_memory, synchronise
from kdbench.errors import CodecError, KdbenchError, StoreError
from kdbench.files import TEMPORARY, writing

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
RAW = ".rgb"  # a decoded image: its samples, row by row
STOP_S = 5.0  # from the end of its requests to the end of the decoder; then it is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a decoder made of a folder.

    Attributes:
        folder: Where the files are, and now their images.
        sha: `pixels_sha` of each image, by the name of its file.
        seconds: Wall seconds of decoding alone, likewise; not of the first file, which makes memory
            and kernels ready, unless there is no other.
    """

    folder: Path
    sha: Mapping[str, str]
    seconds: Mapping[str, float]

    def pixels(self, name: str, shape: tuple[int, ...]) -> Image:
        """The image of one file, (H, W, 3).

        Raises:
            CodecError: It has another shape, or is not what the decoder gave.
        """
        samples = np.fromfile((self.folder / name).with_suffix(RAW), np.uint8)
        if samples.size != math.prod(shape) or pixels_sha(samples) != self.sha[name]:
            raise CodecError(
                f"{name} was decoded to {samples.size} samples, not the {shape[1]}x{shape[0]} px "
                "that were coded",
                fix="the temporary folder may be full: free some space, or name another in TMPDIR",
            )
        return samples.reshape(shape)


def pixels_sha(pixels: Image) -> str:
    """SHA-256 of an image's samples."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


class Decoder:
    """A decoder process; `decoder()` gives the one of this process.

    It imports what it needs while its caller goes on.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._environment = dict(os.environ)
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kdbench.decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=self._environment | ONE_THREAD,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def is_of_use(self) -> bool:
        """Whether it lives, is ours, and was started in the environment that is there now."""
        ours = self._owner == os.getpid() and self._environment == dict(os.environ)
        return ours and self._process.poll() is None

    def decode(self, codec: Path, folder: Path, device: str) -> Decoded:
        """Decodes every .kdb file of `folder` by the codec file `codec` on `device`, beside it.

        Raises:
            CodecError: A file cannot be decoded, or the decoder broke; says why.
            StoreError: `folder` cannot be written any more.
        """
        request = {"codec": str(codec.resolve()), "folder": str(folder), "device": device}
        reply = self._ask(request)
        if "fix" in reply:
            raise StoreError(reply["problem"], fix=reply["fix"])
        if "problem" in reply:
            raise CodecError(
                f"decoding in a process of its own failed: {reply['problem']}",
                fix="the codec cannot be decoded elsewhere; report it with its trial folder",
            )
        return Decoded(folder=folder, sha=reply["sha"], seconds=reply["seconds"])

    def stop(self) -> None:
        """Ends the process; it may be called twice."""
        if self._owner != os.getpid():
            return
        process = self._process
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a request that it did not read
                pipe.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._said.close()

    def _ask(self, request: Mapping[str, str]) -> Mapping[str, Any]:
        """Its reply; whatever comes between, an interrupt say, ends it: a late reply would lie."""
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        try:
            try:
                requests.write(json.dumps(request) + "\n")
                requests.flush()
                line = replies.readline()
            except BrokenPipeError:
                line = ""
            if not line:
                raise self._broken()
            reply: Mapping[str, Any] = json.loads(line)
        except BaseException:
            self._process.kill()
            self.stop()
            raise
        return reply

    def _broken(self) -> CodecError:
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        said = [line for line in lines if line.strip() and not line.startswith("  fix: ")]
        if code < 0:
            reason = f"signal {-code} ({signal.strsignal(-code)}) ended it"
            fix = "start the command again; the system kills processes when memory runs out"
        else:
            reason = said[-1] if said else f"it ended with code {code} and no message"
            fix = "the codec cannot be decoded elsewhere; report it with its trial folder"
        return CodecError(f"decoding in a process of its own failed: {reason}", fix=fix)


_current: Decoder | None = None


def decoder() -> Decoder:
    """The decoder of this process, started where there is none that could be used."""
    global _current  # noqa: PLW0603  # one a process is the point
    if _current is None or not _current.is_of_use:
        stop()
        _current = Decoder()
    return _current


@atexit.register
def stop() -> None:
    """Ends the decoder of this process, if there is one."""
    global _current  # noqa: PLW0603
    if _current is not None:
        _current.stop()
        _current = None


# --- the other side ------------------------------------------------------------------------------


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answers requests until there are no more, or until nobody is there to read."""
    parent = os.getppid()
    for line in requests:
        request = json.loads(line)
        try:
            found = _decode_folder(
                Path(request["codec"]), Path(request["folder"]), request["device"], parent
            )
            reply: dict[str, Any] = {"sha": found.sha, "seconds": found.seconds}
        except StoreError as why:
            reply = {"problem": why.problem, "fix": why.fix}
        except KdbenchError as why:
            reply = {"problem": why.problem}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        return_freed_memory()


def _decode_folder(path: Path, folder: Path, device: str, parent: int) -> Decoded:
    """Each file once; an only one twice, since memory and kernels are made ready by the first."""
    model = lay_out(load_codec(path)[0]).to(resolve(device))
    files = sorted(folder.glob("*.kdb"))
    shas, seconds = {}, {}
    for i, file in enumerate(files if len(files) > 1 else 2 * files):
        if os.getppid() != parent:
            sys.exit("nobody waits for the images any more")
        data = file.read_bytes()
        synchronise(device)
        began = time.perf_counter()
        pixels = decode_image(model, data)
        synchronise(device)
        if i > 0:
            seconds[file.name] = time.perf_counter() - began
        shas[file.name] = pixels_sha(pixels)
        image = file.with_suffix(RAW)
        with writing(image, elsewhere=TEMPORARY):
            image.write_bytes(pixels.tobytes())
    return Decoded(folder=folder, sha=shas, seconds=seconds)


def main() -> None:
    """Serves whoever started this process; what libraries print goes to stderr."""
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(
            which, signal.SIG_IGN
        )  # a terminal's or scheduler's are its parent's to answer
    torch.set_num_threads(1)
    keep_freed_memory()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
