"""Prints how the code hangs together (rooms, floors, circles), from its import statements alone.

    python scripts/structure.py [--verbose]

module   A Python file in squeezenext/ or datasets/. Faces (an `__init__` or `__main__` that defines
         nothing) and the files in configs/ are counted apart; predict.py, scripts, tests are not.
room     A folder in squeezenext/, a module in squeezenext/ itself, datasets/, configs/.
arrow    Leads from a room to a room that it imports, also where a function does so. What a face
         hands out, as in `from squeezenext.train import train`, is imported from its own module.
back up  An arrow that closes a circle of rooms. Where a circle needs late imports, only they count.
floor    1 for a room that imports no other; else 1 above the highest room that it imports. Arrows
         that run back up do not count.
late     An import statement inside a function or below `if TYPE_CHECKING`. It brings the
         third-party packages that are loaded by it and not by its module itself.
"""

import argparse
import ast
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

FOLDERS = ("squeezenext", "datasets", "configs")
SMALL = 100  # lines; a smaller module should have two users
Graph = dict[str, set[str]]


class Import(NamedTuple):
    """One name of an import statement; `attribute` is empty for `import source`."""

    source: str
    attribute: str
    line: int
    late: bool


class Module(NamedTuple):
    """A Python file: its imports, and the public functions and classes that it defines."""

    stem: str
    lines: int
    imports: list[Import]
    public: set[str]

    @property
    def is_face(self) -> bool:
        """Whether the file only hands out or starts what other modules define."""
        return self.stem in ("__init__", "__main__") and not self.public


class Late(NamedTuple):
    """A late import statement, what it imports, and the third-party packages that it brings."""

    module: str
    line: int
    targets: set[str]
    brings: set[str]


def room(name: str) -> str:
    """Returns the room of a module. The face of all of squeezenext/ is no room's: ""."""
    first, *rest = name.split(".")
    return first if first != "squeezenext" else "".join(rest[:1])


def reached(graph: Graph, start: str) -> set[str]:
    """Returns all that can be reached from `start`; `start` itself only through a circle."""
    found, ahead = set(), [start]
    while ahead:
        new = graph.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def circles(graph: Graph) -> set[frozenset[str]]:
    """Returns the groups whose members all reach one another."""
    reach = {name: reached(graph, name) for name in graph}
    inside = [name for name in graph if name in reach[name]]
    return {
        frozenset(o for o in inside if o in reach[name] and name in reach[o]) for name in inside
    }


class House:
    """The modules below a repository's folders, by dotted name, and what their imports tell."""

    def __init__(self, root: Path):
        """Reads the Python files of the repository `root`."""
        paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
        self.modules = dict(_module(path, path.relative_to(root)) for path in paths)

    def target(self, source: str, attribute: str = "") -> str:
        """Returns the module that an import means; for others' code its outermost package."""
        if f"{source}.{attribute}" in self.modules:
            return f"{source}.{attribute}"
        if source not in self.modules:
            return source.partition(".")[0]
        if attribute and self.modules[source].stem == "__init__":
            for given in self.modules[source].imports:
                if given.attribute == attribute:
                    return self.target(given.source, attribute)
        return source

    def targets(self, name: str, late: bool = True) -> set[str]:
        """Returns what a module imports; `late=False`: what it needs to be imported itself."""
        imports = self.modules[name].imports
        return {self.target(one.source, one.attribute) for one in imports if late or not one.late}

    def graph(self, late: bool = True, unit: Callable[[str], str] = str) -> Graph:
        """Returns which of our modules each module imports; with `unit=room` the same of rooms."""
        graph = {unit(name): set() for name in self.modules}
        for name in self.modules:
            ours = self.targets(name, late) & self.modules.keys()
            graph[unit(name)] |= {unit(other) for other in ours} - {unit(name), ""}
        return {name: others for name, others in graph.items() if name}

    def back_up(self) -> set[tuple[str, str]]:
        """Returns the arrows that close a circle of rooms."""
        always, all_arrows = self.graph(late=False, unit=room), self.graph(unit=room)
        return {
            (name, other)
            for name, others in all_arrows.items()
            for other in others
            if name in reached(always if other in always[name] else all_arrows, other)
        }

    def floors(self) -> dict[str, int]:
        """Returns the floor of each room."""
        up = self.back_up()
        below = {
            name: {other for other in others if (name, other) not in up}
            for name, others in self.graph(unit=room).items()
        }
        floors: dict[str, int] = {}
        while len(floors) < len(below):
            ready = [name for name in below if name not in floors and below[name] <= floors.keys()]
            floors |= {
                name: 1 + max((floors[other] for other in below[name]), default=0) for name in ready
            }
        return floors

    @cached_property
    def _loads(self) -> Graph:
        """Modules that each module loads, ours and others': its imports and its package."""
        return {
            name: self.targets(name, late=False) | ({name.rpartition(".")[0]} - {""})
            for name in self.modules
        }

    def loaded(self, *names: str) -> set[str]:
        """Returns the modules, ours and others', that Python loads when it imports `names`."""
        return set(names).union(*(reached(self._loads, name) for name in names))

    def late(self) -> Iterator[Late]:
        """Yields the late import statements."""
        others = sys.stdlib_module_names | self.modules.keys()
        for name, module in self.modules.items():
            statements = defaultdict(set)
            for one in module.imports:
                if one.late:
                    statements[one.line].add(self.target(one.source, one.attribute))
            for line, targets in statements.items():
                yield Late(name, line, targets, self.loaded(*targets) - self.loaded(name) - others)

    def fragments(self) -> list[tuple[str, str]]:
        """Returns the small modules that only one other module imports, each with that one."""
        users = defaultdict(list)
        for name, others in self.graph().items():
            for other in others if not self.modules[name].is_face else ():
                users[other].append(name)
        small = {n for n, m in self.modules.items() if m.lines < SMALL and not m.is_face}
        return [(name, users[name][0]) for name in sorted(small) if len(users[name]) == 1]

    def collisions(self) -> dict[str, list[str]]:
        """Returns the public functions and classes that modules of several rooms define."""
        homes = defaultdict(list)
        for name, module in self.modules.items():
            for public in module.public:
                homes[public].append(name)
        return {name: homes[name] for name in sorted(homes) if len({*map(room, homes[name])}) > 1}


