"""What a module of ours touches on TensorRT's objects, read from its syntax tree and held against one version's surface.

The walker follows types: names declared in a table ("`network` is an INetworkDefinition"), what calls and properties
return according to the surface, plain assignments, loops. It decides `hasattr(object, "name")` for that version and
walks only the branch which that version would take, so a name that some version lacks passes only behind such a test.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MODULE = "module"
SCALARS = {"int", "float", "bool", "str", "None", "object", "SupportsInt", "SupportsFloat"}
RENAMED = {"IParserError": "ParserError"}


@dataclass(frozen=True)
class Touch:
    """One use: `owner` is a class, or "module"; `keywords` are those passed where it is called."""

    line: int
    owner: str
    name: str
    keywords: tuple[str, ...] = ()


@dataclass
class Findings:
    touches: set[Touch] = field(default_factory=set)
    faults: set[str] = field(default_factory=set)


class Surface:
    """The JSON that lists one version's classes, enums, methods with signatures, and properties."""

    def __init__(self, data: Mapping) -> None:
        self.version = data["version"]
        self._data = data

    def cls(self, name: str) -> Mapping | None:
        found = self._data["classes"].get(name.split(".", maxsplit=1)[0])
        for part in name.split(".")[1:]:
            found = (found or {}).get("nested", {}).get(part)
        return found

    def member(self, owner: str, name: str) -> str | None:
        """The kind of `owner.name` ("class:X", "method:X.y", "inst:X", "value"), or None when there is no such thing."""
        if owner == MODULE:
            if name in self._data["classes"]:
                return f"class:{name}"
            if name in self._data["functions"]:
                return f"function:{name}"
            return "value" if name in {*self._data["values"], "__version__", "__file__"} else None
        described = self.cls(owner)
        if described is None:
            return None
        if name in described.get("enum", {}):
            return f"inst:{owner}"
        if name in described.get("nested", {}):
            return f"class:{owner}.{name}"
        if name in described.get("methods", {}):
            return f"method:{owner}.{name}"
        if name in described.get("properties", {}):
            return self.typed(described["properties"][name].partition(": ")[2])
        for base in described.get("bases", []):
            if found := self.member(base, name):
                return found
        return "value" if name in {"name", "value"} and "enum" in described else None

    def signatures(self, kind: str) -> list[tuple[list[str], str]]:
        """Parameter names (without self) and return type of each overload; empty when the surface does not say."""
        sort, _, path = kind.partition(":")
        if sort == "class":
            texts = (self.cls(path) or {}).get("methods", {}).get("__init__", [])
        elif sort == "function":
            texts = self._data["functions"][path]
        else:
            owner, _, name = path.rpartition(".")
            texts = self.cls(owner)["methods"][name]
        return [parsed(text) for text in texts if "(" in text]

    def typed(self, text: str) -> str:
        """From a printed type to one of ours; what is no TensorRT class is a "value"."""
        text = text.strip()
        if listed := re.match(r"(?:List|list|Tuple|tuple)\[(.+)\]$", text):
            return f"list:{self.typed(listed[1])}"
        text = text.removesuffix(" | None")
        if optional := re.match(r"Optional\[(.+)\]$", text):
            text = optional[1]
        name = text.rpartition("::")[2]
        name = RENAMED.get(name, name)
        return f"inst:{name}" if name not in SCALARS and self.cls(name) is not None else "value"


def parsed(text: str) -> tuple[list[str], str]:
    start = text.index("(") + 1
    depth, end = 1, start
    while depth:
        depth += {"(": 1, "[": 1, "<": 1, ")": -1, "]": -1, ">": -1}.get(text[end], 0)
        end += 1
    inside, pieces, level = text[start:end - 1], [""], 0
    for char in inside:
        level += {"(": 1, "[": 1, "<": 1, ")": -1, "]": -1, ">": -1}.get(char, 0)
        if char == "," and not level:
            pieces.append("")
        else:
            pieces[-1] += char
    names = [piece.split(":")[0].split("=")[0].strip() for piece in pieces if piece.strip()]
    return [name for name in names if name != "self"], text[end:].partition("->")[2].strip()


