"""The fast forms of the cell: chunks instead of a memory matrix at every position."""
