"""The plan of the house, read from the source: who may import whom, names, types."""

import ast
from pathlib import Path

import pytest

import skfewshot

ROOT = Path(skfewshot.__file__).parent
#: Layers from the top down. A module imports from its own layer and those below.
LAYERS = (
    ("__init__", "__main__", "_demo", "cli"),
    ("inspection",),
    (
        *("model_selection", "metrics", "display", "datasets", "export"),
        *("distributed", "persistence"),
    ),
    ("multilabel",),
    ("cmm", "peers"),
    ("_base", "_left_out", "_support"),
    ("_text", "_names", "_spread"),
    ("_rows", "_labels", "_copies", "_unread", "_unlabelled", "_tags"),
    ("clip",),
    ("_epochs",),
    ("_torch", "_sklearn", "_docs", "_files"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
#: Longest function: a reader sees it on a page and a half.
MOST_LINES = 60


def name_of(path):
    """``skfewshot.peers._clap`` for its file; a folder is its ``__init__``."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in PATHS.items()}


def part_of(module):
    """The folder or file of the package's top that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def is_for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def nodes_of(tree):
    """All nodes but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not is_for_types(node):
            yield node
            yield from nodes_of(node)


def imports_of(module):
    """The modules of the package that one imports, inside of functions too."""
    found = set()
    public = vars(skfewshot)["_PUBLIC"]
    for node in nodes_of(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                # What is no module is a name in one, or one that leads there.
                is_lazy = node.module == "skfewshot" and alias.name in public
                found.add(
                    public[alias.name]
                    if is_lazy
                    else inner
                    if inner in TREES
                    else node.module
                )
    return {name for name in found if name in TREES} - {module}


IMPORTS = {module: imports_of(module) for module in TREES}


def test_every_module_has_a_layer():
    parts = {part_of(module) for module in TREES}
    assert parts - RANK.keys() == set(), "without a layer"
    assert RANK.keys() - parts == set(), "layers without a module"


def test_imports_go_down():
    # Of the package itself its version is all that is asked.
    wrong = [
        f"{module} imports {imported}"
        for module, found in IMPORTS.items()
        for imported in found
        if imported != "skfewshot"
        and RANK.get(part_of(imported), 99) < RANK.get(part_of(module), 99)
    ]
    assert wrong == []


def test_there_are_no_circles():
    assert circles({m: found - {"skfewshot"} for m, found in IMPORTS.items()}) == []
    parts = {}
    for module, found in IMPORTS.items():
        own = part_of(module)
        others = {part_of(m) for m in found if m != "skfewshot"} - {own}
        parts.setdefault(own, set()).update(others)
    assert circles(parts) == []


def circles(graph):
    """Return all nodes from which a way leads back to them."""

    def reached(start):
        seen, left = set(), [start]
        while left:
            for name in graph[left.pop()] - seen:
                seen.add(name)
                left.append(name)
        return seen

    return [name for name in graph if name in reached(name)]


def functions():
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}:{node.lineno} {node.name}", node


def test_every_function_is_annotated():
    bare = []
    for where, node in functions():
        a = node.args
        named = [*a.posonlyargs, *a.args, *a.kwonlyargs]
        named = [argument for argument in named if argument.arg not in ("self", "cls")]
        typed = all(argument.annotation for argument in named)
        if not typed or (node.returns is None and node.name != "__init__"):
            bare.append(where)
    assert bare == []


def test_no_function_is_long():
    long = []
    for where, node in functions():
        body = node.body[1:] if ast.get_docstring(node) else node.body
        length = node.body[0].lineno - node.lineno
        length += body[-1].end_lineno - body[0].lineno + 1 if body else 0
        if length > MOST_LINES:
            long.append(f"{where}, {length} lines")
    assert long == []


def test_private_modules_are_called_so():
    in_folders, without_all = [], []
    for path in PATHS.values():
        inner = path.relative_to(ROOT)
        if inner.name in ("__init__.py", "__main__.py"):
            continue
        if len(inner.parts) > 1:
            if not any(part.startswith("_") for part in inner.parts):
                in_folders.append(str(inner))
        elif not inner.name.startswith("_"):
            without_all.append(str(inner))
    tops = [ROOT / name for name in without_all]
    public = [p.name for p in tops if not _defines_all(TREES[name_of(p)])]
    assert (in_folders, public) == ([], [])


@pytest.mark.parametrize("folder", sorted({p.parent for p in PATHS.values()} - {ROOT}))
def test_public_folders_say_what_they_offer(folder):
    if not folder.name.startswith("_") and (folder / "__init__.py").exists():
        offers = _defines_all(TREES[name_of(folder / "__init__.py")])
        assert offers or folder.parent != ROOT


def _defines_all(tree):
    return any(
        isinstance(node, ast.Assign)
        and any(getattr(target, "id", None) == "__all__" for target in node.targets)
        for node in tree.body
    )
