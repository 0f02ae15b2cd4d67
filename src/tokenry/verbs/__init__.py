"""tokenry: fine-tune, score, compress and study language models token by token.

Every file here is a verb of the command line and every package a group of verbs: a file holds a frozen `Plan`, whose fields are the
verb's options, and `run(plan, progress) -> Result`. What only `run` needs is imported in it, so that `--help` answers at once.
"""

ORDER = (
    "tune",
    "rl",
    "preference",
    "score",
    "explain",
    "report",
    "evaluate",
    "compress",
    "tokenizer",
    "bytes",
    "route",
    "cascade",
    "draft",
    "sift",
    "detect",
    "select_data",
    "scaling",
    "pretrain",
    "words",
    "flatness",
    "images",
    "theory",
)
