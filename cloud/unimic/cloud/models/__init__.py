"""PyTorch definitions of the networks that the project trains."""
