"""Text as windows of equal information: a lossless code by a byte model, file by file, and what it costs."""

ORDER = ("encode", "decode", "report")
