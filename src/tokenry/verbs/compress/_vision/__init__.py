"""How the tokens of an image encoder are reduced on a user's own images, and what that saves and costs."""
