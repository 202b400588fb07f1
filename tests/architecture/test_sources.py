"""Rules of "The house" that import-linter cannot see. Each check is shown a copy of hatoba with a violation, too."""

import ast
import re

import pytest

FUNCTION_LINES = 80
FILE_LINES = 600
DOCSTRING_LINES = 6
# What begins a statement of SQL, in the capitals that db/ writes.
SQL = re.compile(
    r"\b(SELECT\s+\S|INSERT\s+INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|CREATE\s+(TABLE|INDEX|TRIGGER)|DROP\s+\w|"
    r"ALTER\s+TABLE\s|PRAGMA\s+\w|BEGIN\s+IMMEDIATE|ROLLBACK|VACUUM|WHERE\s+\w+\s*=)"
)
FORBIDDEN = {"helper", "helpers", "util", "utils", "common", "manager", "base", "info", "data"}
# package -> where it may be imported
PLACES = {
    "starlette": ("web/",),
    "fastapi": ("web/",),
    "jinja2": ("web/",),
    "apsw": ("db/sqlite.py",),
    "psycopg": ("db/postgres.py",),
    "obstore": ("blobs/object_store.py",),
    "granian": ("server.py", "workers.py"),
    "prometheus_client": ("web/exposition.py",),
    "sqlite3": (),
    "typer": ("cli/",),
    "bcrypt": ("auth/",),
    "pytest": ("testing/",),
}
# What a module may call while it is imported: makes a constant, a type or a declaration, and has no effect.
DECLARATIONS = {
    "TypeVar",
    "ParamSpec",
    "NewType",
    "re.compile",
    "frozenset",
    "tuple",
    "range",
    "timedelta",
    "datetime",
    "Decimal",
    "Path",
    "name.upper",
    "dict.fromkeys",
    "join",
    "Route",
    "Metric",
    "ImageConfig",  # frozen: the one that says nothing
    "BeforeValidator",
    "AfterValidator",
    "PlainValidator",
    "PlainSerializer",
    "main",  # __main__ alone, which is no import
    "typer.Argument",
    "typer.Option",
    "typer.Typer",  # to which decorators add commands; nothing runs before it is called
}


