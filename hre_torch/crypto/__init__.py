"""Number theory below the protocol: parameters, randomness, elements, re-encryption.

Nothing here knows of messages, files of a run, or PyTorch. Every function works on
integers that a caller above has already bounded, and draws secret randomness from
`hre_torch.crypto.entropy` only.
"""
