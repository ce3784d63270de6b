"""From the text of a configuration to a `Config`, or to every problem it has, each with file and line.

Entries are judged one by one, so that a problem in one does not hide those in others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from .cross_checks import problems_between
from .schema import Auth, Block, Config, KeyEntry, ModelEntry, ProviderEntry, Server, State
from .source import Path, Problem, Source, read_source
from .words import did_you_mean, in_words, problems_of

_Block = TypeVar("_Block", bound=Block)


class ConfigError(Exception):
    """The configuration is refused. `problems`: one line each, `config.yaml:12: models[1].priority: must be ...`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Loaded:
    """`key_sources`: path of a token in `config` -> `$NAME` that it comes from; one that is written out is absent."""

    config: Config
    warnings: list[str] = field(default_factory=list)
    key_sources: Mapping[Path, str] = field(default_factory=dict)


def load(text: str, *, name: str, env: Mapping[str, str]) -> Loaded:
    """`name` stands before the line in messages. Raises ConfigError."""
    source = read_source(text, env)
    judge = _Judge(source)
    config = judge.read(source.data, env.get("AUTH_TOKEN")) if source.is_yaml else None
    if config is None or judge.problems:
        rows = sorted({(source.line_of(p.path), f"{in_words(p.path)}: {p.message}") for p in judge.problems})
        raise ConfigError([f"{name}:{line}: {words}" for line, words in rows])
    return Loaded(config, [f"{name}:{line}: {words}" for line, words in judge.warnings], judge.key_sources())


class _Judge:
    def __init__(self, source: Source) -> None:
        self.problems = list(source.problems)
        self.warnings: list[tuple[int, str]] = []
        self._source = source
        self._places: dict[Path, list[int]] = {("models",): [], ("auth", "keys"): []}  # of the result, in the file

    def read(self, data: Any, auth_token: str | None) -> Config | None:
        if not isinstance(data, dict):
            self.problems.append(Problem((), "must be a mapping with at least `models`"))
            return None
        for key in data.keys() - Config.model_fields.keys():
            self.problems.append(Problem((key,), "is not a known key" + did_you_mean(str(key), Config.model_fields)))
        names = _names_in(data)
        self._set_optional_aside(data)
        config = Config.model_construct(
            server=self._block(Server, ("server",), data.get("server", {})) or Server(),
            state=self._block(State, ("state",), data["state"]) if "state" in data else None,
            auth=self._auth(data, auth_token),
            providers=dict(self._providers(data.get("providers", {}))),
            models=self._models(data.get("models")),
        )
        for path, variable in self._source.unset.items():
            self.problems.append(Problem(path, f"needs the variable {variable}, which is not set"))
        for problem in problems_between(config, names):
            self.problems.append(Problem(self._place(problem.path), problem.message))
        return config

    def key_sources(self) -> dict[Path, str]:
        here = {
            (*parent, place): (*parent, i) for parent, places in self._places.items() for i, place in enumerate(places)
        }
        sources = {}
        for path, names in self._source.variables.items():
            entry = path[:-1]
            sources[(*here.get(entry, entry), path[-1])] = ", ".join(f"${name}" for name in names)
        return sources

    def _block(self, schema: type[_Block], path: Path, value: Any) -> _Block | None:
        try:
            return schema.model_validate(value)
        except ValidationError as error:
            found = [Problem((*path, *p.path), p.message) for p in problems_of(error, schema)]
            self.problems += [problem for problem in found if problem.path not in self._source.unset]
            return None

    def _auth(self, data: dict[str, Any], auth_token: str | None) -> Auth:
        if "auth" not in data:
            if auth_token is None:
                self.problems.append(Problem(("auth",), "is missing and AUTH_TOKEN is not set: callers need a key"))
            self._source.variables[("auth", "keys", 0, "token")] = ("AUTH_TOKEN",)
            data = {"auth": {"keys": [{"name": "default", "token": auth_token or "no key at all, but reported"}]}}
        auth = data["auth"]
        entries = auth.get("keys") if isinstance(auth, dict) else None
        if not isinstance(entries, list) or not entries or auth.keys() - {"keys"}:
            return self._block(Auth, ("auth",), auth) or Auth.model_construct(keys=[])
        return Auth.model_construct(keys=self._list(KeyEntry, ("auth", "keys"), entries))

    def _providers(self, entries: Any) -> Iterator[tuple[str, ProviderEntry]]:
        if not isinstance(entries, dict):
            self.problems.append(Problem(("providers",), "must be a mapping of names to entries"))
            return
        for name, entry in entries.items():
            block = self._block(ProviderEntry, ("providers", str(name)), {} if entry is None else entry)
            if block:
                yield str(name), block

    def _models(self, entries: Any) -> list[ModelEntry]:
        if not isinstance(entries, list) or not entries:
            self.problems.append(Problem(("models",), "must be a list with at least one model"))
            return []
        if all(entry is _LEFT_OUT for entry in entries):
            self.problems.append(Problem(("models",), "are all optional, and none of them has its key"))
        return self._list(ModelEntry, ("models",), entries)

    def _list(self, schema: type[_Block], path: Path, entries: list[Any]) -> list[_Block]:
        blocks = []
        for place, entry in enumerate(entries):
            block = None if entry is _LEFT_OUT else self._block(schema, (*path, place), entry)
            if block:
                self._places[path].append(place)
                blocks.append(block)
        return blocks

    def _set_optional_aside(self, data: dict[str, Any]) -> None:
        """Leave out what is `optional` and whose token's variable is not set: models, and providers with theirs."""
        models, providers = data.get("models"), data.get("providers")
        entries = models if isinstance(models, list) else []
        blocks = providers if isinstance(providers, dict) else {}
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                continue
            provider = blocks.get(entry.get("provider"))
            path: Path = ("models", place) if "token" in entry else ("providers", str(entry.get("provider")))
            variable = self._source.unset.get((*path, "token"))
            if variable and (_is_optional(entry) or (path[0] == "providers" and _is_optional(provider))):
                self._leave_out(("models", place), f"{entry.get('name')} is left out: {variable} is not set")
                entries[place] = _LEFT_OUT
        still_used = {entry.get("provider") for entry in entries if isinstance(entry, dict)}
        for name in [name for name in blocks if ("providers", str(name), "token") in self._source.unset]:
            if _is_optional(blocks[name]) or name not in still_used:
                self._leave_out(("providers", str(name)), "")
                del blocks[name]

    def _leave_out(self, path: Path, warning: str) -> None:
        if warning:
            self.warnings.append((self._source.line_of(path), warning))
        for inner in [inner for inner in self._source.unset if inner[: len(path)] == path]:
            del self._source.unset[inner]

    def _place(self, path: Path) -> Path:
        for parent, places in self._places.items():
            index = path[len(parent)] if len(path) > len(parent) else None
            if path[: len(parent)] == parent and isinstance(index, int):
                return (*parent, places[index], *path[len(parent) + 1 :])
        return path


_LEFT_OUT: Any = object()


def _is_optional(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("optional") is True


def _names_in(data: dict[str, Any]) -> set[str]:
    """Every name and alias that a `fallbacks` or a key's `models` may refer to, however wrong the entry may be."""
    names: set[str] = set()
    models = data.get("models")
    for entry in models if isinstance(models, list) else []:
        if isinstance(entry, dict):
            aliases = entry.get("aliases")
            names |= {str(entry.get("name")), *(map(str, aliases) if isinstance(aliases, list) else ())}
    return names
