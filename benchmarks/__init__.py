"""What privacy costs: our suites and their peers on one workload, in one run.

`run` is the program; `README.md` says how to read what it prints.
"""
