"""Text as windows of equal information: an exact, lossless code by a byte model, and what a second model learns from it."""

from tokenry.tokenization.equal_info.byte_models import (
    CausalWindowModel,
    FunctionWindows,
    NextByteWindows,
    WindowModel,
    WittenBellModel,
)
from tokenry.tokenization.equal_info.codec import CodedWindows, EqualInfoCodec, windows_of_tokens
from tokenry.tokenization.equal_info.coded_file import CodedHeader, decode_file, encode_file, read_coded_file
from tokenry.tokenization.equal_info.interval_code import interval_code
from tokenry.tokenization.equal_info.quantised import quantize_pmf
from tokenry.tokenization.equal_info.report import (
    StreamReport,
    bits_of_symbols,
    bits_of_words,
    bits_per_byte,
    compression_report,
    flops_per_byte,
    window_report,
    wrong_windows,
)
from tokenry.tokenization.equal_info.streams import (
    ArithmeticCodec,
    coder_resets,
    gzip_stream,
    range_encode,
    stream_tokens,
    symbol_intervals,
    wnc_decode,
    wnc_encode,
)
from tokenry.tokenization.equal_info.units import ByteUnits, TokenUnits

__all__ = [
    "ArithmeticCodec",
    "ByteUnits",
    "CausalWindowModel",
    "CodedHeader",
    "CodedWindows",
    "EqualInfoCodec",
    "FunctionWindows",
    "NextByteWindows",
    "StreamReport",
    "TokenUnits",
    "WindowModel",
    "WittenBellModel",
    "bits_of_symbols",
    "bits_of_words",
    "bits_per_byte",
    "coder_resets",
    "compression_report",
    "decode_file",
    "encode_file",
    "flops_per_byte",
    "gzip_stream",
    "interval_code",
    "quantize_pmf",
    "range_encode",
    "read_coded_file",
    "stream_tokens",
    "symbol_intervals",
    "window_report",
    "windows_of_tokens",
    "wnc_decode",
    "wnc_encode",
    "wrong_windows",
]
