"""``python -m asymtalker``."""

from asymtalker.cli import main

if __name__ == "__main__":
    main()
