"""The chunkwise mLSTM's inner loops as Triton kernels, for GPUs; imported only where there is one.

`tiles` holds what the kernels share; `states`, `chunk_reads` and `chunk_filter` each do on a GPU what the module they
are tested against does with PyTorch. With TRITON_INTERPRET=1 in the environment they run, slowly, on a CPU.
"""
