"""CharBench: four character-level questions about single words, and what tokenization has to do with the answers."""
