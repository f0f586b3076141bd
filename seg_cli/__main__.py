"""``python -m seg_cli`` is ``segrun``."""

from seg_cli.cli import main

if __name__ == "__main__":
    main()
