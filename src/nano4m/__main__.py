"""``python -m nano4m`` is ``nano4m``."""

from nano4m.cli import main

if __name__ == "__main__":
    main()
