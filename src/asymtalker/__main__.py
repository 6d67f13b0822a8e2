"""``python -m asymtalker``."""

from asymtalker.commands.cli import main

if __name__ == "__main__":
    main()
