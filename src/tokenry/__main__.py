"""`python -m tokenry` is `tokenry`."""

from tokenry.cli import main

main()
