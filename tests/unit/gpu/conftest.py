"""Kernels run where the tests run: natively on an NVIDIA GPU, in Triton's interpreter on any other machine (see
`tests/conftest.py`)."""

import torch

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
