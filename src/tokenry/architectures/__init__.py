"""Language models that read and write something other than the tokens of a tokenizer."""
