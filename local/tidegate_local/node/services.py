"""What every pod of the node shares."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate_local.node.cgroups import Cgroups
from tidegate_local.node.container_config import NodeFacts
from tidegate_local.node.events import Recorder
from tidegate_local.node.images import Images
from tidegate_local.node.volumes import Folders
from tidegate_local.podapi.store import Store


@dataclass(frozen=True, slots=True)
class NodeServices:
    store: Store
    recorder: Recorder
    images: Images
    cgroups: Cgroups
    folders: Folders
    facts: NodeFacts
