# PYTHON_ARGCOMPLETE_OK
"""`python -m residua`."""

from residua.cli.main import exit_skipping_rank_cleanup, main

if __name__ == "__main__":
    exit_skipping_rank_cleanup(main())
