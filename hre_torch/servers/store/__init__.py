"""Where a server keeps its state: one SQLite database, and files for large bodies.

    store = Store.open(folder, task, "dsp")
    role = DataServiceProvider(
        task, secret, workers, state=store.load(), journal=store.journal
    )
    with store.transaction():
        reply = role.admit(upload)
    # Only here may the reply leave: what it promises is on the disk.

What the role told its journal inside the `with` becomes durable in one transaction at
its end, also if the step ended in a refusal (an `HREError`). If the disk fails,
`StoreError` is raised instead of a reply, and the store refuses every further step till
`load` has been called and a new role made from what it returns: the old one in memory
knows of things that the disk does not.

What is on the disk follows what is pending and not fetched, not history. `recorder.py`
says what goes when, `contents.py` how what stays is checked.
"""

from __future__ import annotations

from hre_torch.servers.store.report import StoreReport, check_store
from hre_torch.servers.store.store import Store

__all__ = ["Store", "StoreReport", "check_store"]