def functions(source):
    return [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def long_functions(sources):
    return [
        f"{source.name}: {node.name} has {length} lines"
        for source in sources
        for node in functions(source)
        if (length := node.end_lineno - node.lineno + 1) > FUNCTION_LINES
    ]


def long_files(sources):
    return [
        f"{source.name} has {length} lines"
        for source in sources
        if (length := len(source.text.splitlines())) > FILE_LINES
    ]


def undescribed(sources):
    """Modules without a docstring of one to six lines; drawings (indented) are not counted."""
    found = []
    for source in sources:
        lines = [line for line in (source.docstring or "").splitlines() if line and not line.startswith("    ")]
        if not 1 <= len(lines) <= DOCSTRING_LINES:
            found.append(f"{source.name} opens with {len(lines)} lines")
    return found


def sql_elsewhere(sources):
    found = []
    for source in sources:
        if source.within("db/", "testing/"):
            continue
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        found += [
            f"{source.name}:{node.lineno}: {node.value[:40]}"
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documentation
            and SQL.search(node.value)
        ]
    return found


def replacing_sql(sources):
    """INSERT OR REPLACE deletes rows silently, past triggers: tag_moves would not be append-only."""
    return [source.name for source in sources if re.search(r"\b(OR\s+REPLACE|REPLACE\s+INTO)\b", source.text)]


def misplaced_imports(sources):
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found += [
                f"{source.name}:{node.lineno} imports {name}"
                for name in sorted({name.partition(".")[0] for name in names} & set(PLACES))
                if not source.within(*PLACES[name])
            ]
    return found


def words(name):
    return {word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", part)}


def forbidden_names(sources):
    found = []
    for source in sources:
        parts = source.name.removesuffix(".py").split("/")
        if source.name != "web/v2/base.py" and any(words(part) & FORBIDDEN for part in parts):
            found.append(source.name)
        found += [
            f"{source.name}: class {node.name}"
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ClassDef) and words(node.name) & FORBIDDEN
        ]
    return found


def whole_settings(sources):
    """Who takes or imports the whole `Settings` though a section or plain values would do."""
    found = []
    for source in sources:
        if source.within("cli/", "config/", "wiring/", "server.py"):
            continue
        for node in ast.walk(source.tree):
            imported = isinstance(node, ast.ImportFrom) and any(alias.name == "Settings" for alias in node.names)
            reached = isinstance(node, ast.Attribute) and node.attr == "Settings"
            named = isinstance(node, ast.Name) and node.id == "Settings"
            if imported or reached or named:
                found.append(f"{source.name}:{node.lineno}")
    return found


def called(node):
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        value = called(node.value)
        return f"{value}.{node.attr}" if value else node.attr
    return ""


def at_import(node):
    """The calls that importing a module makes: those outside of functions; decorators and defaults included."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        inside = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
    elif isinstance(node, ast.ClassDef):
        return  # pydantic's fields and dataclasses: declarations, and test_importing looks at what they do
    else:
        inside = ast.iter_child_nodes(node)
        if isinstance(node, ast.Call):
            yield node
    for child in inside:
        yield from at_import(child)


def singletons(sources):
    """Things that come into being by importing."""
    return [
        f"{source.name}:{node.lineno} calls {called(node.func)}"
        for source in sources
        if not source.within("testing/")
        for node in at_import(source.tree)
        if called(node.func) not in DECLARATIONS
    ]


def globals_changed(sources):
    return [
        f"{source.name}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Global)
    ]


LONG = "\n".join(["def long():", *["    pass"] * FUNCTION_LINES])
RULES = {
    "functions are short": (long_functions, {"oci/digest.py": LONG}, "long has 81 lines"),
    "files are short": (long_files, {"oci/digest.py": "# line\n" * FILE_LINES}, "oci/digest.py has"),
    "modules say what they are": (undescribed, {"oci/extra.py": "import re"}, "oci/extra.py opens with 0"),
    "and say it briefly": (undescribed, {"oci/extra.py": '"""' + "Line.\n" * 7 + '"""'}, "oci/extra.py opens with 7"),
    "SQL is in db alone": (sql_elsewhere, {"registry/tags.py": 'Q = "SELECT name FROM tags"'}, "registry/tags.py:"),
    "SQL in pieces, too": (
        sql_elsewhere,
        {"operations/purge.py": "def q(t):\n    return f'DELETE FROM {t} WHERE id = 1'"},
        "operations/purge.py:",
    ),
    "a method name is no SQL": (
        sql_elsewhere,
        {"web/app.py": 'M = {"DELETE", "UPDATE"}; Q = "DROP TABLE tags"'},
        "DROP",
    ),
    "rows are not replaced": (replacing_sql, {"db/tags.py": 'Q = "INSERT OR REPLACE INTO tag_moves"'}, "db/tags.py"),
    "web frameworks are in web": (misplaced_imports, {"registry/tags.py": "from starlette import x"}, "starlette"),
    "apsw is in its file": (misplaced_imports, {"db/engine.py": "import apsw.ext"}, "db/engine.py"),
    "psycopg is in its file": (misplaced_imports, {"db/sqlite.py": "from psycopg import sql"}, "psycopg"),
    "obstore is in its file": (misplaced_imports, {"blobs/memory.py": "import obstore"}, "obstore"),
    "granian is in its file": (misplaced_imports, {"wiring/serving.py": "import granian.server"}, "granian"),
    "sqlite3 is nowhere": (misplaced_imports, {"db/sqlite.py": "import sqlite3"}, "sqlite3"),
    "imports in functions count": (misplaced_imports, {"oci/digest.py": "def f():\n    import jinja2"}, "jinja2"),
    "modules have names that say something": (forbidden_names, {"oci/utils.py": '"""X."""'}, "oci/utils.py"),
    "packages, too": (forbidden_names, {"common/digest.py": '"""X."""'}, "common/digest.py"),
    "classes, too": (forbidden_names, {"blobs/memory.py": "class BlobManager:\n    pass"}, "class BlobManager"),
    "one base is enough": (forbidden_names, {"web/base.py": '"""X."""'}, "web/base.py"),
    "sections, never all settings": (
        whole_settings,
        {"registry/tags.py": "from hatoba.config.settings import Settings"},
        "registry/tags.py",
    ),
    "nor by another way": (
        whole_settings,
        {"web/app.py": "from hatoba.config import settings\ndef f(s: settings.Settings) -> None: ..."},
        "web/app.py",
    ),
    "no singletons": (singletons, {"registry/tags.py": "TAGS = Tags(None, None)"}, "calls Tags"),
    "no log at import": (singletons, {"web/app.py": "log = structlog.get_logger('x')"}, "structlog.get_logger"),
    "no default that is one": (singletons, {"web/app.py": "def f(x=open('/dev/null')): ..."}, "calls open"),
    "no globals": (globals_changed, {"web/app.py": "def f():\n    global state"}, "web/app.py"),
}


@pytest.mark.parametrize("check", dict.fromkeys(rule[0] for rule in RULES.values()), ids=lambda check: check.__name__)
def test_hatoba_keeps_the_rule(sources, check):
    assert check(sources) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_violation_is_seen(planted, rule):
    check, plants, expected = RULES[rule]
    assert any(expected in finding for finding in check(planted(plants)))


def test_the_tests_keep_to_the_sizes_too(test_sources):
    assert long_functions(test_sources) == []
    assert long_files(test_sources) == []


def test_words_of_names():
    assert words("BlobManager") == {"blob", "manager"}
    assert words("_HTTPInfo") == {"http", "info"}
    assert words("database_rows") == {"database", "rows"}, "data is no word of database"
    assert words("base") == {"base"}
