"""Where a program may run what it reads, or give text to a shell: found by the names it uses.

Names are followed through the imports of the file, so that `from torch import load as l` hides
nothing. What a program puts together as text (getattr with a name, importlib) is not found.
"""

import ast
import re

_PYTHON_IN_SHELL = re.compile(
    r"\bpython[\d.]* -c (?P<quote>['\"])(?P<line>.*?)(?P=quote)"
    r"|\bpython[\d.]* (?!-m )[^\n]*<< *'?(?P<end>\w+)'?\n(?P<lines>.*?)\n(?P=end)\n",
    re.DOTALL,
)
_PICKLES = "_?pickle|cloudpickle|dill|joblib|marshal|shelve|runpy|read_pickle|Unpickler"
_FORBIDDEN = {
    re.compile(pattern): reason
    for pattern, reason in (
        (rf"(?!pickle\.UnpicklingError$)(.+\.)?({_PICKLES})(\..+)?", "runs code"),
        (r"(builtins\.)?(eval|exec|__import__)", "runs text"),
        (r"os\.(system|popen)|subprocess\.get(status)?output", "runs a shell"),
        (r"(.+\.)?(create_subprocess_shell|subprocess_shell)", "runs a shell"),
        (r"torch\.(.+\.load\w*|package(\..+)?)", "runs code"),
        (r"numpy\.(.+\.load|(.+\.)?NpzFile)", "can run code"),
        (r"yaml\.(.+\.)?(?!safe_)(\w+_load|(\w+_)?load_all)", "builds objects"),
        (r"yaml\.(.+\.)?(?!C?Safe)\w*(Loader|Constructor)", "builds objects"),
        (r"ray\.(.+\.)?(restore\w*|from_path|ExperimentAnalysis)", "unpickles what a run left"),
        # Under another name a module's functions would not be found.
        (r"builtins|numpy|os|subprocess|torch|yaml", "is given away as a value"),
    )
}
_KEYWORDS = {"weights_only": True, "allow_pickle": False, "shell": False}
"""What a keyword must be wherever it is given, whatever is called."""
_ONLY_WITH = {
    "torch.load": "weights_only",
    "numpy.load": "allow_pickle",
    "numpy.lib.format.read_array": "allow_pickle",
    "yaml.load": "Loader",
}
"""Functions that are harmless where they are called with this keyword, and nowhere else."""
_STARTERS = re.compile(r"subprocess\.(run|Popen|call|check_call|check_output)")


def dangers(source: str) -> list[str]:
    """One line for each place, as '7: torch.load without weights_only=True'."""
    search = _Search(ast.parse(source))
    return [f"{line}: {problem}" for line, problem in sorted(search.found)]


def python_in_shell(script: str) -> list[str]:
    """The programs that a shell script gives to python, after -c or as a here-document."""
    return [match["line"] or match["lines"] for match in _PYTHON_IN_SHELL.finditer(script)]


class _Search(ast.NodeVisitor):
    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[int, str]] = []
        self._imported: dict[str, str] = {}
        self._safe_loaders = {"yaml.SafeLoader", "yaml.CSafeLoader"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self._imported.update(
                    {name.asname: name.name for name in node.names if name.asname}
                )
            elif isinstance(node, ast.ImportFrom):
                for name in node.names:
                    self._imported[name.asname or name.name] = f"{node.module}.{name.name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.bases:
                bases = {self._full_name(base) for base in node.bases}
                if bases <= self._safe_loaders:
                    self._safe_loaders.add(node.name)
        self.visit(tree)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            # pickle is imported for UnpicklingError; every other use of it is found by itself.
            if name.name != "pickle" and re.search(rf"(^|\.)({_PICKLES})$", name.name):
                self._judge(node, name.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for name in node.names:
            if name.name == "*":
                self.found.append((node.lineno, f"{node.module}: * hides what is imported"))
            self._judge(node, f"{node.module}.{name.name}")

    def visit_Name(self, node: ast.Name) -> None:
        self._judge(node, self._full_name(node))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._judge(node, self._full_name(node))
        base = node.value
        while isinstance(base, ast.Attribute):
            base = base.value
        if not isinstance(base, ast.Name):
            self.visit(base)

    def visit_Call(self, node: ast.Call) -> None:
        name = self._full_name(node.func)
        problem = self._problem_of_call(name, node)
        if problem:
            self.found.append((node.lineno, problem))
        if name in _ONLY_WITH:
            for argument in (*node.args, *node.keywords):
                self.visit(argument)
        else:
            self.generic_visit(node)

    def _problem_of_call(self, name: str, call: ast.Call) -> str | None:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        needed = _ONLY_WITH.get(name)
        for keyword, wanted in _KEYWORDS.items():
            value = given.get(keyword)
            is_wanted = isinstance(value, ast.Constant) and value.value is wanted
            if not is_wanted and (keyword in given or keyword == needed):
                return f"{name} without {keyword}={wanted}"
        if needed == "Loader" and self._full_name(given.get("Loader")) not in self._safe_loaders:
            return f"{name} without a safe loader"
        if _STARTERS.fullmatch(name):
            positional = [*call.args[1:], *(a for a in call.args if isinstance(a, ast.Starred))]
            if positional or None in given:
                return f"{name} with arguments whose names are not seen: shell may be among them"
        return None

    def _judge(self, node: ast.expr | ast.stmt, name: str) -> None:
        """Note what is wrong with a name where it stands, if anything."""
        for pattern, reason in _FORBIDDEN.items():
            if pattern.fullmatch(name):
                self.found.append((node.lineno, f"{name} {reason}"))
        if name in _ONLY_WITH:
            self.found.append((node.lineno, f"{name} is not called here, with its arguments"))

    def _full_name(self, node: ast.expr | None) -> str:
        """The dotted name from its module on; '?' stands for what an expression gives."""
        if isinstance(node, ast.Name):
            return self._imported.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self._full_name(node.value)}.{node.attr}"
        return "?"
