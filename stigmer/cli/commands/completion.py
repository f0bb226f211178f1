"""`completion`: scripts that complete commands in a shell."""

from __future__ import annotations

import click

from stigmer.cli.options import Command

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    """Print a script that completes commands in a shell.

    It completes commands, options and kinds, and resources where the daemon answers.

    \b
    bash    eval "$(stigmer completion bash)"                     in ~/.bashrc
    zsh     eval "$(stigmer completion zsh)"                      in ~/.zshrc
    fish    stigmer completion fish > ~/.config/fish/completions/stigmer.fish
    """
    from click.shell_completion import get_completion_class

    from stigmer.cli.root import root
    from stigmer.cli.run import COMPLETE_VARIABLE

    completer = get_completion_class(shell)
    assert completer is not None, shell  # the choices are those that click has
    # The template, not `source()`: that one runs a shell to look at its version, and this may be another machine's.
    made = completer(root, {}, "stigmer", COMPLETE_VARIABLE)
    print(made.source_template % made.source_vars())
