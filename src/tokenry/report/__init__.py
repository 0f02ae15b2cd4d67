"""One look for everything tokenry shows: blocks, and the terminal, the HTML page and Markdown that draw them."""
