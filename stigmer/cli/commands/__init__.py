"""The commands, a module for each group of them.

A function `<name>_command` is the command `<name>`; `stigmer.cli.root` lists them. Modules import click and this
package at the top, everything else inside the functions.
"""
