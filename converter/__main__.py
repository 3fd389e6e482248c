"""`python -m kexport.converter`: the command line, where the console script is not on the PATH."""

from kexport.converter.cli import main

if __name__ == "__main__":
    main()
