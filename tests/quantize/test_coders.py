"""Coders restore every byte, in bounded memory, and refuse what is not whole."""

import sys
import zlib

import numpy as np
import pytest
from hostile.files import run_bounded
from hypothesis import given
from hypothesis import strategies as st

from plgolf.errors import UserError
from plgolf.quantize.coders import compress, decompress

CODERS = ["zlib", "lzma", "brotli", "zstd"]
every_coder = pytest.mark.parametrize("coder", CODERS)
CODES = np.random.default_rng(0).normal(0, 9, 40_000).round().clip(-31, 31).astype(np.int8).tobytes()


@every_coder
@given(data=st.binary(max_size=3000))
def test_every_byte_comes_back(coder, data):
    assert decompress(coder, compress(coder, data), len(data)) == data


@every_coder
def test_codes_of_six_bits_shrink_to_less_than_packed_bits(coder):
    small = compress(coder, CODES)
    assert decompress(coder, small, len(CODES)) == CODES
    assert len(small) < 0.71 * len(CODES)  # Packed they are 0.75; their entropy is 0.655.
    assert len(small) <= len(zlib.compress(CODES, 9))


@every_coder
def test_streams_that_are_not_whole_are_refused(coder):
    small = compress(coder, CODES)
    for data, size in [
        (small[:-1], len(CODES)),
        (small[: len(small) // 2], len(CODES)),
        (small + b"\0", len(CODES)),
        (small, len(CODES) + 1),
        (small, len(CODES) - 1),
        (small, 0),
        (b"", len(CODES)),
        (b"\xff" * 50, len(CODES)),
    ]:
        with pytest.raises(UserError, match=f"must be a whole {coder} stream") as error:
            decompress(coder, data, size)
        assert "\n" not in str(error.value)


@pytest.mark.slow
@every_coder
def test_bombs_take_no_more_memory_than_their_size_says(coder, tmp_path):
    (tmp_path / "bomb").write_bytes(compress(coder, bytes(2**26)))
    code = (
        "from plgolf.quantize.coders import compress, decompress\n"
        "coder, data = sys.argv[2], open(sys.argv[1], 'rb').read()\n"
        "decompress(coder, compress(coder, b'x'), 1)\n"
        "limit()\n"
        "try:\n    decompress(coder, data, 1000)\nexcept ValueError as error:\n    print(error)\n"
    )
    said = run_bounded(code, tmp_path / "bomb", coder, mebibytes=40)
    assert said.startswith(f"must be a whole {coder} stream")


@pytest.mark.parametrize(("coder", "package"), [("brotli", "brotli"), ("zstd", "zstandard")])
def test_a_coder_that_is_not_installed_is_refused_with_the_command(coder, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"this coder needs the {package} package: pip install {package}"):
        compress(coder, b"a")
    with pytest.raises(UserError, match=f"pip install {package}"):
        decompress(coder, b"a", 1)


def test_an_old_brotli_is_refused(monkeypatch):
    class Decompressor:
        """As of brotli 1.1, which bounds no output."""

    old = type(sys)("brotli")
    old.Decompressor = Decompressor
    monkeypatch.setitem(sys.modules, "brotli", old)
    with pytest.raises(UserError, match=r"needs brotli 1\.2 or newer"):
        decompress("brotli", b"a", 1)
