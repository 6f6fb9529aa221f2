"""The paper's claims, re-tested, and other experiments; `python -m experiments NAME` tests a claim."""