class Walker:
    """Walks one module for one version.

    Args:
        surface: The version.
        table: Expressions, as written in the source, and what they are: "module" or the name of a class.
    """

    def __init__(self, surface: Surface, table: Mapping[str, str]) -> None:
        self.surface = surface
        self.declared = {what: MODULE if kind == MODULE else f"inst:{kind}" for what, kind in table.items()}
        self.known: dict[str, str] = {}
        self.found = Findings()

    def walk(self, source: str) -> Findings:
        tree = ast.parse(source)
        for _ in range(2):  # attributes of self are set in one method and used in another
            self.found = Findings()
            self._block(tree.body)
        return self.found

    # -- statements ---------------------------------------------------------------------------------------------
    def _block(self, body: Iterable[ast.stmt]) -> bool:
        """Walk until something leaves the block; tell whether it does."""
        return any(self._statement(stmt) for stmt in body)  # stops at the first that leaves

    def _statement(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.If):
            return self._if(node)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            kind = self._value(node.value) if node.value else None
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._store(target, kind)
            return False
        if isinstance(node, ast.For):
            self._store(node.target, element(self._value(node.iter)))
            self._block(node.body)
            self._block(node.orelse)
            return False
        if isinstance(node, ast.ClassDef):
            self._class(node)
            return False
        if isinstance(node, ast.With):
            for item in node.items:
                kind = self._value(item.context_expr)
                if item.optional_vars is not None:
                    self._store(item.optional_vars, kind)
            return self._block(node.body)
        if isinstance(node, ast.Try):
            left = self._block(node.body)
            for handler in node.handlers:
                if handler.type is not None:
                    self._value(handler.type)
                self._block(handler.body)
            self._block(node.orelse)
            return self._block(node.finalbody) or (left and not node.handlers)
        if isinstance(node, ast.While):
            self._value(node.test)
            self._block(node.body)
            return False
        if isinstance(node, ast.FunctionDef):
            for name in [*node.args.args, *node.args.kwonlyargs]:
                self.known.pop(name.arg, None)
            self._block(node.body)
            return False
        for child in ast.iter_child_nodes(node):
            self._value(child)
        return isinstance(node, ast.Return | ast.Raise | ast.Continue | ast.Break)

    def _if(self, node: ast.If) -> bool:
        truth = self._truth(node.test)
        left = [self._block(body) for body, wanted in ((node.body, True), (node.orelse, False)) if truth in {None, wanted}]
        return all(left)

    def _class(self, node: ast.ClassDef) -> None:
        bases = [kind.partition(":")[2] for base in node.bases
                 if (kind := self._value(base) or "").startswith("class:")]
        for stmt in node.body:
            if isinstance(stmt, ast.FunctionDef) and bases and not stmt.name.startswith("_"):
                self.found.touches.add(Touch(stmt.lineno, bases[0], stmt.name))
                names = [arg.arg for arg in stmt.args.args[1:]]
                kind = self.surface.member(bases[0], stmt.name)
                if kind is None:
                    self._fault(stmt, f"{bases[0]} has no method {stmt.name!r} to override")
                elif not any(len(given) == len(names) for given, _ in self.surface.signatures(kind)):
                    self._fault(stmt, f"{bases[0]}.{stmt.name} is called with other arguments than {names}")
        self._block(node.body)

    def _store(self, target: ast.expr, kind: str | None) -> None:
        if isinstance(target, ast.Tuple):
            return
        if isinstance(target, ast.Attribute):
            self._value(target)  # setting a property is a touch, too
        name = ast.unparse(target)
        if kind is None:
            self.known.pop(name, None)
        else:
            self.known[name] = kind

    # -- expressions --------------------------------------------------------------------------------------------
    def _value(self, node: ast.AST | None) -> str | None:
        """Walk an expression; return its type where it is known."""
        if node is None:
            return None
        if isinstance(node, ast.Name | ast.Attribute):
            written = ast.unparse(node)
            if written in self.declared:
                return self.declared[written]
            if isinstance(node, ast.Name):
                return self.known.get(written)
            found = self._attribute(node, self._value(node.value), node.attr)
            return self.known.get(written) if found is None else found
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.IfExp):
            truth = self._truth(node.test)
            kinds = [self._value(part) for part, wanted in ((node.body, True), (node.orelse, False)) if truth in {None, wanted}]
            return kinds[0] if len(set(kinds)) == 1 else None
        if isinstance(node, ast.BoolOp):
            self._truth(node)
            return None
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
            for part in node.generators:
                self._store(part.target, element(self._value(part.iter)))
                for test in part.ifs:
                    self._value(test)
            if isinstance(node, ast.DictComp):
                self._value(node.key)
                self._value(node.value)
                return None
            kind = self._value(node.elt)
            return f"list:{kind}" if kind else None
        if isinstance(node, ast.Subscript):
            self._value(node.slice)
            return element(self._value(node.value))
        for child in ast.iter_child_nodes(node):
            self._value(child)
        return None

    def _attribute(self, node: ast.AST, base: str | None, name: str, keywords: tuple[str, ...] = ()) -> str | None:
        owner = owner_of(base)
        if owner is None:
            return None
        self.found.touches.add(Touch(node.lineno, owner, name, keywords))
        kind = self.surface.member(owner, name)
        if kind is None:
            self._fault(node, f"{owner} has no {name!r}")
        return kind or "value"

    def _call(self, node: ast.Call) -> str | None:
        plain = isinstance(node.func, ast.Name) and node.func.id
        if plain in {"hasattr", "getattr"} and len(node.args) >= 2 and isinstance(node.args[1], ast.Constant):
            base, name = self._value(node.args[0]), node.args[1].value
            if plain == "getattr" and len(node.args) == 2:
                return self._attribute(node, base, name)
            owner = owner_of(base)
            return self.surface.member(owner, name) if owner and plain == "getattr" else "value"
        keywords = tuple(word.arg for word in node.keywords if word.arg)
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func) not in self.declared:
            kind = self._attribute(node.func, self._value(node.func.value), node.func.attr, keywords)
        else:
            kind = self._value(node.func)
        given = [self._value(part) for part in [*node.args, *(word.value for word in node.keywords)]]
        if not kind or kind.partition(":")[0] not in {"class", "function", "method"}:
            return None
        return self._called(node, kind, keywords, given)

    def _called(self, node: ast.Call, kind: str, keywords: tuple[str, ...], given: list[str | None]) -> str | None:
        offered = self.surface.signatures(kind)
        fits = [returned for names, returned in offered
                if (set(keywords) <= set(names) and len(given) <= len(names)) or "args" in names]
        through_class = kind.endswith(".__init__")
        if offered and not fits and not through_class and not any(isinstance(arg, ast.Starred) for arg in node.args):
            what = f"with {', '.join(keywords)}" if keywords else f"with {len(given)} arguments"
            self._fault(node, f"{kind.partition(':')[2]} cannot be called {what}; it takes {[names for names, _ in offered]}")
        if kind.startswith("class:"):
            return f"inst:{kind.partition(':')[2]}"
        return self.surface.typed(fits[0]) if fits else "value"

    def _truth(self, test: ast.expr) -> bool | None:
        """What `test` is in this version, where feature tests alone decide it; walks what would be evaluated."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self._truth(test.operand)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            stop = isinstance(test.op, ast.Or)
            open_ = False
            for part in test.values:
                truth = self._truth(part)
                if truth is stop:
                    return stop
                open_ = open_ or truth is None
            return None if open_ else not stop
        if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "hasattr":
            owner = owner_of(self._value(test.args[0]))
            if owner and isinstance(test.args[1], ast.Constant):
                return self.surface.member(owner, test.args[1].value) is not None
        self._value(test)
        return None

    def _fault(self, node: ast.AST, text: str) -> None:
        self.found.faults.add(f"line {node.lineno}: {self.surface.version}: {text}")


def owner_of(kind: str | None) -> str | None:
    """The class (or the module) whose members an expression of this type has."""
    if kind == MODULE:
        return MODULE
    sort, _, name = (kind or "").partition(":")
    return name if sort in {"inst", "class"} else None


def element(kind: str | None) -> str | None:
    return kind.partition(":")[2] if (kind or "").startswith("list:") else None
