"""How text is cut: measure, train, replace and transplant tokenizers."""
