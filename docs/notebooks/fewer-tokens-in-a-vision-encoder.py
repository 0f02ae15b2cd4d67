# %% [markdown]
# # Fewer tokens through a vision encoder
#
# A vision transformer reads an image as patches, and many of them say the same. Merging those inside the encoder saves work; how much accuracy
# does it cost, and would dropping tokens at random have done as well? The encoder is a small one for handwritten digits, which is trained
# once, in about a minute.

# %%
from matplotlib.figure import Figure

from tokenry.compression.vision import PiToMe, RandomDrop, ToMe, apply_token_reduction
from tokenry.recipes.testbeds.digits_vit import accuracy, load_digits_vit

digits = load_digits_vit()
images, labels = digits.test_images, digits.test_labels
f"{len(images)} images of {images.shape[-1]} x {images.shape[-2]} pixels, {100 * digits.accuracy:.1f} % right"

# %% [markdown]
# ## Merge, and look at what is left
#
# One call patches the encoder; `remove()` gives the model back as it was.

# %%
reduction = apply_token_reduction(digits.model, ToMe(r=4))
digits.model(images[:1])
print(reduction)
reduction.remove()

# %% [markdown]
# ## Accuracy against the tokens that are left


# %%
def right(reducer) -> float:
    reduction = apply_token_reduction(digits.model, reducer)
    try:
        return 100 * accuracy(digits.model, images, labels)
    finally:
        reduction.remove()


merged = (0, 2, 4, 6, 8)
curves = {
    "ToMe": [right(ToMe(r=r)) for r in merged],
    "random": [right(RandomDrop(r=r)) for r in merged],
}
figure = Figure(figsize=(6, 3.2), layout="constrained")
axes = figure.subplots()
for name, values in curves.items():
    axes.plot(merged, values, marker="o", label=name)
axes.set(xlabel="tokens merged or dropped in every layer", ylabel="right (%)")
axes.legend()
figure

# %% [markdown]
# PiToMe merges by how alike a token is to all others, and takes the share that it keeps instead of a number:

# %%
{ratio: right(PiToMe(ratio=ratio)) for ratio in (0.95, 0.9, 0.85)}

# %% [markdown]
# `tokenry compress vision --model MODEL --images FOLDER --sweep` draws these curves for your own encoder and images, with measured times:
# [which reduction](../which-reduction.md).
