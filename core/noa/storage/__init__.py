"""Where runs are kept: the journal, artifacts and observations. The only code of noa that speaks SQL."""

from noa.storage.artifacts import FileArtifactStore
from noa.storage.observations import ObservationRecord, ObservationStore
from noa.storage.ownership import is_dead, new_owner
from noa.storage.sqlite import SqliteJournal

__all__ = ["FileArtifactStore", "ObservationRecord", "ObservationStore", "SqliteJournal", "is_dead", "new_owner"]
