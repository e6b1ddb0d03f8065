"""The mLSTM: its cell, its writes, its layer."""
