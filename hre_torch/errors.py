"""Every exception that hre_torch raises on purpose.

HREError
├── ConfigurationError      what a person wrote cannot work; nothing has started
│   ├── ModulusError        a modulus or a profile file fails a check
│   ├── RecipeError         a recipe has an unknown key or a wrong value
│   ├── TaskError           a task breaks a rule of its suite
│   ├── LayoutError         model, optimizer and task disagree about parameters
│   ├── OutsideChangeError  weights were changed behind the optimizer's back
│   ├── CheckpointError     a checkpoint is of another task, or of another time
│   ├── DataError           a data set is missing or unreadable
│   ├── RunDirectoryError   a run directory is missing, foreign or damaged
│   ├── UnsupportedError    a trainer or optimizer setting we refuse by name
│   ├── UnknownPluginError  no suite or aggregator of that name
│   └── MissingExtraError   an optional package is not installed
├── EncodingError           numbers that cannot be carried exactly
│   ├── NonFiniteError      NaN or infinity where a number was expected
│   ├── SlotOverflowError   a sum left its slot or its norm, or a value its bits
│   └── ChecksumError       decoded count, checksum or weights cannot be right
├── CryptoError
│   ├── InvalidElementError a group element is out of range or not invertible
│   ├── ProofError          a zero-knowledge proof does not verify
│   ├── KeyFileError        a key file is missing, exposed or damaged
│   └── DecryptionError     a ciphertext does not open (deliberately says no more)
├── ProtocolError
│   ├── MessageError        bytes that are not a well-formed message
│   ├── SignatureError      a message is not signed by whom it names
│   ├── WrongTaskError      a message belongs to another task, suite or recipient
│   ├── EquivocationError   one sequence number, two different uploads
│   │   └── UsedNumberError a sequence number is used up; seal under the next one
│   ├── SpentUpdateError    the same values are in a signed list already
│   ├── StaleUploadError    an upload is based on weights that are too old
│   ├── BackPressure        too many unreleased uploads of one participant
│   ├── ReleaseError        a release list breaks a rule
│   ├── TransformError      a key transform failed; nothing was consumed, ask again
│   │   └── SnapshotNeededError what comes next is gone; start from a snapshot
│   ├── ReleaseRejectedError a release decodes wrongly; everybody rejects it
│   ├── SpoiledReleaseError a release does not open here; others are asked
│   └── DisputedReleaseError it opened for others, but not here
└── AggregatorError         the backend that carries messages failed
    ├── StoreError          a server's stored state is damaged or cannot be written
    └── BehindError         a server goes on from an old copy; it acknowledges nothing
"""

from __future__ import annotations

__all__ = [
    "AggregatorError",
    "AloneWarning",
    "BackPressure",
    "BehindError",
    "CheckpointError",
    "ChecksumError",
    "ConfigurationError",
    "CryptoError",
    "DataError",
    "DecryptionError",
    "DisputedReleaseError",
    "EncodingError",
    "EquivocationError",
    "EquivocationWarning",
    "HREError",
    "HREWarning",
    "InvalidElementError",
    "KeyFileError",
    "LayoutError",
    "LostWorkerWarning",
    "MessageError",
    "MissingExtraError",
    "ModulusError",
    "NonFiniteError",
    "NonFiniteGradientWarning",
    "OutsideChangeError",
    "ProofError",
    "ProtocolError",
    "RecipeError",
    "ReleaseError",
    "ReleaseRejectedError",
    "RoundingWarning",
    "RunDirectoryError",
    "SaturationWarning",
    "SignatureError",
    "SlotOverflowError",
    "SnapshotNeededError",
    "SpentUpdateError",
    "SpoiledReleaseError",
    "SpoiledReleaseWarning",
    "StaleUploadError",
    "StoreError",
    "TaskError",
    "TransformError",
    "UnknownPluginError",
    "UnprotectedWarning",
    "UnstableTrainingWarning",
    "UnsupportedError",
    "UsedNumberError",
    "WrongTaskError",
]


class HREError(Exception):
    """Base of every exception that hre_torch raises on purpose.

    Attributes:
        upload: digest of the upload that a server refuses with it for good: neither
            these octets nor others under their number will ever be in a list. Empty
            for any other error.
        version: newest release of the server that refuses that upload.
        release: signed list that rules the upload out, encoded; empty if none does.
    """

    upload: bytes = b""
    version: int = 0
    release: bytes = b""


class ConfigurationError(HREError, ValueError):
    """What a person wrote cannot work; raised before any work has started."""


class ModulusError(ConfigurationError):
    """A modulus or a profile file fails one of the checks on foreign parameters."""


class RecipeError(ConfigurationError):
    """A recipe has an unknown key or a value that is not allowed."""


