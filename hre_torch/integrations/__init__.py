"""What other libraries' training loops need beside `HREOptimizer`, one file each.

Each file imports its library, which an extra of `pip` brings.
"""
