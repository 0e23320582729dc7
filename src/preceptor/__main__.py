"""``python -m preceptor``."""

from preceptor.cli import main

main()