class TaskError(ConfigurationError):
    """A task breaks a rule of its suite, such as fewer participants than t."""


class LayoutError(ConfigurationError):
    """Model, optimizer and task disagree about the layout of the parameters."""


class OutsideChangeError(ConfigurationError):
    """A script changed the weights between two steps, and did not say what it means."""


class CheckpointError(ConfigurationError):
    """A checkpoint is of another task, or older than the session that loads it."""


class DataError(ConfigurationError):
    """A data set is missing or unreadable; the message says which files go where."""


class RunDirectoryError(ConfigurationError):
    """A run directory is missing, belongs to another recipe, or is damaged."""


class UnsupportedError(ConfigurationError):
    """A trainer, optimizer or model setting that is refused before work starts."""


class UnknownPluginError(ConfigurationError):
    """No suite or aggregator is registered under that name."""


class MissingExtraError(ConfigurationError, ImportError):
    """An optional package is not installed; the message names the pip extra."""


class EncodingError(HREError):
    """Numbers that cannot be carried exactly."""


class NonFiniteError(EncodingError):
    """An update holds NaN or infinity."""


class SlotOverflowError(EncodingError):
    """A value exceeds its bits, or a sum of values left its slot."""


class ChecksumError(EncodingError):
    """The decoded count, checksum or sum of weights is not what it must be."""


class CryptoError(HREError):
    """A cryptographic object is malformed or does not verify."""


class InvalidElementError(CryptoError):
    """A group element is out of range, trivial, or shares a factor with the modulus."""


class ProofError(CryptoError):
    """A zero-knowledge proof does not verify."""


class KeyFileError(CryptoError):
    """A key file is missing, exposed or damaged, or the passphrase is wrong."""


class DecryptionError(CryptoError):
    """A ciphertext does not open under this key; deliberately says no more."""


class ProtocolError(HREError):
    """A message or a step that the protocol does not allow."""


class MessageError(ProtocolError):
    """Bytes that are not a well-formed message of the expected kind."""


class SignatureError(ProtocolError):
    """A message does not carry a valid signature of the sender it names."""


class WrongTaskError(ProtocolError):
    """A message belongs to another task, suite, release or recipient."""


class EquivocationError(ProtocolError):
    """One identity used one sequence number for two different uploads."""


class UsedNumberError(EquivocationError):
    """A sequence number is used up: it lies before the newest one of its sender."""


class SpentUpdateError(ProtocolError):
    """An upload voids a number that a signed list has released already.

    Attributes:
        listed: version of that list.
    """

    listed: int = 0


class StaleUploadError(ProtocolError):
    """An upload is based on weights older than the staleness bound; pull first."""


class BackPressure(ProtocolError):
    """Too many unreleased uploads of one participant; keep accumulating locally."""


class ReleaseError(ProtocolError):
    """A release list breaks a rule: too few identities, a reused or unknown upload."""


class TransformError(ProtocolError):
    """A key transform failed; nothing was consumed, ask again."""


class SnapshotNeededError(TransformError):
    """The next release is no longer kept; go on from sealed released weights."""


class ReleaseRejectedError(ProtocolError):
    """A release decodes to a wrong count or checksum; every participant rejects it."""


class SpoiledReleaseError(ProtocolError):
    """A release does not open here; it is given up only if enough others say so too."""


class DisputedReleaseError(ProtocolError):
    """A release opened for others but not here: what was served here is wrong."""


class AggregatorError(HREError):
    """The backend that carries messages between the roles failed."""


class StoreError(AggregatorError):
    """A server's stored state is damaged, foreign, in use, or cannot be written."""


class BehindError(AggregatorError):
    """A server holds less than what was signed before; it acknowledges nothing."""


class HREWarning(UserWarning):
    """Base of every warning that hre_torch issues."""


class AloneWarning(HREWarning):
    """A participant trains on its own data only: nothing it pushes is released."""


class EquivocationWarning(HREWarning):
    """A server has contradicted itself; the session holds the evidence."""


class LostWorkerWarning(HREWarning):
    """A worker process was killed; its arithmetic goes on in one thread."""


class RoundingWarning(HREWarning):
    """Weights that a training starts from are too small for `fraction_bits`."""


class SaturationWarning(HREWarning):
    """Values of an update were larger than one push can carry, and were cut."""


class SpoiledReleaseWarning(HREWarning):
    """A release does not open: it waits for others, or all have given it up."""


class UnprotectedWarning(HREWarning):
    """Updates are not protected as a reader might expect (suites `plain`, `phong`)."""


class UnstableTrainingWarning(HREWarning):
    """A combination of settings that is known to diverge or to learn badly."""


class NonFiniteGradientWarning(HREWarning):
    """A step was skipped because a gradient or an update was NaN or infinite."""
