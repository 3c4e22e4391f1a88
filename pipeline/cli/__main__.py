"""`python -m pipeline.cli`, where the console script is not on the path."""

from pipeline.cli import main

main()
