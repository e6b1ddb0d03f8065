"""The study's model, put together as the study does: what this project's model is compared with.

Embedding and head are PyTorch's own, initialised by PyTorch; the layer is the package `xlstm`'s, initialised by it.
"""

from torch import Tensor, nn
from xlstm.blocks.mlstm.layer import mLSTMLayer, mLSTMLayerConfig
from xlstm.components.ln import LayerNorm

from orthonar.model import MLSTMConfig


class StockModel(nn.Module):
    """Embedding, `xlstm.blocks.mlstm.layer.mLSTMLayer` between its LayerNorms with a residual, linear head.

    Args:
        config: sizes; the read and the form are not looked at, the stock layer has the raw read.
        context_length: length of the causal mask that the stock layer keeps; sequences may be shorter or longer.
    """

    def __init__(self, config: MLSTMConfig, context_length: int):
        super().__init__()
        width = config.embedding_dim
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.norm = LayerNorm(width)
        self.layer = mLSTMLayer(
            mLSTMLayerConfig(
                embedding_dim=width,
                num_heads=config.mixer.num_heads,
                proj_factor=config.mixer.proj_factor,
                conv1d_kernel_size=config.mixer.conv_kernel_size,
                qkv_proj_blocksize=config.mixer.qkv_block_size,
                context_length=context_length,
                bias=False,
                dropout=0.0,
            )
        )
        self.post_norm = LayerNorm(width)
        self.head = nn.Linear(width, config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, S, V) for tokens (B, S)."""
        x = self.embedding(tokens)
        return self.head(self.post_norm(x + self.layer(self.norm(x))))
