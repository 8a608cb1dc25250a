"""`python -m threeshnet <verb> …` is the command `threeshnet <verb> …`."""

from threeshnet.cli import main

if __name__ == "__main__":
    main()
