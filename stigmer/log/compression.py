"""zstd, as the log uses it: bytes made smaller with or without a prefix, and made whole again within a known size.

Owns the parameters and the bounds. The prefix is content that both sides have and that is not stored; it stands before
the data as far as matches are concerned. Nothing here says whether a result is right: the log keeps a checksum.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WINDOW_BYTES_MAX = 1 << 21
"""How far back a match may lie, prefix included; what a reader may have to allocate beside the result."""

PREFIX_BYTES_MIN = 8
"""zstd takes no shorter prefix; one that is shorter counts as none."""

# Level 3 writes half of what level 1 does where the prefix holds most of it, for the same time; higher ones cost more.
_LEVEL = 3
_WINDOW_LOG_MIN = 18

_Compress = zstd.CompressionParameter
_READ_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): WINDOW_BYTES_MAX.bit_length() - 1}


def compress(data: bytes, prefix: bytes = b"") -> bytes:
    """Give the zstd frame of some bytes. It holds neither their size nor a checksum: the log keeps both."""
    window_log = (len(data) + len(prefix)).bit_length()
    options = {
        int(_Compress.compression_level): _LEVEL,
        int(_Compress.window_log): min(max(window_log, _WINDOW_LOG_MIN), WINDOW_BYTES_MAX.bit_length() - 1),
        int(_Compress.content_size_flag): 0,
    }
    return zstd.compress(data, options=options, zstd_dict=_as_prefix(prefix))


def decompress(data: bytes, size: int, prefix: bytes = b"") -> bytes:
    """Give the `size` bytes that were compressed with this prefix. Raises `ValueError` where these are not they.

    Whatever the data say of themselves, no more than `size` bytes and a window are allocated.
    """
    reader = zstd.ZstdDecompressor(_as_prefix(prefix), _READ_OPTIONS)
    try:
        # One byte more than there should be, so that data without an end, or with a longer result, show it.
        result: bytes = reader.decompress(data, size + 1)
    except (zstd.ZstdError, EOFError, MemoryError) as error:
        raise ValueError(f"the compressed bytes are damaged: {error}") from error
    if len(result) != size or not reader.eof or reader.unused_data:
        raise ValueError(f"the compressed bytes are not those of {size} bytes")
    return result


def _as_prefix(prefix: bytes) -> tuple[zstd.ZstdDict, int] | None:
    return zstd.ZstdDict(prefix, is_raw=True).as_prefix if len(prefix) >= PREFIX_BYTES_MIN else None
