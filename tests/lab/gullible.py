"""A planted fault: ghostcast whose receiver writes zeros where a chunk is damaged, and says that all is well."""

from __future__ import annotations

import sys

from ghostcast.cli.main import main
from protocol.errors import ImageError
from receivers.chunks import ChunkWriter, ObjectMemory

_check_and_write = ChunkWriter.check_and_write


def believe(writer: ChunkWriter, memory: ObjectMemory, chunk: int) -> bool:
    try:
        if _check_and_write(writer, memory, chunk):
            return True
    except ImageError:
        pass
    start, stop = writer._manifest.raw_range(chunk)
    writer._target.write(start, memoryview(bytes(stop - start)), chunk)
    return True


if __name__ == "__main__":
    ChunkWriter.check_and_write = believe  # type: ignore[method-assign]
    sys.argv[0] = "ghostcast"
    main()
