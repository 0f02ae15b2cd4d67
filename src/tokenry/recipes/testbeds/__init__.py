"""What recipes try a claim on: one model or data set each, small ones of our own and the papers'."""
