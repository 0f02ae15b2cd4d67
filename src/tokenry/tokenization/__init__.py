"""Cut text well: what a tokenizer costs in each language, how to train one, and how to give a model another one.

premiums      token counts with intervals, vocabulary curves, a vocabulary for each language
training      BPE, Unigram, and tokens that span words
numbers       groups of digits
transplant    another tokenizer for a model, without training
zett          another tokenizer for a model, by a hypernetwork
segmentation  the same text cut by several tokenizers, side by side
"""
