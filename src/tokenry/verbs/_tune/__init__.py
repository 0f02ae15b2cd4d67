"""The parts of `tokenry tune`: data, training, measurement, records and resumption."""
