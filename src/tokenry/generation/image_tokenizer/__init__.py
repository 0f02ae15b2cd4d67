"""Image tokenizers: quantise, perturb, measure before a generator is trained (pFID), and post-train the decoder after it is."""
