"""DSP and KTS as HTTP services: the roles of `protocol/`, a thread, a disk, a network.

dsp.py       the DSP's routes, and its errands to the KTS
kts.py       the KTS's routes
intake.py    reads a message as cheaply as its sender has earned
errands.py   carries the DSP's messages to the KTS
relay.py     sealed snapshots between participants
steps.py     one step of a role at a time, durable before its answer leaves
guard.py     closes connections that never ask anything
metrics.py   what Prometheus may know
logs.py      one line of JSON per event
running.py   sockets, exposure rules, start and end
"""
