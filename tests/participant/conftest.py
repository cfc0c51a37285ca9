"""Sites whose servers run in this process, each with a task of its own."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from hre_torch.crypto.keys import key_files
from hre_torch.servers import running
from hre_torch.servers.serving import data_service, key_transform
from hre_torch.setup.identities import open_role
from hre_torch.setup.roster_file import profile_of, read_roster, task_of
from tests.sites import Site, furnish

NAMES = ("p0", "p1", "p2", "p3")


class HostedSite(Site):
    """A site whose servers run in this process."""

    names: tuple[str, ...]

    @property
    def initial(self):
        return self.folder / "initial.npy"

    def connect(self, name, **options):
        session = super().connect(name, **options)
        self.cleanup.callback(session.close)
        return session


@pytest.fixture
def make_hosted_site(tmp_path, monkeypatch):
    """Make a toy site and host its servers: `make_hosted_site(suite)`."""
    monkeypatch.setattr(running, "check_exposure", lambda parameters, host: None)
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)
    with ExitStack() as cleanup:

        def make(suite, names=NAMES, **options):
            folder = tmp_path / f"site{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            furnish(folder, suite, names, profile="toy-insecure", **options)
            site = HostedSite(folder)
            site.cleanup, site.names = cleanup, names
            file = read_roster(folder / "roster.json")
            task = task_of(file, profile_of(file, folder))
            made_for = {"suite": suite, "parameters": task.parameters}
            site.secrets = {
                role: open_role(folder / f"{role}.key", b"secret", **made_for)
                for role in ("dsp", "kts")
            }
            kts = key_transform(task, site.secrets["kts"])
            url = cleanup.enter_context(running.hosted(kts.app, task.parameters))
            site.dsp = data_service(
                task,
                site.secrets["dsp"],
                kts_url=url,
                published=(folder / "roster.json").read_bytes(),
            )
            url = cleanup.enter_context(running.hosted(site.dsp.app, task.parameters))
            site.ports["dsp"] = int(url.split(":")[-1])
            return site

        yield make
