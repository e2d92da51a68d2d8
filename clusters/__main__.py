"""`python -m clusters`: the command line where its script is not on the path."""

from clusters.cli import main

main()