def _module(path: Path, place: Path) -> tuple[str, Module]:
    name = ".".join(part for part in place.with_suffix("").parts if part != "__init__")
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    public = {node.name for node in tree.body if not getattr(node, "name", "_").startswith("_")}
    imports = list(_imports(tree, ".".join(place.parent.parts)))
    return name, Module(path.stem, text.count("\n"), imports, public)


def _imports(node: ast.AST, package: str, late: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, "", child.lineno, late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            source = "." * child.level + (child.module or "")
            source = importlib.util.resolve_name(source, package)
            yield from (Import(source, alias.name, child.lineno, late) for alias in child.names)
        else:
            typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _imports(child, package, late or typing or function)


def figures(house: House) -> dict[str, int | list[str]]:
    """Returns the table: numbers, and lists whose lengths are the figures."""
    rooms, modules, floors = house.graph(unit=room), house.modules, house.floors()
    configurations = [n for n, m in modules.items() if room(n) == "configs" and not m.is_face]
    faces = [name for name, module in modules.items() if module.is_face]
    return {
        "rooms": [
            f"{floors[name]} {name}" for name in sorted(rooms, key=lambda name: floors[name])
        ],
        "floors": max(floors.values()),
        "modules": len(modules) - len(configurations) - len(faces),
        "faces": len(faces),
        "configurations": len(configurations),
        "lines": sum(module.lines for module in modules.values()),
        "arrows": [f"{name} -> {other}" for name in rooms for other in sorted(rooms[name])],
        "back up": [" -> ".join(arrow) for arrow in sorted(house.back_up())],
        "circles of modules": [" ".join(sorted(group)) for group in circles(house.graph())],
        "late imports": [
            f"{late.module}:{late.line} {' '.join(sorted(late.targets))}"
            f" (brings {' '.join(sorted(late.brings)) or 'nothing'})"
            for late in house.late()
        ],
        f"under {SMALL} lines, one user": [f"{name} <- {u}" for name, u in house.fragments()],
        "names in several rooms": [f"{n}: {' '.join(w)}" for n, w in house.collisions().items()],
    }


def main() -> None:
    """Prints the table; with --verbose what each figure counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--verbose", action="store_true", help="List what is counted.")
    verbose = parser.parse_args().verbose
    for name, value in figures(House(Path(__file__).parent.parent)).items():
        print(f"{name:<28}{value if isinstance(value, int) else len(value):>7,}")
        if verbose and not isinstance(value, int):
            print(*(f"    {line}" for line in value), sep="\n")


if __name__ == "__main__":
    main()
