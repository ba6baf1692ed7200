"""The decoder's process: one for many codecs, each read anew, and it ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdbench import decoder as module
from kdbench.codecs.bitfile import decode_image, encode_image
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import codec_bytes
from kdbench.decoder import Decoder, decoder, pixels_sha
from kdbench.errors import CodecError, StoreError
from tests.support.codecs import architecture, crops, trained


@pytest.fixture(scope="module")
def models() -> list[Hyperprior]:
    return [trained(architecture(), 5, seed=seed) for seed in (0, 1)]


def folder_of(model: Hyperprior, folder: Path) -> tuple[Path, dict[str, str]]:
    """A codec file, the folder of its .kdb files beside it, and what they must decode to."""
    (folder / "coded").mkdir(parents=True)
    (folder / "codec.safetensors").write_bytes(codec_bytes(model, {}))
    expected = {}
    for i, crop in enumerate(crops(2)):
        data = encode_image(model, crop.transpose(1, 2, 0), i)
        (folder / "coded" / f"{i}.kdb").write_bytes(data)
        expected[f"{i}.kdb"] = pixels_sha(decode_image(model, data))
    return folder / "codec.safetensors", expected


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pid: int) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end and is_alive(pid):
        time.sleep(0.05)
    return not is_alive(pid)


def test_one_process_decodes_what_several_codecs_coded(
    models: list[Hyperprior], tmp_path: Path
) -> None:
    """Under one path, too: the file is read for every request."""
    process = decoder()
    for i, model in enumerate(models):
        path, expected = folder_of(model, tmp_path / str(i))
        decoded = process.decode(path, path.parent / "coded", "cpu")
        assert decoded.sha == expected
        assert [*decoded.seconds] == (sorted(expected)[1:] or [*expected])
        assert all(seconds > 0 for seconds in decoded.seconds.values())
    first, second = (tmp_path / name / "codec.safetensors" for name in "01")
    first.write_bytes(second.read_bytes())
    with pytest.raises(CodecError, match="its own failed: the decoded latents are not the ones"):
        process.decode(first, tmp_path / "0" / "coded", "cpu")
    first.unlink()
    with pytest.raises(CodecError, match="its own failed: there is no codec file"):
        process.decode(first, tmp_path / "0" / "coded", "cpu")
    assert decoder() is process  # it said no and goes on
    module.stop()


def test_a_full_disk_is_no_fault_of_the_codec(models: list[Hyperprior], tmp_path: Path) -> None:
    """A trial would be told as failed, and never tried again."""
    path, _ = folder_of(models[0], tmp_path)
    (tmp_path / "coded" / "0.rgb").symlink_to("/dev/full")  # the kernel's own full disk
    with pytest.raises(StoreError, match=r"(?s)0\.rgb cannot be written: the disk is full.*TMPDIR"):
        decoder().decode(path, tmp_path / "coded", "cpu")
    module.stop()


def test_a_decoder_that_dies_is_an_error_and_the_next_one_is_another(
    models: list[Hyperprior], tmp_path: Path
) -> None:
    path, expected = folder_of(models[0], tmp_path / "0")
    before = decoder()
    before.decode(path, path.parent / "coded", "cpu")
    os.kill(before.pid, signal.SIGKILL)
    with pytest.raises(CodecError, match=r"signal 9 .*\n  fix: .*memory runs out"):
        before.decode(path, path.parent / "coded", "cpu")
    again = decoder()
    assert again is not before
    assert again.decode(path, path.parent / "coded", "cpu").sha == expected
    assert decoder() is again
    module.stop()
    assert gone(again.pid)


def test_a_decoder_that_cannot_even_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = Decoder()
    with pytest.raises(CodecError, match="failed: ImportError: no torch today"):
        process.decode(tmp_path / "codec", tmp_path, "cpu")


def test_another_environment_gets_another_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that became visible since would be missing in the old one."""
    before = decoder()
    monkeypatch.setenv("KDBENCH_TEST", "1")
    try:
        assert decoder() is not before
        assert gone(before.pid)
    finally:
        module.stop()


def test_an_interrupted_request_leaves_no_reply_for_the_next(
    models: list[Hyperprior], tmp_path: Path
) -> None:
    path, _ = folder_of(models[0], tmp_path / "0")
    process = Decoder()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    os.kill(process.pid, signal.SIGSTOP)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            process.decode(path, path.parent / "coded", "cpu")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not process.is_of_use
    assert gone(process.pid)


@pytest.mark.parametrize("how", ["it ends", "it is killed"])
def test_a_decoder_ends_with_the_process_that_it_serves(how: str) -> None:
    script = "import time\nfrom kdbench.decoder import decoder\nprint(decoder().pid, flush=True)\n"
    script += "time.sleep(60)" if how == "it is killed" else ""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if how == "it is killed":
            assert is_alive(pid)
            parent.kill()
        parent.wait(60)
    assert gone(pid)
