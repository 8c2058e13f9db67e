"""A toy model that fills in the zoo's contract, so that shared code is tested at its source."""
