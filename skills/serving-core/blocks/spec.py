"""What this stack was specialised to. In a composed stack most of these are literals in the code that used them."""

from typing import Any, Literal

# The model. The defaults are those of the tiny test checkpoints.
ARCHITECTURE: Literal["llama", "qwen3"] = "llama"
VOCAB_SIZE: int = 512
HIDDEN_SIZE: int = 64
LAYERS: int = 2
HEADS: int = 4
KV_HEADS: int = 2
HEAD_DIM: int = 16
INTERMEDIATE_SIZE: int = 192
RMS_EPS: float = 1e-5
ROPE_THETA: float = 10000.0
ROPE_SCALING: dict[str, Any] | None = None
QK_NORM: bool = False
ATTENTION_BIAS: bool = False
TIED_EMBEDDINGS: bool = False

# Its text side.
EOS_TOKEN_IDS: tuple[int, ...] = (2,)
BOS_TOKEN_ID: int | None = 1
SERVED_MODEL_NAME: str = "model"

# The arithmetic.
DECODER: Literal["native", "torch", "cuda"] = "native"
DTYPE: Literal["bfloat16", "float32"] = "bfloat16"
THREADS: int = 1
DEVICE: Literal["cuda", "cpu"] = "cuda"  # of the CUDA decoder; "cpu": its steps by reference kernels, for trials
WEIGHTS: Literal["stored", "fp8"] = "stored"  # of the layers' matrices on a CUDA device
GRAPH_ROWS: int = 16  # rows of the smallest CUDA graph
TORCH_KERNELS: str = ""  # kernels of the CUDA decoder that PyTorch's take the place of, with commas
ATTENTION_BLOCK: int = 64  # positions that the paged attention kernel takes at a time

# Cache, batching, admission.
PAGE_TOKENS: int = 16
KV_PAGES: int = 1024
MAX_SEQUENCES: int = 16
STEP_TOKENS: int = 256
PREFILL_CHUNK: int = 256
MAX_WAITING: int = 1024
PREFIX_REUSE: bool = False  # whether a prompt's beginning that was computed before is taken from the cache

# Speculation.
SPECULATION: Literal["none", "prediction", "prompt-lookup"] = "none"
DRAFT_WIDTH: int = 16
DRAFT_ADAPTIVE: bool = True

# The envelope: what the stack takes itself; everything else goes to the baseline.
MAX_MODEL_LEN: int = 2048
MAX_INPUT_TOKENS: int = 1536
MAX_OUTPUT_TOKENS: int = 1024
MAX_LOGPROBS: int = 20  # alternatives of a token; vLLM's default for --max-logprobs
