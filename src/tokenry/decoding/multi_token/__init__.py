"""Multi-token prediction with masks: a drafter inside a frozen language model, and decoding that writes what the model writes."""
