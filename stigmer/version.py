"""The version of this package, as `stigmer version` and the daemon's status give it."""

VERSION = "0.1.0"
