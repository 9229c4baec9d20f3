"""Unpacks wheels, each into a folder of its own, and compiles them; runs in the cell, no code of theirs does.

usage: unwheel.py WHEELS FOLDERS UNPACKED_BYTES_MAX

What a wheel wants outside of the import path (scripts, headers, data) is left out: a function imports, it
does not install. Compiled files are checked against nothing at import (`unchecked-hash`): a layer never
changes, and the times of its files mean nothing.
"""

import compileall
import hashlib
import json
import os
import py_compile
import sys
import zipfile


def main(wheels, folders, bytes_max):
    made = {}
    left = int(bytes_max)
    for name in sorted(os.listdir(wheels)):
        path = os.path.join(wheels, name)
        with open(path, "rb") as wheel:
            digest = hashlib.file_digest(wheel, "sha256").hexdigest()
        folder = os.path.join(folders, digest)
        os.makedirs(folder)
        with zipfile.ZipFile(path) as archive:
            left -= sum(member.file_size for member in archive.infolist())
            if left < 0:
                sys.exit(f"the packages unpack to more than {bytes_max} bytes")
            unpack(archive, folder)
        compileall.compile_dir(
            folder,
            quiet=2,
            stripdir=folder,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        made[digest] = name
    with open(os.path.join(folders, "made.json"), "w") as out:
        json.dump(made, out)


def unpack(archive, folder):
    for member in archive.infolist():
        parts = member.filename.split("/")
        if parts[0].endswith(".data"):
            if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
                continue
            member.filename = "/".join(parts[2:])
        if member.is_dir() or not member.filename:
            continue
        # zipfile makes plain files of links, and lets no path lead out of the folder.
        archive.extract(member, folder)


main(*sys.argv[1:])
