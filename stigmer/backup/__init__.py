"""Backups: directories with the segments, artifacts and keys of a store, and a manifest that says what counts.

Owns the form of a backup (docs/OPERATIONS.md, "Backup"): making one, checking one, restoring from one. Knows segments
and frames, and nothing of what payloads mean. Where a store is backed up from is the caller's matter: it brings a
`BackupPoint`, and sees to it that no artifact is removed meanwhile.
"""
