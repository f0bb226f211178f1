"""One call of the command line: its settings, and where each came from.

Owns the meaning of the global options' values and the messages to stderr. A setting is looked up when a command asks
for it, so that a command that needs no daemon does not fail on a bad address. Knows no store and no daemon.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stigmer.errors import InvalidArgument

if TYPE_CHECKING:
    from stigmer.config import Setting, Tls


_WHERE = ("addr", "data-dir", "token-file", "tls-ca", "tls-cert", "tls-key")
"""The options that say which daemon is meant, and how to get to it."""


class Invocation:
    """The settings of one call, by the precedence option, environment, file, default."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.environ = os.environ if environ is None else environ
        self.given: dict[str, Any] = {}
        """What the command line said, by the option's name."""

    def setting(self, name: str) -> Setting:
        """Give an option's value and its origin."""
        from stigmer import config

        option = next(option for option in config.OPTIONS if option.name == name)
        path = config.config_file_path(self.environ)
        # The file is read only where it can decide: parsing YAML costs more than the rest of a short command.
        decided = name in self.given or bool(self.environ.get(option.variable)) or option.file_key is None
        file = {} if decided else self._file
        return config.resolve(option, self.given.get(name), self.environ, file, path)

    def settings(self) -> list[Setting]:
        """Give every option's value and origin."""
        from stigmer import config

        return [self.setting(option.name) for option in config.OPTIONS]

    @cached_property
    def _file(self) -> Mapping[str, Any]:
        from stigmer import config

        path = config.config_file_path(self.environ)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise InvalidArgument(str(path), f"cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise InvalidArgument(str(path), f"cannot be read: {error}") from error
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        try:
            content = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
            where = f"line {mark.line + 1}: " if mark is not None else ""
            problem = error.problem if isinstance(error, MarkedYAMLError) else str(error).splitlines()[0]
            raise InvalidArgument(str(path), f"{where}not YAML: {problem}") from error
        except RecursionError as error:
            raise InvalidArgument(str(path), "has too many lists and maps inside each other") from error
        except (ValueError, OverflowError) as error:  # such as a date that there is none of
            raise InvalidArgument(str(path), f"has a value that cannot be read: {error}") from error
        return content if isinstance(content, Mapping) else {}

    def _named(self, setting: Setting) -> str:
        """Name a setting's origin in an error."""
        return f"--{setting.option.name}" if setting.origin == "option" else setting.origin

    def _choice(self, name: str, choices: tuple[str, ...]) -> str:
        setting = self.setting(name)
        if setting.value not in choices:
            listed = ", ".join(choices[:-1]) + " or " + choices[-1]
            raise InvalidArgument(self._named(setting), f'"{setting.value}" is not one of {listed}')
        return setting.value

    def _flag(self, name: str) -> bool:
        if self.given.get(name):
            return True
        variable = "STIGMER_" + name.upper().replace("-", "_")
        value = self.environ.get(variable, "").lower()
        if value in ("1", "true", "yes", "on"):
            return True
        if value in ("", "0", "false", "no", "off"):
            return False
        raise InvalidArgument(variable, f'"{value}" is neither true nor false')

    @cached_property
    def quiet(self) -> bool:
        """Print data and errors only."""
        return self._flag("quiet")

    @cached_property
    def verbose(self) -> bool:
        """Say more, and show tracebacks."""
        return self._flag("verbose")

    @cached_property
    def show_secrets(self) -> bool:
        """Print the values of secrets."""
        return self._flag("show-secrets")

    @cached_property
    def color(self) -> str:
        """When to colour: "auto", "always" or "never"."""
        return self._choice("color", ("auto", "always", "never"))

    def check_printing(self) -> None:
        """Raise `InvalidArgument` where a setting that says how to print has no meaning."""
        _ = self.output, self.color, self.quiet, self.verbose, self.show_secrets

    @cached_property
    def timeout_seconds(self) -> float:
        """How long to wait for the daemon."""
        from stigmer.cli.units import parse_duration

        setting = self.setting("timeout")
        return parse_duration(setting.value, self._named(setting))

    @cached_property
    def output(self) -> str:
        """How to print: see `options.OUTPUTS`."""
        from stigmer.cli.options import OUTPUTS

        return self._choice("output", OUTPUTS)

    @property
    def output_was_chosen(self) -> bool:
        """Say whether somebody chose the format, so that a command may have a better one than the default."""
        return self.setting("output").origin != "default"

    @cached_property
    def addr(self) -> str:
        """The daemon's address, HOST:PORT or unix:PATH."""
        from stigmer.wire import parse_address

        setting = self.setting("addr")
        return str(parse_address(setting.value, self._named(setting)))

    @property
    def addr_was_chosen(self) -> bool:
        """Say whether this call (not the configuration file) names the daemon's address."""
        return self.setting("addr").origin in ("option", "STIGMER_ADDR")

    @cached_property
    def data_dir(self) -> str:
        """The data directory, `~` expanded."""
        return self._path(self.setting("data-dir"), "a directory")

    def _path(self, setting: Setting, takes: str) -> str:
        if not setting.value:
            # As in --data-dir "$UNSET": a store in whatever folder this happens to be is not what was meant.
            raise InvalidArgument(self._named(setting), f"is empty; it takes {takes}")
        try:
            return os.path.abspath(os.path.expanduser(setting.value))
        except FileNotFoundError as error:
            raise InvalidArgument(self._named(setting), "is relative to a folder that is gone") from error

    @property
    def data_dir_was_chosen(self) -> bool:
        """Say whether this call (not the configuration file) names the data directory."""
        return self.setting("data-dir").origin in ("option", "STIGMER_DATA_DIR")

    @property
    def data_dir_shown(self) -> str:
        """The data directory as a person would write it."""
        from stigmer.cli.units import home_shortened

        return home_shortened(self.data_dir)

    @cached_property
    def key_file(self) -> str | None:
        """The file with the key of the secrets, `~` expanded; None for the one in the data directory."""
        return self._file_of("key-file")

    @cached_property
    def token_file(self) -> str | None:
        """The file with the daemon's token, `~` expanded; None for the one in the data directory."""
        return self._file_of("token-file")

    @property
    def tls_pair(self) -> tuple[str | None, str | None]:
        """The files of the certificate to show and of its key; None where there are none."""
        return self._file_of("tls-cert"), self._file_of("tls-key")

    @cached_property
    def tls(self) -> Tls | None:
        """What a client's TLS is; None: without."""
        from stigmer.config import Tls

        ca = self._file_of("tls-ca")
        return Tls(ca, *self.tls_pair) if ca is not None else None

    def _file_of(self, name: str) -> str | None:
        setting = self.setting(name)
        return None if setting.origin == "default" else self._path(setting, "a file")

    def command(self, *words: str) -> str:
        """Write a command that means the same daemon as this one, to be typed as it is."""
        import shlex

        where = [(f"--{name}", self.given[name]) for name in _WHERE if name in self.given]
        return shlex.join(["stigmer", *words, *(word for pair in where for word in pair)])

    def say(self, text: str) -> None:
        """Write a remark to stderr, unless told to be quiet. Where nobody can read it, that is no reason to fail."""
        if not self.quiet:
            _remark(text)

    def say_more(self, text: str) -> None:
        """Write a remark to stderr if asked to say more."""
        if self.verbose:
            _remark(text)


def _remark(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # Its reader has gone, or the disk under it is full. What is buffered would fail again, at the end.
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)
