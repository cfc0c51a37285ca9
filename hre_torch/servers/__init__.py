"""What the two organisations run: DSP and KTS as roles, and the services around them.

data_service.py, key_transform.py   the roles, pure: a message in, a message out
dsp_app.py, kts_app.py              their routes
request_reader.py                   reads a message as cheaply as its sender has earned
kts_client.py                       carries the DSP's messages to the KTS
relay.py                            sealed snapshots between participants
steps.py                            one step of a role, durable before its answer leaves
limits.py                           closes connections that never ask anything
readiness.py, metrics.py, logs.py   what an operator sees
running.py, serving.py, config.py   sockets, exposure rules, start and end
store/                              where a server keeps its state
local.py                            both servers in this process
"""
