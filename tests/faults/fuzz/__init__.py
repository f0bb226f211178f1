"""Fuzzing of everything that reads bytes which others wrote: frames, commits, messages, manifests, archives, tokens.

A target is a module with these names:

- `one(data)` gives bytes to what is fuzzed, lets the documented errors pass, and asserts what must hold of the rest.
  It is a function of its bytes: what one call leaves behind makes no difference to the next.
- `seeds()` gives inputs to begin with, the same ones each time.
- `TOKENS` are the words of the format, for mutations to put in.
- `READERS` are the packages whose coverage guides the fuzzer.

`python -m faults.fuzz` runs targets under atheris; `test_fuzz.py` runs each for a moment without it, and replays the
inputs in tests/data/fuzz, each of which was a fault once.
"""
