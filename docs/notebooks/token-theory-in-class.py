# %% [markdown]
# # Token theory in class
#
# Why does a tokenizer help at all? Take a source that can be computed exactly: each symbol repeats the one two places back with probability
# 0.9. A model that only counts symbols sees a fair coin. A model that only counts *tokens* can be nearly perfect.

# %%
from matplotlib.figure import Figure

from tokenry.theory import (
    BlockTokenizer,
    BPETokenizer,
    LZWTokenizer,
    MarkovSource,
    exact_token_law,
    unigram_report,
)

source = MarkovSource.switching(k=2, p=0.1, q=0.1)
text = source.sample(60_000, seed=0)[0]
print("a sample:", "".join("AB"[symbol] for symbol in text[:60]))
print(
    f"no model can do better than {source.entropy_rate():.3f} nats per symbol; counting symbols gives {source.char_entropy():.3f}"
)

# %% [markdown]
# ## Counting tokens instead of symbols

# %%
sizes = (4, 8, 16, 32, 64, 128)
costs = {
    "LZW": [unigram_report(LZWTokenizer.train(text, size), text, source).ratio for size in sizes],
    "BPE": [unigram_report(BPETokenizer.train(text, size), text, source).ratio for size in sizes],
    "blocks": [
        unigram_report(BlockTokenizer(r), text[: len(text) // r * r], source).ratio for r in (2, 3, 4, 5, 6, 7)
    ],
}
figure = Figure(figsize=(6, 3.4), layout="constrained")
axes = figure.subplots()
for name, values in costs.items():
    axes.plot(sizes, values, marker="o", label=name)
axes.axhline(source.char_entropy() / source.entropy_rate(), linestyle=":", color="black", label="symbols")
axes.axhline(1, color="grey", linewidth=0.8)
axes.set(xscale="log", xlabel="tokens in the dictionary", ylabel="cost of the unigram / entropy rate")
axes.legend()
figure

# %% [markdown]
# ## Without a sample
#
# For a greedy tokenizer the law of its tokens is a small Markov chain of its own, so the cost is known to machine precision.

# %%
tokenizer = LZWTokenizer.train(text, 64)
sampled = unigram_report(tokenizer, text, source)
exact = exact_token_law(source, tokenizer)
print(
    f"on the sample {sampled.ratio:.4f}, exactly {exact.cross_entropy / source.entropy_rate():.4f} times the entropy rate"
)

# %% [markdown]
# Exercises: for which dictionary size do LZW tokens cost *more* than symbols, and why? What changes with `p=0.5`? What does
# `tokenry theory markov --text FILE --tokenizer gpt2` say of a text of yours? More: [what a tokenizer leaves to the
# model](../methods/markov-theory.md).
