"""A causal language model whose logits for the next token are a row of a matrix, as a transformers model."""

from types import SimpleNamespace

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


class BigramConfig(PreTrainedConfig):
    model_type = "bigram"

    def __init__(self, vocab_size: int = 7, **kwargs):
        self.vocab_size = vocab_size
        super().__init__(**kwargs)


class OneHot(nn.Module):
    """The backbone: a token's hidden state is its unit vector."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.register_buffer("vectors", torch.eye(vocabulary, dtype=torch.float64))

    def forward(self, input_ids, **kwargs):
        return SimpleNamespace(last_hidden_state=self.vectors[input_ids])


class Bigram(PreTrainedModel):
    """Logits of the next token: `weights[current token]`."""

    config_class = BigramConfig
    base_model_prefix = "model"

    def __init__(self, weights):
        super().__init__(BigramConfig(len(weights)))
        self.model = OneHot(len(weights))
        self.lm_head = nn.Linear(len(weights), len(weights), bias=False, dtype=torch.float64)
        self.lm_head.weight.data = weights.T.clone()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, **kwargs):
        return SimpleNamespace(logits=self.lm_head(self.model(input_ids).last_hidden_state))
