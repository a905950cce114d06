"""`python -m deskgrid`."""

from deskgrid.cli.main import main

if __name__ == "__main__":
    main()
