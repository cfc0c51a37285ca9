"""Named sets of options, so that one command makes a published table again."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["PRESETS", "RESULTS"]

RESULTS: Final = "benchmarks/results"
"""Folder, below the project's, where a preset writes unless it is told otherwise."""

# The MNIST network of Phong et al., and two rounder, larger sizes.
_SIZES: Final = "109386,1000000,10000000"
_COURSES: Final = "mnist_mlp,mnist_mlp:400,resnet20,resnet20:5"

PRESETS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        # What suite `hybrid` costs beside plaintext and beside other people's systems.
        "hybrid": {
            "suites": "hybrid,plain",
            "peers": "hybrid-words,tenseal,secagg,phong-lwe",
            "values": _SIZES,
            "max_values": "phong-lwe=1000000",
            "train": _COURSES,
            # Many, so that no moment of the machine decides about what is so short.
            "rounds": "15",
            "budget": "25",
        },
        # What the suites cost whose every value is encrypted under a joint key.
        "paper": {
            "suites": "paper,gated,phong,plain",
            "peers": "phe,tenseal,phong-lwe",
            "values": "109386",
            "budget": "25",
        },
        # What a large model costs: as many values as ResNet-18 has parameters.
        "large": {
            "suites": "hybrid,plain",
            "peers": "",
            "values": "109386,11173962",
        },
        # Both of them in one run.
        "full": {
            "suites": "hybrid,gated,paper,phong,plain",
            "peers": "hybrid-words,tenseal,secagg,phong-lwe,phe",
            "values": _SIZES,
            "max_values": (
                "gated=109386,paper=109386,phong=109386,phe=109386,phong-lwe=1000000"
            ),
            "train": _COURSES,
            "budget": "25",
        },
    }
)
"""Preset to option to what one would type for it; options given win over it."""
