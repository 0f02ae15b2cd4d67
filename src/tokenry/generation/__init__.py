"""Generate images and speech from units larger than a token, or continuous ones, and choose and repair the tokenizers of images."""
