# %% [markdown]
# # Another tokenizer for a model
#
# A model for code comments does not need a vocabulary for the whole web. Here it gets one of 6,000 tokens that was trained on docstrings,
# without any training of the model, and bits per byte say what that cost.

# %%
from transformers import PreTrainedTokenizerFast

from tokenry.core.text.bits_per_byte import bits_difference, text_loss
from tokenry.core.text.docstrings import read_docstrings
from tokenry.models import load_model, load_tokenizer
from tokenry.tokenization import train_bpe
from tokenry.tokenization.transplant import transplant_tokenizer

texts = read_docstrings(["sklearn", "scipy", "pandas"], held_out_share=0.1, most_files=60)
held_out = [text[:600] for text in texts.held_out[:16]]
len(texts.train), len(held_out)

# %% [markdown]
# ## Train a tokenizer

# %%
new = PreTrainedTokenizerFast(tokenizer_object=train_bpe(texts.train, 6000), eos_token=None)
old = load_tokenizer("embedded")
{
    name: sum(len(tokenizer(text)["input_ids"]) for text in held_out)
    for name, tokenizer in (("old, 49,152 tokens", old), ("new, 6,000 tokens", new))
}

# %% [markdown]
# ## Put it in
#
# Tokens that both have keep their rows; a new one is composed of its pieces and of its nearest old tokens.

# %%
model = load_model("embedded")
before = text_loss(model, old, held_out)
rows = model.get_input_embeddings().num_embeddings
model, report = transplant_tokenizer(model, old, new, auxiliary="characters", carry_special_tokens=True)
print(report)

# %% [markdown]
# ## What it cost
#
# Perplexities per token do not compare between tokenizers; bits per byte do.

# %%
after = text_loss(model, new, held_out)
print(f"{rows:,} rows of the embedding before, {model.get_input_embeddings().num_embeddings:,} after")
print(f"bits per byte: {before.bits_per_byte.value:.3f} before, {after.bits_per_byte.value:.3f} after")
print(f"difference: {bits_difference(after, before)}")

# %% [markdown]
# A short continued training closes most of such a gap; a hypernetwork needs none ([ZeTT](../methods/zett.md)). Which change fits your case:
# [which tokenizer change](../which-tokenizer-change.md).
