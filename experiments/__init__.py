"""The paper's claims, a file for each; `python -m experiments NAME` runs one, see `__main__`."""
