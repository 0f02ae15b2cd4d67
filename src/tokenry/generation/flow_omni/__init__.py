"""Speech, or any stream of real numbers, as continuous tokens beside text in a causal language model."""
