"""What is done with tensors of tokens: the one shift, signals, choices, losses, attention, and what is put on a model and taken off."""
