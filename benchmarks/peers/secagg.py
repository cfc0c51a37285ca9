"""Flower's SecAgg+: pairwise masks between neighbours, the sum in the clear.

The client's side is Flower's own mod, driven through its four stages by messages made
here; the server's side calls the functions that Flower's workflow calls, in its order.
Nothing travels, so neither polling nor protobuf counts against it. Every client has
three neighbours, four hold shares of its keys and three can recover them.

Flower rounds stochastically. So updates leave our grid here, as those of a training
would, and the sum must be right to a step of Flower's grid per client. Its masks come
from numpy's Mersenne Twister with a 32-bit seed, so that their time is not that of a
cryptographic generator.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.meter import Meter, Reading
from benchmarks.system import System, SystemFactory
from benchmarks.weights import Weights
from benchmarks.workload import Workload
from hre_torch.errors import EncodingError, MissingExtraError

# Flower reads it when it is imported: a benchmark reports to nobody.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

try:
    from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
    from flwr.client.mod import secaggplus_mod
    from flwr.common import (
        Code,
        FitRes,
        MessageType,
        Status,
        bytes_to_ndarray,
        ndarray_to_bytes,
        ndarrays_to_parameters,
    )
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        factor_extract,
        get_parameters_shape,
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.quantization import dequantize
    from flwr.common.secure_aggregation.secaggplus_constants import (
        RECORD_KEY_CONFIGS,
        Key,
        Stage,
    )
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    from flwr.compat.common.recorddict_compat import fitres_to_recorddict
except ImportError as error:
    raise MissingExtraError(
        "peer 'secagg' needs the package flwr, which is not installed; run "
        "pip install 'hre-torch[flower]'"
    ) from error

__all__ = ["SYSTEMS", "SecAggPlus"]

_CLIENTS: Final = 4
"""Every client, and its three neighbours."""
_THRESHOLD: Final = 3
_CLIPPING_RANGE: Final = 8.0
_TARGET_RANGE: Final = 1 << 22
_MOD_RANGE: Final = 1 << 32
_MAX_WEIGHT: Final = 1000.0
"""The defaults of Flower's workflow. All clients have this weight, so it is 1."""
_STEP: Final = 2 * _CLIPPING_RANGE / _TARGET_RANGE
"""Between two neighbours of Flower's grid: a quarter of a unit of ours."""
_SEED: Final = 2


class _Client:
    """Flower's client-side mod, and the state that it keeps between stages."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self._context = Context(0, node_id, {}, RecordDict(), {})
        self._trained: RecordDict | None = None

    def train(self, update: npt.NDArray[np.float64]) -> None:
        """Have an update ready, as Flower's client app returns it."""
        parameters = ndarrays_to_parameters([update.astype(np.float32)])
        result = FitRes(Status(Code.OK, ""), parameters, int(_MAX_WEIGHT), {})
        self._trained = fitres_to_recorddict(result, keep_input=True)

    def answer(self, stage: str, configs: Mapping[str, Any]) -> dict[str, Any]:
        """Run one stage."""
        record = ConfigRecord({**configs, Key.STAGE: stage})
        now = time.time()
        metadata = Metadata(
            0, "", 0, self.node_id, "", "", now, 3600.0, MessageType.TRAIN
        )
        asked = Message(
            content=RecordDict({RECORD_KEY_CONFIGS: record}), metadata=metadata
        )
        answer = secaggplus_mod(asked, self._context, self._call_next)
        return dict(answer.content.config_records[RECORD_KEY_CONFIGS])

    def _call_next(self, message: Message, context: Context) -> Message:
        return Message(self._trained, reply_to=message)


