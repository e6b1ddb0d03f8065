"""The chunkwise mLSTM's inner loops, compiled: by Triton for GPUs, by Numba for CPUs; imported only where they can run.

`tiles` holds what the Triton kernels share; `states`, `chunk_reads` and `chunk_filter` each do on a GPU what the module
they are tested against does with PyTorch. With TRITON_INTERPRET=1 in the environment they run, slowly, on a CPU.
With Numba, on a CPU, `cpu_memory` does what the first two do, in one, and `cpu_filter` what the last does; `cpu_layer`
has the layer's projections and convolution. `loops` and `vectors` hold what they share.
"""
