"""The parts of `tokenry tune`: what is trained, measured, kept and resumed."""
