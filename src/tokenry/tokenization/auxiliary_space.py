"""The auxiliary space in which old and new tokens are compared.

    None, "hidden"   the model itself: mean over the pieces of a token of their hidden states after an early layer (see HIDDEN_LAYER)
    "embeddings"     the same before the first layer: the mean of the pieces' rows
    "characters"     TF-IDF of character 1- to 4-grams, reduced by SVD: needs no model
    a function       of a list of strings, one vector each: any sentence encoder (`sentence_encoder` loads one)
    an array         one vector per new token, such as a donor model's matrix; old tokens have the vector of the new one they equal
    AuxiliarySpace   computed before, to be used again

Vectors are centred on the mean old vector where they come from the model, and scaled to length one.
"""
