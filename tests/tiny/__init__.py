"""Everything tiny that the tests run on, from fixed seeds: `from tests import tiny`, then `tiny.llama()`.

`models` and `encoders` make models, `vlms` models that read images and text, `tokenizers` tokenizers, `images`, `chats` and
`training` data and settings. A test keeps a configuration of its own only where it tests exactly that architecture.
"""

from tests.tiny.models import bart, bert, gpt2, llama, made, t5, vit, vit_classifier

__all__ = ["bart", "bert", "gpt2", "llama", "made", "t5", "vit", "vit_classifier"]
