"""Language models over words that are pooled from characters, bytes or subwords."""
