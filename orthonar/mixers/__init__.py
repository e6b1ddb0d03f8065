"""Mixers that the mLSTM stands beside in the study's shell."""
