"""How fast this package is, alone and beside PyTorch."""
