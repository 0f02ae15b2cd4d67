"""How text, bytes and tokens belong together: vocabularies as bytes, byte-pair encoding, digits, passages, bits per byte."""
