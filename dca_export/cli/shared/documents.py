"""Documents as a command is given them: each with a name of its own, in the order that shares most."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dca_export.documents.read import texts_of

if TYPE_CHECKING:
    from dca_runtime import Document
    from dca_runtime.prompt_store import Prompts

Group = list["Document"]  # the files of one --doc, which stay together
MOST_ORDERED = 8  # groups: for more the orders that would have to be tokenized are too many


def documents_at(paths: Sequence[str]) -> list[Group]:
    """What is at each path. A file is called by its own name, or as it was given where two have that name.

    Raises InputError and OSError.
    """
    from dca_runtime import Document

    groups = [[Document(text.name, text.text) for text in texts_of(path)] for path in paths]
    names = Counter(document.name for group in groups for document in group)
    for path, group in zip(paths, groups, strict=True):
        if len(group) == 1 and names[group[0].name] > 1:
            group[0] = dataclasses.replace(group[0], name=path)
    return groups


def ordered(
    groups: Sequence[Group], ids: Callable[[Sequence["Document"]], list[int]], prompts: "Prompts"
) -> list[Group]:
    """The groups in an order whose prompt begins with the most tokens that are stored; ties as given.

    ids: the prompt about documents, so far as it goes before the question.
    """
    left, chosen = list(groups), list[Group]()
    if not 1 < len(left) <= MOST_ORDERED:
        return left
    whole = [document for group in left for document in group]
    everything = ids(whole)
    if prompts.find(everything) >= len(everything) - _TAIL:
        return left
    known = 0
    while len(left) > 1:
        begun = [document for group in chosen for document in group]
        found = [prompts.find(ids([*begun, *group])) for group in left]
        best = max(range(len(left)), key=found.__getitem__)
        if found[best] <= known:
            break
        known = found[best]
        chosen.append(left.pop(best))
    return [*chosen, *left]


_TAIL = 256  # tokens at a prompt's end that need not be stored: less than two pages
