"""Generate images by the unit that you choose, and choose and repair the tokenizers that generators stand on."""

ORDER = ("train", "sample")
