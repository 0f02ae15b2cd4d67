"""The record of a comparison, read from its file."""

import json

from tokenry.verbs._tune.records import read_comparison


def load(path):
    return read_comparison(json.loads(path.read_text(encoding="utf-8")))
