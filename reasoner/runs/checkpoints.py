"""The checkpoints of a run: folders that are whole and unharmed, or not used.

    checkpoints/step-000020/
        manifest.json       size and SHA-256 of every other file
        state.json          what the parts of the run keep beside weights: by rank, by part
        scores-0.parquet    scores that are known already, of every rank
        partial-0.parquet   groups that are begun and not complete, of every rank
        model/              the policy in Hugging Face format, in the numbers that are trained; with [lora] its
                            adapter alone (adapter-00001.safetensors)
        optimizer.json, optimizer-00001.safetensors
        critic/             the same of the critic

A checkpoint appears in one operation, when everything in it is on the disk, and goes in one. It refers to a step that
was committed before it was begun. Nothing in it is a pickle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reasoner.errors import DataError
from reasoner.io.atomic_files import remove_folder, replacing_folder
from reasoner.io.bounded_files import LARGE_BYTES, check_entries, read_bytes
from reasoner.io.serialization import from_json, to_json
from reasoner.models.run_models import CHECKPOINTS, checkpoint_folder, checkpoint_steps
from reasoner.runs.checksums import sha256_of_all

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a checkpoint."""

    name: str
    """relative to the checkpoint"""
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint must hold."""

    step: int
    """committed steps behind it"""
    files: tuple[File, ...]


class Checkpoints:
    """The checkpoints below a run folder."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / CHECKPOINTS
        self._run_folder = run_folder

    def steps(self) -> list[int]:
        """The steps that have one, in order; none of them was verified."""
        return checkpoint_steps(self._run_folder)

    def at(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return checkpoint_folder(self._run_folder, step)

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """Yield a folder to write in; it becomes the step's checkpoint when everything is on the disk."""
        with replacing_folder(self.at(step)) as folder:
            yield folder
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            files = [
                File(path.relative_to(folder).as_posix(), path.stat().st_size, sha256)
                for path, sha256 in zip(paths, sha256_of_all(paths), strict=True)
            ]
            (folder / MANIFEST).write_text(to_json(Manifest(step, tuple(files))) + "\n", encoding="utf-8")

    def verify(self, step: int, below: str = "") -> None:
        """Read every file of a checkpoint and compare it with the manifest.

        Args:
            below: a folder of the checkpoint whose files alone are read.

        Raises:
            DataError: something is missing or is not what was written; the message names the file.
        """
        folder = self.at(step)
        try:
            check_entries(folder)
            manifest = from_json(read_bytes(folder / MANIFEST, LARGE_BYTES), Manifest)
            if manifest.step != step:
                raise DataError(f"{MANIFEST} is of step {manifest.step}")
            for file in manifest.files:
                if Path(file.name).is_absolute() or ".." in Path(file.name).parts:
                    raise DataError(f"{file.name} is not in the checkpoint")
            files = [file for file in manifest.files if Path(file.name).is_relative_to(below)]
            for file in files:
                if (size := (folder / file.name).stat().st_size) != file.bytes:
                    raise DataError(f"{file.name} has {size} bytes, {file.bytes} were written")
            sums = sha256_of_all(folder / file.name for file in files)
            for file, sha256 in zip(files, sums, strict=True):
                if sha256 != file.sha256:
                    raise DataError(f"{file.name} is not what was written: its checksum differs")
        except OSError as error:
            name = Path(error.filename or folder).relative_to(folder)
            raise DataError(f"{name} cannot be read: {error.strerror}") from error
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"a name in {MANIFEST} cannot be one of a file: {error}") from error

    def keep(self, steps: Collection[int]) -> None:
        """Remove the checkpoints of all other steps."""
        for step in self.steps():
            if step not in steps:
                remove_folder(self.at(step))
