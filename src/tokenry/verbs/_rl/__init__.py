"""The parts of `tokenry rl`: questions, rewards, arms, what they cost, and the layout of what came of them."""
