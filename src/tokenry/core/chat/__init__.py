"""Rows of any common form become token IDs, labels and spans, for every family that trains or scores on text."""