class SecAggPlus(System):
    """One round of SecAgg+ among four clients, none of which drops out.

    1. `client_push`: all four stages of a client, from its trained float32 parameters.
    2. `dsp_push`: the server parses a masked update.
    3. `dsp_release`: it adds them (`add`, per addition), recovers every client's own
       mask from shares, takes it away and averages.
    4. `dsp_recipient`: it writes the new weights, the same for everybody.
    5. `client_pull`: a client loads them.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(
            "secagg", workload, modulus_bits=None, lanes=None, uploads=_CLIENTS
        )
        self._fixed_point = workload.fixed_point
        stream = np.random.default_rng(_SEED)
        self._off_grid = stream.uniform(-_STEP / 2, _STEP / 2, self.measured_values)
        self._weights = Weights(self.measured_values, workload.fixed_point)
        self._clients = {node: _Client(node) for node in range(1, _CLIENTS + 1)}
        self._meter = Meter()
        self._pushes: dict[int, Reading] = {}

    def round(
        self, updates: Sequence[npt.NDArray[np.float64]], meter: Meter
    ) -> list[npt.NDArray[np.int64]]:
        """Play the phases that the class docstring lists, in that order."""
        self._meter, self._pushes = meter, {}
        for client, update in zip(self._clients.values(), updates, strict=True):
            client.train(update + self._off_grid)
        received = [self._receive(masked) for masked in self._masked()]
        shares = self._shares()
        with meter("dsp_release"):
            with meter("add", times=_CLIENTS - 1):
                total = reduce(parameters_addition, received)
            mean = _unmask(parameters_mod(total, _MOD_RANGE), shares)
        with meter("dsp_recipient") as reading:
            download = ndarray_to_bytes(mean)
        reading.bytes = len(download)
        with meter("client_pull") as reading:
            total_update = _CLIENTS * bytes_to_ndarray(download)
            self._weights.apply(
                np.rint(total_update * self._fixed_point.scale).astype(np.int64)
            )
        reading.bytes = len(download)
        return [self._on_grid(total_update, updates)]

    def _on_grid(
        self,
        total_update: npt.NDArray[np.float64],
        updates: Sequence[npt.NDArray[np.float64]],
    ) -> npt.NDArray[np.int64]:
        """Return the sum of the updates as they were, if this one is close enough."""
        exact: npt.NDArray[np.float64] = np.sum(updates, axis=0)
        if np.abs(total_update - exact).max() > 2 * _CLIENTS * _STEP:
            raise EncodingError(
                "SecAgg+ returned another sum than that of its clients' updates; its "
                "times mean nothing"
            )
        return np.rint(exact * self._fixed_point.scale).astype(np.int64)

    def _masked(self) -> Iterator[dict[str, Any]]:
        """Lead all clients to their masked updates, through three stages."""
        setup = {
            Key.SAMPLE_NUMBER: _CLIENTS,
            Key.SHARE_NUMBER: _CLIENTS,
            Key.THRESHOLD: _THRESHOLD,
            Key.CLIPPING_RANGE: _CLIPPING_RANGE,
            Key.TARGET_RANGE: _TARGET_RANGE,
            Key.MOD_RANGE: _MOD_RANGE,
            Key.MAX_WEIGHT: _MAX_WEIGHT,
        }
        keys = {node: self._ask(node, Stage.SETUP, setup) for node in self._clients}
        public = {
            str(node): [key[Key.PUBLIC_KEY_1], key[Key.PUBLIC_KEY_2]]
            for node, key in keys.items()
        }
        mail: dict[int, list[tuple[int, bytes]]] = {node: [] for node in self._clients}
        for source in self._clients:
            answer = self._ask(source, Stage.SHARE_KEYS, public)
            targets, letters = answer[Key.DESTINATION_LIST], answer[Key.CIPHERTEXT_LIST]
            for target, letter in zip(targets, letters, strict=True):
                mail[target].append((source, letter))
        for node, received in mail.items():
            forwarded = {
                Key.SOURCE_LIST: [source for source, _ in received],
                Key.CIPHERTEXT_LIST: [letter for _, letter in received],
            }
            yield self._ask(node, Stage.COLLECT_MASKED_VECTORS, forwarded)

    def _receive(self, masked: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
        with self._meter("dsp_push") as reading:
            arrays = [bytes_to_ndarray(data) for data in masked[Key.MASKED_PARAMETERS]]
        reading.bytes = sum(map(len, masked[Key.MASKED_PARAMETERS]))
        return arrays

    def _shares(self) -> list[list[bytes]]:
        """Collect, for every client, the shares of the seed of its own mask."""
        everybody = {
            Key.ACTIVE_NODE_ID_LIST: list(self._clients),
            Key.DEAD_NODE_ID_LIST: [],
        }
        shares: dict[int, list[bytes]] = {node: [] for node in self._clients}
        for node in self._clients:
            answer = self._ask(node, Stage.UNMASK, everybody)
            owned = zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True)
            for owner, share in owned:
                shares[owner].append(share)
        return list(shares.values())

    def _ask(self, node: int, stage: str, configs: Mapping[str, Any]) -> dict[str, Any]:
        with self._meter("client_push", resume=self._pushes.get(node)) as reading:
            answer = self._clients[node].answer(stage, configs)
        reading.bytes += sum(map(_size, answer.values()))
        self._pushes[node] = reading
        return answer


def _unmask(
    total: list[npt.NDArray[Any]], shares: Sequence[list[bytes]]
) -> npt.NDArray[np.float64]:
    """Return the mean of all updates, as the workflow's last stage computes it."""
    for kept in shares:
        mask = pseudo_rand_gen(
            combine_shares(kept), _MOD_RANGE, get_parameters_shape(total)
        )
        total = parameters_subtraction(total, mask)
    total_ratio, parameters = factor_extract(parameters_mod(total, _MOD_RANGE))
    mean: npt.NDArray[np.float64]
    (mean,) = dequantize(parameters, _CLIPPING_RANGE, _TARGET_RANGE)
    mean += -(len(shares) - 1) * _CLIPPING_RANGE
    mean *= _TARGET_RANGE / total_ratio
    return mean


def _size(value: Any) -> int:
    """Return the octets of one entry of an answer."""
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, bytes) else 8


SYSTEMS: Final[tuple[SystemFactory, ...]] = (SecAggPlus,)
